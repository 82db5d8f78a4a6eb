"""`python -m gasang` is `gasang`."""

import sys

from gasang.cli import main

sys.exit(main())
