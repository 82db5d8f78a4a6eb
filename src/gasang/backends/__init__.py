"""The host's terminal and standard streams."""
