"""For all tests: those that take a minute or more run only if asked for."""

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
