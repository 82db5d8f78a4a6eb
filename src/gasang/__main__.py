"""The process `gasang`, which `python -m gasang` is too."""

import gc
import sys

_COLLECT_EVERY = 100_000
"""Objects more than before. What is loaded at the start is no garbage, and a short command ends before there
is much: to look for it took a tenth of its time."""


def main() -> int:
    """Run the command line; return the exit code."""
    gc.set_threshold(_COLLECT_EVERY)
    from gasang.cli import main as run  # noqa: PLC0415 - after the above

    try:
        return run()
    finally:
        gc.freeze()  # The end of the process is the end of all that, too.


if __name__ == "__main__":
    sys.exit(main())
