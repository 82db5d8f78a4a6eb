"""The benchmarks' programs: each row has one, and it comes to its answer here."""

import re
import subprocess

import pytest
from rows import SETS
from user import PROGRAMS, compile_program

NAMES = [*(name for rows in SETS.values() for name in rows), "parallel"]


def test_every_program_is_a_row():
    assert sorted(path.stem for path in PROGRAMS.glob("*.c")) == sorted([*NAMES, "init"])


@pytest.mark.parametrize("name", NAMES)
def test_a_program_comes_to_its_answer(name, tmp_path):
    compile_program(name, tmp_path)
    done = subprocess.run([tmp_path / name, "1"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(rf"start {name}\nresult {name} [\d.]+ [\d.]+ 1\n$|skip {name} ", done.stdout)


def test_a_wrong_answer_is_told(tmp_path):
    source = tmp_path / "wrong.c"
    source.write_text(
        f'#include "{PROGRAMS}/measure.h"\n'
        "static uint64_t work(void) { return 1; }\n"
        'int main(int argc, char **argv) { return measure("wrong", work, 2, 1, argc, argv); }\n'
    )
    compile_program("wrong", tmp_path, source)
    done = subprocess.run([tmp_path / "wrong"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "wrong wrong 0x1, not 0x2"
