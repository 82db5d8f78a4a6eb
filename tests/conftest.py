"""For all tests: those that take a minute or more run only if asked for; programs for guests."""

import shutil
import subprocess

import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take a minute or more, too")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes a minute or more; runs only with --slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(scope="session")
def compile_for_linux(tmp_path_factory):
    """Compiles a C file to a program for any Linux, and gives its bytes."""

    def compile(source):
        if shutil.which("gcc") is None:
            pytest.skip("gcc is not installed")
        program = tmp_path_factory.mktemp(source.stem) / source.stem
        warnings = ("-Wall", "-Wextra", "-Werror")
        subprocess.run(("gcc", "-O1", *warnings, "-static", "-pthread", "-o", program, source), check=True)
        return program.read_bytes()

    return compile
