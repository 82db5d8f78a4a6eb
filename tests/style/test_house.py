"""The rules of the house that a machine can hold: floors, sizes, names, where unsafe code may be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = {
    "gasang-x86": set(),
    "gasang-memory": set(),
    "gasang-chipset": set(),
    "gasang-cpu": {"gasang-x86", "gasang-memory"},
    "gasang-exec": {"gasang-x86", "gasang-memory", "gasang-cpu"},
    "gasang-translate": {"gasang-x86", "gasang-memory", "gasang-cpu", "gasang-exec"},
    "gasang-vm": {
        "gasang-x86",
        "gasang-memory",
        "gasang-cpu",
        "gasang-chipset",
        "gasang-exec",
        "gasang-translate",
    },
    "gasang-python": {"gasang-vm"},
}
"""What each crate of the engine may use of the others."""

UNSAFE = {"memory", "exec", "translate"}
"""Folders of the engine that may hold unsafe code; the Python face's is PyO3's own."""

LINES = {".rs": 800, ".py": 600}
"""Past so many lines a file says at its top why it is so long."""

DRAWERS = {"utils", "util", "common", "helpers", "misc", "manager"}


def _tracked() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file():
            yield path


def _sources(*suffixes: str) -> list[Path]:
    return [path for path in _tracked() if path.suffix in suffixes]


def test_crates_use_only_floors_below_them():
    command = ["cargo", "metadata", "--format-version=1", "--no-deps", "--offline"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    packages = {package["name"]: package for package in metadata["packages"]}
    for crate, allowed in FLOORS.items():
        dependencies = packages[crate]["dependencies"]
        used = {each["name"] for each in dependencies if each["kind"] != "dev"}
        assert {name for name in used if name.startswith("gasang-")} <= allowed, crate
    engine = {path.parent.name for path in (ROOT / "engine").glob("*/Cargo.toml")}
    assert engine == {name.removeprefix("gasang-") for name in FLOORS}, "a crate that is on no floor"


def test_only_the_python_face_knows_python():
    for manifest in (ROOT / "engine").glob("*/Cargo.toml"):
        uses = re.search(r"^pyo3", manifest.read_text(), re.MULTILINE) is not None
        assert uses == (manifest.parent.name == "python"), manifest


def test_python_floors_hold():
    linter = Path(sys.executable).parent / "lint-imports"
    if not linter.exists():
        pytest.skip("import-linter is not installed; `make test` installs it")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_unsafe_code_is_where_it_may_be():
    for folder in (ROOT / "engine").iterdir():
        if folder.name in UNSAFE or not folder.is_dir():
            continue
        for source in (folder / "src").rglob("*.rs"):
            assert not re.search(r"\bunsafe\s*(\{|fn|impl|extern)", source.read_text()), source


def test_every_unsafe_block_says_why_it_is_sound():
    for folder in UNSAFE:
        for source in (ROOT / "engine" / folder / "src").rglob("*.rs"):
            lines = source.read_text().splitlines()
            for number, line in enumerate(lines):
                if re.search(r"(^|[^/\"`])\bunsafe (\{|impl)", line):
                    above = "\n".join(lines[max(0, number - 12) : number])
                    assert "SAFETY" in above, f"{source}:{number + 1}"


@pytest.mark.parametrize("area", ["engine", "src/gasang"])
def test_every_folder_says_what_it_is_and_may_not_import(area):
    for folder in sorted((ROOT / area).iterdir()):
        if folder.is_dir() and not folder.name.startswith((".", "__")):
            text = (folder / "README.md").read_text()
            assert 3 <= len(text.splitlines()) <= 12, folder
            assert "import" in text, f"{folder} does not say what it may import"


def test_long_files_give_a_reason():
    for source in _sources(*LINES):
        lines = source.read_text().splitlines()
        if len(lines) > LINES[source.suffix]:
            assert any("lines" in line for line in lines[:25]), (
                f"{source} has {len(lines)} lines and no reason"
            )


def test_no_drawers():
    for source in _sources(".rs", ".py", ".c", ".h"):
        parts = set(source.relative_to(ROOT).with_suffix("").parts)
        assert not parts & DRAWERS, source


def test_nothing_names_the_machine_it_was_written_on():
    place = re.compile(r"/(work|root)/(main|shared|\.library|\.pyenv|\.cargo)|/tmp/(target|venv|lead)")
    for source in _sources(
        ".rs", ".py", ".md", ".toml", ".c", ".h", ".S", ".sh", ".json", ".pyi", ".svg", ".txt"
    ):
        if source != Path(__file__):
            found = place.search(source.read_text())
            assert found is None, f"{source}: {found}"
