"""Disk images."""

from typing import TYPE_CHECKING

from gasang.lazy import attributes

if TYPE_CHECKING:
    from gasang.storage.image import Image
    from gasang.storage.open import open_image

__all__ = ["Image", "open_image"]

__getattr__ = attributes(__name__, {"Image": "image", "open_image": "open"})
