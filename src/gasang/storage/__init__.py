"""Disk images."""

from gasang.storage.image import Image
from gasang.storage.open import open_image

__all__ = ["Image", "open_image"]
