"""Root filesystems of guests, made of container images and archives."""
