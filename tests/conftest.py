"""What all tests share: the options of the command line and the names of the markers."""

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the conformity suites be pointed at others."""
    parser.addoption(
        "--init",
        default=None,
        metavar="CMD WORDS",
        help="the init that tests/system/test_generic.py holds to tini's contract (default: this project's)",
    )
    parser.addoption(
        "--master",
        default="safe_reload",
        choices=("safe_reload", "haproxy"),
        help="the master of haproxy that tests/container/test_masters.py asks (default: safe_reload)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, so that a misspelt one is an error, and let signals mean what they mean.

    Under nohup, or behind a script's `&`, SIGHUP, SIGINT and SIGQUIT are ignored, by all that the tests start as well.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for marker in (
        "ours_is_better(reason): safe_reload deliberately does more than tini here; other inits are skipped",
        "tini_only(reason): safe_reload deliberately does something else here; it is skipped",
    ):
        config.addinivalue_line("markers", marker)
