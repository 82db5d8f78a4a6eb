"""The devices of the PC that are not hot enough for the engine."""
