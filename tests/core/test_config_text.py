"""What is found in the text of a haproxy configuration before haproxy reads it."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from entrypoint.haproxy.config_text import in_use, line_of_master_worker, sharing_ticket_keys, tags


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"master-worker", 1),
        (b"global\n  master-worker\n", 2),
        (b"global\r\n\tmaster-worker no-exit-on-failure\r\n", 2),
        (b"# a\n\nglobal\n  nbthread 2\n  master-worker # why not\n  master-worker\n", 5),
        (b"\xff\xfe\n master-worker\n", 2),
    ],
)
def test_the_line_that_says_master_worker_is_named(text: bytes, line: int) -> None:
    """The first line with this keyword is found, however it is indented and whatever else is in the file."""
    assert line_of_master_worker(text) == line


def test_what_stands_in_a_conditional_block_is_for_haproxy_to_judge() -> None:
    """Its line can be asked for, to be named when it has turned out to hold."""
    text = b'global\n.if defined(X)\n  .if 1\n  .endif\n  "master"-worker\n.endif\n'
    assert line_of_master_worker(text) is None
    assert line_of_master_worker(text, in_block=True) == 5
    assert line_of_master_worker(text + b"global\nmaster-worker\n") == 8
    assert line_of_master_worker(b"global\n'master'-worker\n", in_block=True) is None


@pytest.mark.parametrize("text", [b"master-worker#c", b'"master-worker"', b"'master-worker'", b'master"-"worker'])
def test_it_is_found_however_haproxy_lets_it_be_written(text: bytes) -> None:
    """What haproxy takes for the keyword is taken for it here: a comment may touch it, and it may be quoted."""
    assert line_of_master_worker(b"global\n" + text + b"\n") == 2


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"global\n",
        b"global\n  # master-worker\n",
        b"global\n  #master-worker\n",
        b"global\n  description a master-worker of old\n",
        b"backend master-worker\n",
        b"global\n  master-worker-no-more\n",
        b"global\n  no-master-worker\n",
    ],
)
def test_what_only_mentions_it_is_left_alone(text: bytes) -> None:
    """A comment, a name, or another keyword with the same letters is no reason to refuse."""
    assert line_of_master_worker(text) is None


@given(st.binary(max_size=200), st.integers(0, 20))
def test_it_is_found_after_anything(before: bytes, empty: int) -> None:
    """Whatever bytes come before, but a conditional block, it is found no later than in the line that it was put in."""
    assume(b"if" not in before.translate(None, b"\"'\\"))
    text = before + b"\n" * (empty + 1) + b"master-worker\n"
    found = line_of_master_worker(text)
    assert found is not None
    assert found <= len(text.splitlines())
    assert text.splitlines()[found - 1].split()[0] == b"master-worker"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'bind "fd@${FD_WEB}"', ("FD_WEB",)),
        (b"bind fd@${FD_WEB}", ("FD_WEB",)),
        (b"bind fd@$FD_WEB ssl", ("FD_WEB",)),
        (b'bind "fd@${B}" "fd@${A}"\nbind fd@$B,fd@$C_1\n', ("B", "A", "C_1")),
        (b'bind ipv4@"fd@${FD_X-3}"', ("FD_X",)),
        (b'# bind "fd@${FD_OLD}"', ()),
        (b'bind "fd@${FD_A}" # "fd@${FD_OLD}"', ("FD_A",)),
        (b'bind "x#fd@${FD_A}" \\# fd@$B', ("FD_A", "B")),
        (b"log '\\' # fd@$A", ()),
        (b"bind fd@3 fd@${} fd@$ fd@$1X fd@", ()),
        (b"\xff fd@$A\xff", ("A",)),
        (b'bind fd@"${FD_A}"', ("FD_A",)),
        (b"bind \"fd@\"${FD_A} fd@'$'{FD_B}", ("FD_A", "FD_B")),
    ],
)
def test_the_tags_that_a_configuration_names(text: bytes, found: tuple[str, ...]) -> None:
    """Quoted or not, each once, in order, and none from a comment."""
    assert tuple(tags(text)) == found


def test_which_tags_are_for_datagrams() -> None:
    """`check` has to give haproxy a socket of the right kind."""
    text = b'bind "quic+fd@${Q}"\nbind quic+"fd@${R}"\n  dgram-bind "fd@${D}"\nbind "fd@${T}"\nlog dgram+fd@$L\n'
    assert tags(text) == {"Q": True, "R": True, "D": True, "T": False, "L": True}


def _sharing(*options: str) -> str:
    """Return the warning about `bind` lines with these options and our ticket keys, each in a file of its own."""
    keys = 'tls-ticket-keys "${SAFE_RELOAD_TLS_TICKET_KEYS}"'
    texts = [f"frontend x\n  bind :1 ssl crt a {one} {keys}\n".encode() for one in options]
    return sharing_ticket_keys([(f"/{number}.cfg", text) for number, text in enumerate(texts)])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("",),
        ("", "alpn h2", "verify none", "ca-file /ca verify none"),
        ("verify required ca-file /ca", 'verify "required" alpn h2 ca-file /ca'),
    ],
)
def test_ticket_keys_may_be_shared_by_what_verifies_clients_alike(options: tuple[str, ...]) -> None:
    """Sessions may pass from one `bind` to the other."""
    assert _sharing(*options) == ""


@pytest.mark.parametrize(
    "options",
    [
        ("", "ca-file /ca verify required"),
        ("verify optional ca-file /ca", "alpn h2"),
        ("ca-file /ca verify required", "ca-file /others verify required"),
        ("verify optional ca-file /ca", "verify required ca-file /ca"),
    ],
)
def test_lines_that_verify_clients_differently_are_named(options: tuple[str, str]) -> None:
    """Where haproxy does not tell their sessions apart, a session of one opens the other without a certificate."""
    assert _sharing(*options).startswith("/0.cfg:2 and /1.cfg:2 have the same TLS ticket keys")


def test_keys_that_are_not_ours_are_none_of_our_business() -> None:
    """Nor is what stands in a comment."""
    text = b'bind :1 ssl verify required tls-ticket-keys /k # "${SAFE_RELOAD_TLS_TICKET_KEYS}"\n'
    ours = b'bind :2 ssl tls-ticket-keys "${SAFE_RELOAD_TLS_TICKET_KEYS}"\n'
    assert sharing_ticket_keys([("/a", text + ours)]) == ""


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ((b"global\n    cluster-secret a\n",), ("cluster-secret",)),
        ((b"global\n    # cluster-secret a\n",), ()),
        ((b"#cluster-secret a", b"\t# quic4@"), ()),
        ((b"# cluster-secret a", b"bind quic4@:443 # cluster-secret"), ("cluster-secret", "quic4@")),
        ((b"bind 'quic4'@:443\n.if 0\n  cluster-secret b\n.endif",), ("cluster-secret", "quic4@")),
    ],
)
def test_words_in_comment_lines_are_not_in_use(texts: tuple[bytes, ...], found: tuple[str, ...]) -> None:
    """Those behind a comment sign elsewhere count: to take one for more is better than for less."""
    assert in_use(texts, ("cluster-secret", "quic4@")) == found
