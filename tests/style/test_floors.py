"""The plan of the house holds: floors, where unsafe code may be, names, sizes, a README in every folder."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ENGINE = ("x86", "memory", "cpu", "vmx", "chipset", "exec", "translate", "kvm", "network", "vm", "python")
USES = {
    "x86": set(),
    "memory": set(),
    "cpu": {"x86", "memory"},
    "vmx": {"x86", "memory", "cpu"},
    "chipset": set(),
    "exec": {"x86", "memory", "cpu", "vmx"},
    "translate": {"x86", "memory", "cpu", "vmx", "exec"},
    "kvm": {"x86", "memory", "cpu", "chipset"},
    "network": set(),
    "vm": {"x86", "memory", "cpu", "vmx", "chipset", "exec", "translate", "kvm"},
    "python": {"network", "vm"},
}
"""The engine's floors: what each crate may use of the others (ARCHITECTURE.md)."""

UNSAFE = (
    "engine/memory/src/",
    "engine/exec/src/stub/",
    "engine/exec/src/host_",
    "engine/exec/src/direct/arithmetic.rs",
    "engine/translate/src/",
    "engine/kvm/src/",
    "engine/python/src/memory.rs",
)
"""Where unsafe code may be: RAM, execution on the host, the code cache, and Python's buffer protocol."""

LIMITS = {".rs": 800, ".py": 600}
"""Lines of a file, unless it says at its top why it is one file."""

DRAWERS = {"util", "utils", "common", "helper", "helpers", "manager", "misc"}
FOLDERS = [
    *(ROOT / "engine" / crate for crate in ENGINE),
    *sorted(path.parent for path in (ROOT / "src/gasang").glob("*/__init__.py")),
    ROOT / "guests",
]
BUILT = {"target", "__pycache__", "node_modules", "dist", "build"}


def files(*suffixes):
    """The tree's own text files, without what is built."""
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        hidden = any(part in BUILT or (part.startswith(".") and part != ".ci") for part in relative.parts)
        if not hidden and path.is_file() and (not suffixes or path.suffix in suffixes):
            yield relative


def code_lines(path):
    """A Rust file without comments and strings, roughly: whole-line comments and what follows //."""
    for line in (ROOT / path).read_text().splitlines():
        yield re.sub(r'"(?:\\.|[^"\\])*"', '""', line).partition("//")[0]


@pytest.mark.skipif(shutil.which("cargo") is None, reason="cargo is not installed")
def test_crates_use_only_floors_below():
    command = ("cargo", "metadata", "--format-version", "1", "--no-deps", "--offline")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    packages = {each["name"]: each["dependencies"] for each in json.loads(done.stdout)["packages"]}
    found = {
        crate: {
            each["name"].removeprefix("gasang-") for each in packages[f"gasang-{crate}"] if not each["kind"]
        }
        & set(ENGINE)
        for crate in ENGINE
    }
    for crate in ENGINE:
        assert found[crate] <= USES[crate], f"{crate} uses a floor that it may not"
    assert {path.name for path in (ROOT / "engine").iterdir() if path.is_dir()} == set(ENGINE)


def test_packages_use_only_floors_below():
    linter = shutil.which("lint-imports", path=Path(sys.executable).parent)
    if linter is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout


def test_engine_is_imported_by_the_machine_and_vmx_only():
    importing = {
        str(path)
        for path in files(".py")
        if path.parts[:2] == ("src", "gasang")
        and re.search(r"^ *(from|import) .*\b_engine\b", (ROOT / path).read_text(), re.MULTILINE)
    }
    allowed = {path for path in importing if path.startswith(("src/gasang/machine/", "src/gasang/vmx/"))}
    assert importing - allowed == {"src/gasang/cli/doctor.py"}


def test_unsafe_code_is_where_it_may_be():
    outside = {
        str(path)
        for path in files(".rs")
        if path.parts[0] == "engine"
        and "tests" not in path.parts
        and not str(path).startswith(UNSAFE)
        and any(re.search(r"\bunsafe\b", line) for line in code_lines(path))
    }
    assert outside == set()


def test_every_unsafe_block_says_why_it_is_sound():
    for path in files(".rs"):
        lines = (ROOT / path).read_text().splitlines()
        for number, line in enumerate(code_lines(path)):
            if re.search(r"\bunsafe (\{|impl\b)", line):
                before = "\n".join(lines[max(0, number - 12) : number + 1])
                assert "SAFETY:" in before, f"{path}:{number + 1}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folder_has_a_short_readme(folder):
    text = (folder / "README.md").read_text()
    assert 4 <= len(text.splitlines()) <= 8
    assert re.search(r"[Mm]ay (not )?(import|use)|[Mm]ay import|imports? nothing", text), (
        "what may it not import?"
    )


def test_files_are_of_readable_size():
    long = {}
    for path in files(*LIMITS):
        lines = (ROOT / path).read_text().splitlines()
        reason = any("one file" in line for line in lines[:20])
        if len(lines) > LIMITS[path.suffix] and not reason:
            long[str(path)] = len(lines)
    assert long == {}


def test_no_drawers():
    drawers = {str(path) for path in files() if DRAWERS & {part.split(".")[0].lower() for part in path.parts}}
    assert drawers == set()


def test_no_paths_of_our_machines():
    pattern = re.compile(
        r"(?<![\w.$~}/])/(work|home/\w+|root/\.(cargo|rustup|pyenv)|tmp/(venv|target|brief))\b"
    )
    wrong = {}
    for path in files():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found = sorted({match[0] for match in pattern.finditer(text)})
        if found and path != Path(__file__).relative_to(ROOT):
            wrong[str(path)] = found
    assert wrong == {}


def test_every_crate_inherits_the_lints():
    for crate in ENGINE:
        assert "[lints]\nworkspace = true" in (ROOT / "engine" / crate / "Cargo.toml").read_text()
