"""The README's tables are the program's."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()
_PROGRAM = "import sys; from gasang.cli import main; sys.exit(main())"
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def test_options_are_those_of_the_program():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "run", "--help"], capture_output=True, text=True, check=True
    )
    rows = re.findall(r"^  (-.*?)(?:  |$)", done.stdout, re.MULTILINE)
    offered = {option for row in rows for option in _OPTION.findall(row)} - {"-h", "--help"}
    table = README.split("| option | meaning")[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    described = {option for cell in cells for option in _OPTION.findall(cell)}
    assert described == offered
