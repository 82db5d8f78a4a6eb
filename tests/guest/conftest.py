"""Guest programs, built once each; `guest_programs` is in guests/."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "guests"))

from guest_programs import Builder, Program


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Builds a program, or gives what was built before."""
    if missing := [tool for tool in ("gcc", "ld", "objcopy") if shutil.which(tool) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    builder = Builder(tmp_path_factory.mktemp("guests"))
    files: dict[str, Path] = {}

    def build(program: Program) -> Path:
        if program.name not in files:
            files[program.name] = builder.build(program)
        return files[program.name]

    return build
