"""The load client tells failures apart, and a failure is excused only by a death in its lifetime."""

import pytest

from tests.container import client
from tests.container.conftest import NEWEST_STABLE, Start
from tests.container.trouble import Crowd, Death, Ends

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (WHOLE, "ok"),
        (WHOLE[:-1], client.CUT),
        (b"", client.CUT),
        (WHOLE[:20], client.CUT),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", client.BAD),
    ],
)
def test_only_a_whole_200_is_an_answer(answer: bytes, kind: str) -> None:
    """A connection that ends early, or with another status, has failed."""
    assert client.kind_of(answer) == kind


@pytest.mark.parametrize(
    ("failure", "excused"),
    [
        ((client.RESET_SENT, 9.0, 10.05), True),
        ((client.CUT, 10.05, 12.0), True),
        ((client.RESET_SENT, 10.2, 12.0), False),
        ((client.RESET_UNSENT, 9.0, 9.5), False),
        ((client.REFUSED, 9.0, 11.0), False),
        ((client.LATE, 9.0, 11.0), False),
        ((client.BAD, 9.0, 11.0), False),
    ],
)
def test_a_death_excuses_only_what_was_there_when_it_came(failure: tuple[str, float, float], excused: bool) -> None:
    """A connection that came afterwards was in the queue; a refusal or a timeout is never excused."""
    unexplained = Ends(failures=[failure]).unexplained([Death(10.0, 10.1)])
    assert unexplained == ([] if excused else [failure])


def test_when_safe_reload_itself_is_killed_its_clients_are_refused_and_counted(start: Start) -> None:
    """What the other tests promise not to happen is seen when it does."""
    lb = start(NEWEST_STABLE, entrypoint="sh", operands=("-c", "safe_reload -f /etc/lb/haproxy.cfg; sleep infinity"))
    lb.begins("one")
    with Crowd(lb, 500, 1) as crowd:
        crowd.goes_on_for(0.2)
        lb.sh("kill -9 $(cat /proc/1/task/1/children)")
        lb.sh("kill -9 $(grep -l '^haproxy' /proc/[0-9]*/comm | cut -d/ -f3)")
        crowd.goes_on_for(0.5)
    assert crowd.ends.ok > 0
    assert crowd.ends.refused > 0
    assert crowd.ends.unexplained([]) != []
