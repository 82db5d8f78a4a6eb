"""Builds gasang's packages as maturin does, and before that the guest's agent, which goes into them as data.

As a program, it builds the agent alone.
"""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = HERE.parents[1] / "src/gasang/guest/gasang-agent"
TARGET = "x86_64-unknown-linux-gnu"


def build_agent():
    """Build the agent, static, to where the package has it."""
    environment = {name: value for name, value in os.environ.items() if name != "RUSTFLAGS"}
    target = HERE / "target"
    command = ("cargo", "build", "--release", "--quiet", "--locked", "--target-dir", str(target))
    subprocess.run(command, cwd=HERE, env=environment, check=True)
    partial = PROGRAM.with_name(f"{PROGRAM.name}.{os.getpid()}")
    shutil.copy(target / TARGET / "release" / PROGRAM.name, partial)
    partial.chmod(0o755)
    partial.replace(PROGRAM)


def _maturin():
    import maturin  # noqa: PLC0415 - who builds the agent alone need not have it

    return maturin


def get_requires_for_build_wheel(config_settings=None):
    return _maturin().get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings=None):
    return _maturin().get_requires_for_build_editable(config_settings)


def get_requires_for_build_sdist(config_settings=None):
    return _maturin().get_requires_for_build_sdist(config_settings)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    return _maturin().prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    build_agent()
    return _maturin().build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    build_agent()
    return _maturin().build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    return _maturin().build_sdist(sdist_directory, config_settings)


if __name__ == "__main__":
    build_agent()
