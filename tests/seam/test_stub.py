"""`_engine.pyi` says what the binary has."""

import subprocess
import sys


def test_stub_and_binary_agree():
    command = [sys.executable, "-m", "mypy.stubtest", "gasang._engine"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
