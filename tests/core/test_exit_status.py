"""Endings: which deaths of a candidate say something about its configuration."""

import pytest

from entrypoint.core.exit_status import is_transient

RESOLVE = "[ALERT]    (7) : config : [/x.cfg:5] : 'server l/s' : could not resolve address 'no.such'.\n"
PARSING = "[ALERT]    (7) : config : parsing [/x.cfg:9] : unknown keyword 'x' in 'global' section\n"
IN_VAIN = "[ALERT]    (7) : config : Failed to initialize server(s) addr.\n"


@pytest.mark.parametrize("number", [1, 2, 3, 9, 13, 15, 24])
def test_a_death_by_an_outside_signal_may_be_retried(number: int) -> None:
    """Somebody sent it, or the kernel for lack of memory."""
    assert is_transient(-number, "")


@pytest.mark.parametrize("number", [4, 5, 6, 7, 8, 11, 31])
def test_a_crash_is_blamed_on_the_configuration(number: int) -> None:
    """SIGSEGV and its kind come from within, unless haproxy says that it has no memory."""
    assert not is_transient(-number, "")
    assert not is_transient(-number, PARSING)
    assert is_transient(-number, "[ALERT]    (7) : failed to allocate resources for thread 0.\n")


@pytest.mark.parametrize("status", [126, 127])
def test_a_haproxy_that_could_not_be_loaded_has_read_no_configuration(status: int) -> None:
    """The loader has no memory, or a package is being replaced: haproxy itself has printed nothing."""
    loader = "haproxy: error while loading shared libraries: libz.so.1: failed to map segment from shared object\n"
    assert is_transient(status, loader)
    assert is_transient(status, "")
    assert not is_transient(status, PARSING)


@pytest.mark.parametrize(
    ("words", "transient"),
    [
        (RESOLVE + IN_VAIN, True),
        (
            "[ALERT] (7) : parsing [/x:1] : 'bind' : could not resolve address 'no.such' in 'no.such:80'\n" + IN_VAIN,
            True,
        ),
        ("[ALERT] (7) : Starting proxy l: cannot bind socket (Address already in use) for [:80]\n", True),
        ("[ALERT] (7) : Cannot allocate memory.\n", True),
        ("[ALERT] (7) : stats: cannot allocate all fields for proxy statistics\n", True),
        ("[ALERT] (7) : socketpair: Cannot transfer the fd 6 over sockpair@24. Giving up.\n", True),
        ("[ALERT] (7) : Failed to get the sockets from the old process!\n", True),
        (PARSING, False),
        (PARSING.replace("x.cfg", "allocate.cfg"), False),
        (PARSING.replace("'x'", "'allocate'"), False),
        (RESOLVE + PARSING, False),
        ("[WARNING] (7) : could not resolve address 'x', disabling server.\n" + PARSING, False),
        ("[WARNING] (7) : could not resolve address 'x', disabling server.\n", False),
        (IN_VAIN, False),
        ("", False),
    ],
)
def test_haproxy_says_why_it_refuses(words: str, transient: bool) -> None:
    """An error in a configuration names its place, and then nothing else counts."""
    assert is_transient(1, words) == transient


def test_an_exit_with_status_0_before_ready_was_requested() -> None:
    """No configuration makes haproxy do that."""
    assert is_transient(0, "")
