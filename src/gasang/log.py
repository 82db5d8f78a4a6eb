"""What the library logs, under the name "gasang": for whom has set logging up, else on stderr."""

from __future__ import annotations


def warn(message: str, *values: object) -> None:
    """Log a warning; `values` are for the places in the message."""
    import logging  # noqa: PLC0415 - slow to load, and rarely needed

    logging.getLogger("gasang").warning(message, *values, stacklevel=2)
