"""The keys of TLS session tickets: what haproxy is given, and what a rotation does to it."""

import base64
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoint.system.ticket_keys import ROTATE_AFTER, TicketKeys
from tests.descriptors import descriptors
from tests.system.instance import CONFIGURATION, Begin, Instance
from tests.waiting import eventually


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        """Begin at some time."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close what a test has left open."""
    before = descriptors(os.getpid())
    yield
    for descriptor, what in descriptors(os.getpid()).items():
        if descriptor not in before and "tls-ticket-keys" in what:
            os.close(descriptor)


def lines(descriptor: int) -> list[str]:
    """Return the keys as haproxy reads them."""
    return Path(f"/dev/fd/{descriptor}").read_text(encoding="ascii").splitlines()


def test_haproxy_is_given_three_keys_of_eighty_bytes() -> None:
    """A key a line, all different; each reader begins at the beginning, however many have read before."""
    keys = TicketKeys().of_a_candidate()
    for _ in range(3):
        found = [base64.b64decode(line, validate=True) for line in lines(keys)]
        assert [len(key) for key in found] == [80, 80, 80]
        assert len({key[:16] for key in found}) == 3
    assert lines(TicketKeys().of_a_candidate()) != lines(keys)


def test_nobody_can_change_them_and_nobody_else_can_read_them() -> None:
    """A haproxy that was broken into cannot choose the keys of its successors; only our user opens them by /proc."""
    keys = TicketKeys().of_a_candidate()
    assert stat.S_IMODE(os.fstat(keys).st_mode) == 0o400
    assert os.fstat(keys).st_uid == os.geteuid()
    assert not os.get_inheritable(keys)
    for change in (lambda: os.pwrite(keys, b"x", 0), lambda: os.ftruncate(keys, 0), lambda: os.ftruncate(keys, 4096)):
        with pytest.raises(PermissionError):
            change()


def test_every_generation_has_the_same_keys_until_they_are_old(clock: Clock) -> None:
    """However many reloads there are."""
    keys = TicketKeys(clock=clock)
    first = lines(keys.of_a_candidate())
    clock.now += ROTATE_AFTER - 1
    for _ in range(3):
        assert lines(keys.of_a_candidate()) == first
        keys.promoted()


def test_a_rotation_makes_one_key_new_and_forgets_the_oldest(clock: Clock) -> None:
    """The second encrypts: the older generation can decrypt the newer one's tickets, and the newer one the older's."""
    keys = TicketKeys(clock=clock)
    before = lines(keys.of_a_candidate())
    open_ones = len(descriptors(os.getpid()))
    for _ in range(4):
        clock.now += ROTATE_AFTER
        after = lines(keys.of_a_candidate())
        keys.promoted()
        assert after[:2] == before[1:]
        assert after[2] not in before
        assert lines(keys.of_a_candidate()) == after
        before = after
    assert len(descriptors(os.getpid())) == open_ones


def test_candidates_that_fail_do_not_use_up_the_keys(clock: Clock) -> None:
    """What the current generation encrypts with is decrypted by its successor, also after weeks of failed reloads."""
    keys = TicketKeys(clock=clock)
    current = lines(keys.of_a_candidate())
    keys.promoted()
    found = []
    for _ in range(5):
        clock.now += ROTATE_AFTER
        found.append(lines(keys.of_a_candidate()))
    assert found == [found[0]] * 5
    assert found[0][:2] == current[1:]


def test_the_next_program_goes_on_with_the_same_keys_and_their_age(clock: Clock) -> None:
    """Nothing is made anew by an upgrade, also if a candidate with newer keys has failed before it."""
    keys = TicketKeys(clock=clock)
    first = lines(keys.of_a_candidate())
    clock.now += ROTATE_AFTER
    keys.of_a_candidate()
    descriptor, made = keys.current
    os.set_inheritable(descriptor, True)
    restored = TicketKeys((descriptor, made), clock)
    assert not os.get_inheritable(descriptor)
    assert lines(restored.current[0]) == first
    assert lines(restored.of_a_candidate())[:2] == first[1:]


def keys_of(lb: Instance, number: int) -> list[str]:
    """Wait until a generation is current; return the keys that its haproxy was given."""
    lb.becomes_current(number)
    (pid,) = [one["pid"] for one in lb.status()["generations"] if one["number"] == number]
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    (path,) = [word.partition("=")[2] for word in environment if word.startswith("SAFE_RELOAD_TLS_TICKET_KEYS=")]
    return Path(path.replace("/dev/fd", f"/proc/{pid}/fd")).read_text().splitlines()


def test_only_a_generation_that_serves_moves_the_keys_on(begin: Begin) -> None:
    """Where keys are always too old, each reload rotates them once, however many have failed before it."""
    lb = begin("--watch", "off", code="import entrypoint.system.ticket_keys as keys\nkeys.ROTATE_AFTER = 0.0")
    first = keys_of(lb, 1)
    lb.signal(signal.SIGUSR1)
    second = keys_of(lb, 2)
    assert second[:2] == first[1:]
    lb.edit("nonsense\n")
    for number in (3, 4):
        lb.signal(signal.SIGUSR1)
        eventually(lambda number=number: lb.log.count("has failed") == number - 2)  # type: ignore[misc]
    lb.edit(CONFIGURATION)
    lb.signal(signal.SIGUSR1)
    fifth = keys_of(lb, 5)
    assert fifth[:2] == second[1:]
    assert fifth[2] not in second
