"""The configurations that generations are given, and what is remembered of them."""

import os

import pytest

from entrypoint.core.look import Found
from entrypoint.pid1.configurations import Configurations
from entrypoint.system.state_file import for_haproxy, in_memory
from tests.descriptors import descriptors

DIGEST = "ab" * 32


@pytest.mark.parametrize("name", ["x" * 255, "\u00e4" * 127, "a" + "\u00e4" * 127, "\udcff" * 255, ""], ids=ascii)
def test_a_file_of_any_name_can_be_given_from_memory(name: str) -> None:
    """As long as a file's name may be, which is longer than the name of a memory file may."""
    texts = in_memory(DIGEST, ((f"/etc/{name}", b"global\n"),))
    (descriptor,) = for_haproxy(texts)
    try:
        assert os.read(descriptor, 100) == b"global\n"
    finally:
        os.close(descriptor)
        os.close(texts)


def test_only_what_may_be_started_or_kept_is_remembered() -> None:
    """Generations that drain need no configuration, however many there are: two descriptors are all that stay."""
    configurations = Configurations(lambda _: None, watches=True)
    before = len(descriptors(os.getpid()))
    for number in range(1, 20):
        texts = in_memory(DIGEST, (("/a.cfg", b"global\n"),))
        configurations.give(number, Found(DIGEST), texts)
        os.close(texts)
        copy = configurations.keep(number)
        assert copy is not None
        os.close(copy)
        configurations.retain([number])

        assert configurations.given(number - 1) is None
        assert len(descriptors(os.getpid())) == before + 2
    left, passed = configurations.serialize()
    assert sorted(passed) == sorted([left["kept"], left["given"][19][1]])
    for descriptor in passed:
        os.close(descriptor)


def test_keys_that_are_shared_and_should_not_be_are_said_once() -> None:
    """However often the disk is looked at; and again after it was corrected and spoilt."""
    said: list[str] = []
    configurations = Configurations(lambda line: said.append(line.message), watches=False)
    for warning in ("", "a and b", "a and b", "", "a and b", "a and c"):
        configurations.take(Found(DIGEST, shared_ticket_keys=warning))
    assert said == ["a and b", "a and b", "a and c"]


def test_what_a_look_could_not_finish_is_not_what_is_there() -> None:
    """The status goes on to show what was read last."""
    configurations = Configurations(lambda _: None, watches=True)
    configurations.take(Found(DIGEST, count=1, files=("/a.cfg",)))
    disk = configurations.take(Found(unreadable="it hangs", unfinished=True))
    assert (disk.digest, disk.unreadable, disk.unfinished) == ("", "it hangs", True)
    assert configurations.found.files == ("/a.cfg",)


def test_what_a_configuration_mentions_is_known_after_an_upgrade() -> None:
    """Of a generation's, and of the last known good one; before the first of them nothing is known."""
    configurations = Configurations(lambda _: None, watches=True)
    assert configurations.mentions(1, kept=False) is configurations.mentions(1, kept=True) is None
    texts = in_memory(DIGEST, (("/a.cfg", b"global\n"),))
    configurations.give(1, Found(DIGEST, mentions=("init-state",)), texts)
    os.close(texts)
    copy = configurations.keep(1)
    assert copy is not None
    os.close(copy)
    configurations.give(2, Found(DIGEST, mentions=()), None)
    configurations.give(3, Found(unreadable="no", mentions=()), None)
    saved, passed = configurations.serialize()
    after = Configurations(lambda _: None, watches=True)
    after.restore(saved)
    for one in (configurations, after):
        assert [one.mentions(number, kept=False) for number in (1, 2, 3)] == [("init-state",), (), None]
        assert one.mentions(3, kept=True) == ("init-state",)
    for descriptor in passed:
        os.close(descriptor)


def test_what_a_generation_has_taken_is_known_after_an_upgrade() -> None:
    """Its digest, and that it has taken a CA: before HAProxy 3.2.8 the next certificate is a reload then."""
    configurations = Configurations(lambda _: None, watches=True)
    for number, digest in ((1, DIGEST), (2, DIGEST)):
        texts = in_memory(digest, (("/a.cfg", b"global\n"),))
        configurations.give(number, Found(digest), texts)
        os.close(texts)
    texts = in_memory("cd" * 32, (("/a.cfg", b"global\n"),))
    configurations.applied(2, "cd" * 32, texts, has_authorities=True)
    configurations.applied(3, "cd" * 32, texts, has_authorities=True)
    os.close(texts)
    saved, passed = configurations.serialize()
    after = Configurations(lambda _: None, watches=True)
    after.restore(saved)
    one, two = after.given(1), after.given(2)
    assert one
    assert two
    assert (one.digest, one.has_authorities) == (DIGEST, False)
    assert (two.digest, two.has_authorities) == ("cd" * 32, True)
    assert after.given(3) is None
    for descriptor in passed:
        os.close(descriptor)
