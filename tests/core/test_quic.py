"""What haproxy says of its QUIC handshakes, and what it is told for them."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.haproxy import runtime_api
from entrypoint.haproxy.quic import MENTIONS, always_retries, handshakes, of_handshakes, secret_fragment

INFO = "Name: HAProxy\nVersion: 3.2.4\nPid: 7\nFrontend_mux=null: 1\n"
SECRET = ".if feature(QUIC)\n  cluster-secret 0123\n.endif\n"
WORDS = ("quic4@", "quic6@", "quic+", "cluster-secret", "quic-force-retry")
EVERY_SET = [frozenset(some) for some in chain.from_iterable(combinations(WORDS, n) for n in range(6))]


def connection(state: str, mux: str, descriptor: int = 23) -> str:
    """Write what haproxy says of a connection (`dump_quic_full` of quic_cli.c, with the field `sock`)."""
    return (
        f"* 0x7f5c2c0a3010[00]: scid=0f5e2d6a71b3c4d8{'..' * 12} dcid=7d1c9a{'..' * 17}\n"
        f"  st={state:<17}mux={mux:<42}expire=29s \n"
        f"  fd={descriptor}               local_addr=127.0.0.1:8443 foreign_addr=127.0.0.1:50117\n\n"
    )


OPEN = connection("opened", "ready")
BEGUN = connection("handshake", "null")
CONFIRMED = connection("opened", "null")
"""haproxy has the client's last packet, and has not accepted the connection yet."""
RELEASED = connection("opened", "released")
WITHOUT_SOCKET = connection("handshake", "null", -1)
"""Its packets arrive at the socket of the listener, which the next haproxy reads."""


@pytest.mark.parametrize(
    ("connections", "count"),
    [
        ((), 0),
        ((OPEN,), 0),
        ((RELEASED, OPEN), 0),
        ((BEGUN,), 1),
        ((CONFIRMED,), 1),
        ((WITHOUT_SOCKET,), 0),
        ((WITHOUT_SOCKET, BEGUN, WITHOUT_SOCKET), 1),
        ((OPEN, BEGUN, CONFIRMED, OPEN, BEGUN), 3),
    ],
)
def test_a_handshake_is_a_connection_that_haproxy_has_not_accepted(connections: tuple[str, ...], count: int) -> None:
    """From its first packet, and still after its last one."""
    assert handshakes("".join(connections) + "\n" + INFO.replace("Frontend_mux=null: 1\n", "")) == count


def test_a_frontend_cannot_pretend_to_be_a_handshake() -> None:
    """What is asked for names no frontends, which may be called as they like; `show quic oneline` does."""
    assert of_handshakes()[0] == "show quic sock"


def test_one_without_quic_has_no_handshake() -> None:
    """HAProxy 2.6 as Debian builds it does not know the command."""
    assert handshakes("Unknown command: 'show quic', but maybe one of the following ones is a better match:\n") == 0


def test_an_answer_is_known_to_be_whole() -> None:
    """The pid comes last."""
    commands = of_handshakes()
    assert commands[-1] == "show info"
    assert runtime_api.pid(OPEN + INFO) == 7
    assert runtime_api.pid(OPEN + BEGUN) is None


@pytest.mark.parametrize("mentions", EVERY_SET, ids=lambda some: "+".join(sorted(some)) or "nothing")
def test_the_secret_is_set_where_there_is_a_quic_bind_and_no_other_secret(mentions: frozenset[str]) -> None:
    """haproxy does not start with two; and without QUIC it needs none."""
    wanted = bool(mentions & {"quic4@", "quic6@", "quic+"}) and "cluster-secret" not in mentions
    assert secret_fragment("0123", mentions) == (SECRET if wanted else "")
    assert always_retries(mentions) == ("quic-force-retry" in mentions)


def test_these_words_are_looked_for_in_the_configuration() -> None:
    """All of them, as the manual writes them, and no others."""
    assert sorted(MENTIONS) == sorted(WORDS)


def test_nothing_is_added_to_a_configuration_that_is_not_known() -> None:
    """It may have a secret."""
    assert secret_fragment("0123", None) == ""
    assert not always_retries(None)


@given(st.text())
def test_any_answer_has_a_number_of_handshakes(text: str) -> None:
    """haproxy is not trusted."""
    assert handshakes(text) >= 0
