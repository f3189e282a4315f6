"""The VIP list: what is read, and that each way to get it wrong is answered by one line that helps."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.options.vips import ANY, Vip, VipError, needs_v6only, parse_vips

GOOD = "10.0.0.1:80:FD_A"

TAGS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
ADDRESSES = st.one_of(
    st.just(ANY),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str).filter(lambda text: not text.startswith("::ffff:")),  # IPv4's
)
SCHEMES = st.sampled_from(["", "quic@", "udp@"])
VIPS = st.builds(Vip, ADDRESSES, st.integers(1, 65535), TAGS, SCHEMES)

WRONG = [
    ("", "'': it is empty; an entry is ADDRESS:PORT:TAG, such as 10.0.0.1:80:FD_HTTP"),
    ("  ", "'': it is empty"),
    ("10.0.0.1", "'10.0.0.1': it has 1 of three fields; an entry is ADDRESS:PORT:TAG"),
    ("10.0.0.1:80", "'10.0.0.1:80': it has 2 of three fields; an entry is ADDRESS:PORT:TAG"),
    ("10.0.0.1:80:FD_B:x", "'10.0.0.1:80:FD_B:x': it has more than three fields; one entry is ADDRESS:PORT:TAG"),
    ("2001:db8::1:80:FD_B", "'2001:db8::1:80:FD_B': it has more than three fields; one entry is ADDRESS:PORT:TAG"),
    ("10.0.0.1:80:PATH", "'10.0.0.1:80:PATH': the variable PATH has another meaning"),
    ("10.0.0.1:80:SAFE_RELOAD_VIPS", "'10.0.0.1:80:SAFE_RELOAD_VIPS': the variable SAFE_RELOAD_VIPS has"),
    (":80:FD_B", "':80:FD_B': '' is not an IPv4 address, an IPv6 address in brackets, or *"),
    ("localhost:80:FD_B", "'localhost:80:FD_B': 'localhost' is not an IPv4 address"),
    ("10.0.0:80:FD_B", "'10.0.0:80:FD_B': '10.0.0' is not an IPv4 address"),
    ("10.0.0.256:80:FD_B", "'10.0.0.256:80:FD_B': '10.0.0.256' is not an IPv4 address"),
    ("10.0.0.1/24:80:FD_B", "'10.0.0.1/24:80:FD_B': '10.0.0.1/24' is not an IPv4 address"),
    ("10.0.0.1::FD_B", "'10.0.0.1::FD_B': the port '' is not a number from 1 to 65535"),
    ("10.0.0.1:0:FD_B", "'10.0.0.1:0:FD_B': the port '0' is not a number from 1 to 65535"),
    ("10.0.0.1:65536:FD_B", "'10.0.0.1:65536:FD_B': the port '65536' is not a number from 1 to 65535"),
    ("10.0.0.1:-1:FD_B", "'10.0.0.1:-1:FD_B': the port '-1' is not a number from 1 to 65535"),
    ("10.0.0.1:http:FD_B", "'10.0.0.1:http:FD_B': the port 'http' is not a number from 1 to 65535"),
    ("10.0.0.1:80 :FD_B", "'10.0.0.1:80 :FD_B': the port '80 ' is not a number from 1 to 65535"),
    ("10.0.0.1:\u0668\u0660:FD_B", "the port '\u0668\u0660' is not a number from 1 to 65535"),
    ("10.0.0.1:80:", "'10.0.0.1:80:': the tag '' is not a variable's name: letters, digits and _, no digit first"),
    ("10.0.0.1:80:FD@B", "'10.0.0.1:80:FD@B': the tag 'FD@B' is not a variable's name"),
    ("10.0.0.1:80:1FD", "'10.0.0.1:80:1FD': the tag '1FD' is not a variable's name"),
    ("10.0.0.1:80:FD-B", "'10.0.0.1:80:FD-B': the tag 'FD-B' is not a variable's name"),
    ("10.0.0.1:80:FD_\u00c9", "the tag 'FD_\u00c9' is not a variable's name"),
    ("10.0.0.1:80:FD_A", "'10.0.0.1:80:FD_A': entry 1 has the tag FD_A already; give each VIP its own"),
    ("[::1", "'[::1': an IPv6 entry is [ADDRESS]:PORT:TAG, such as [2001:db8::1]:443:FD_HTTPS"),
    ("[::1]", "'[::1]': an IPv6 entry is [ADDRESS]:PORT:TAG"),
    ("[::1]:80", "'[::1]:80': an IPv6 entry is [ADDRESS]:PORT:TAG"),
    ("[::1]80:FD_B", "'[::1]80:FD_B': an IPv6 entry is [ADDRESS]:PORT:TAG"),
    ("[::1]x:80:FD_B", "'[::1]x:80:FD_B': an IPv6 entry is [ADDRESS]:PORT:TAG"),
    ("[::1]:80:FD_B:x", "'[::1]:80:FD_B:x': an IPv6 entry is [ADDRESS]:PORT:TAG"),
    ("[]:80:FD_B", "'[]:80:FD_B': '' is not an IPv6 address"),
    ("[::ffff:10.0.0.1]:80:FD_B", "this is an IPv4 address: write 10.0.0.1:80:FD_B"),
    ("[::g]:80:FD_B", "'[::g]:80:FD_B': '::g' is not an IPv6 address"),
    ("[10.0.0.1]:80:FD_B", "'[10.0.0.1]:80:FD_B': '10.0.0.1' is not an IPv6 address"),
    ("[*]:80:FD_B", "'[*]:80:FD_B': '*' is not an IPv6 address"),
    (
        "quic4@*:443:FD_B",
        "'quic4@' is no scheme of a VIP: quic@ and udp@ are for datagrams",
    ),
    (
        "QUIC@*:443:FD_B",
        "'QUIC@' is no scheme of a VIP: quic@ and udp@ are for datagrams, and TCP needs no scheme; write 'quic@*",
    ),
    (
        "x@y@*:443:FD_B",
        "'x@' is no scheme of a VIP: quic@ and udp@ are for datagrams, and TCP needs no scheme; write 'quic@y@*",
    ),
    ("@*:443:FD_B", "'@' is no scheme of a VIP"),
    ("tcp@*:443:FD_B", "and TCP needs no scheme; write '*:443:FD_B'"),
    ("tcp4@10.0.0.9:443:FD_B", "and TCP needs no scheme; write '10.0.0.9:443:FD_B'"),
    ("ipv6@[::1]:443:FD_B", "and TCP needs no scheme; write '[::1]:443:FD_B'"),
    ("quic@:443:FD_B", "'quic@:443:FD_B': '' is not an IPv4 address"),
    ("quic@", "'quic@': it has 1 of three fields"),
    ("udp@*:0:FD_B", "'udp@*:0:FD_B': the port '0' is not a number from 1 to 65535"),
    ("quic@quic@*:443:FD_B", "'quic@*' is not an IPv4 address"),
    ("quic@[::ffff:10.0.0.1]:443:FD_B", "this is an IPv4 address: write quic@10.0.0.1:443:FD_B"),
    ("quic@10.0.0.1:80:FD_A", "'quic@10.0.0.1:80:FD_A': entry 1 has the tag FD_A already; give each VIP its own"),
    ("[::1]:99999:FD_B", "'[::1]:99999:FD_B': the port '99999' is not a number from 1 to 65535"),
]


@pytest.mark.parametrize(
    ("text", "vip"),
    [
        ("10.0.0.1:80:FD_A", Vip("10.0.0.1", 80, "FD_A")),
        ("[2001:db8::1]:443:FD_B", Vip("2001:db8::1", 443, "FD_B")),
        ("[2001:DB8:0:0:0:0:0:1]:443:FD_B", Vip("2001:db8::1", 443, "FD_B")),
        ("[::]:1:_", Vip("::", 1, "_")),
        ("*:65535:fd3", Vip(ANY, 65535, "fd3")),
        ("0.0.0.0:8080:F", Vip("0.0.0.0", 8080, "F")),
        (" 10.0.0.1:80:FD_A\n", Vip("10.0.0.1", 80, "FD_A")),
        ("quic@10.0.0.1:443:FD_A", Vip("10.0.0.1", 443, "FD_A", "quic@")),
        ("quic@*:443:FD_A", Vip(ANY, 443, "FD_A", "quic@")),
        (" udp@[2001:DB8::1]:514:FD_A ", Vip("2001:db8::1", 514, "FD_A", "udp@")),
    ],
)
def test_an_entry_is_an_address_a_port_and_a_tag(text: str, vip: Vip) -> None:
    """IPv4, IPv6 in brackets and `*` are read; blanks around an entry do not matter."""
    assert parse_vips(text) == (vip,)


def test_the_contracts_own_example_is_read() -> None:
    """The list in the contract is three VIPs, in the order in which they are written."""
    assert parse_vips("10.0.0.1:80:FD_HOST1,[2001:db8::1]:443:FD_HOST2,*:8080:FD_HOST3") == (
        Vip("10.0.0.1", 80, "FD_HOST1"),
        Vip("2001:db8::1", 443, "FD_HOST2"),
        Vip(ANY, 8080, "FD_HOST3"),
    )


def test_one_address_may_have_several_tags() -> None:
    """An ADDRESS:PORT under two tags is two VIPs, for binds of one thread each."""
    assert [vip.tag for vip in parse_vips("10.0.0.1:80:FD_A,10.0.0.1:80:FD_B")] == ["FD_A", "FD_B"]


@pytest.mark.parametrize(("entry", "reason"), WRONG)
def test_each_error_names_the_entry_and_says_what_would_be_right(entry: str, reason: str) -> None:
    """A wrong second entry is answered by one line with its number, its text and the remedy."""
    with pytest.raises(VipError) as caught:
        parse_vips(f"{GOOD},{entry}")
    message = str(caught.value)
    assert message.startswith("VIPS entry 2 '")
    assert reason in message
    assert len(message.splitlines()) == 1


def test_the_first_wrong_entry_is_the_one_that_is_named() -> None:
    """Of two errors the user is told the first."""
    with pytest.raises(VipError, match=r"^VIPS entry 2 'x': "):
        parse_vips(f"{GOOD},x,y")


def test_tcp_and_quic_may_have_one_address_and_port() -> None:
    """They are two VIPs with a tag each, as HTTP/3 beside HTTP/2 needs them."""
    assert parse_vips("*:443:FD_HTTPS,quic@*:443:FD_HTTP3") == (
        Vip(ANY, 443, "FD_HTTPS"),
        Vip(ANY, 443, "FD_HTTP3", "quic@"),
    )


def test_4096_vips_are_read() -> None:
    """As many as the contract promises are read, in order, and the last one's error is found."""
    text = ",".join(f"10.0.{number >> 8}.{number & 255}:80:FD_{number}" for number in range(4096))
    vips = parse_vips(text)
    assert len(vips) == 4096
    assert [vip.tag for vip in vips] == [f"FD_{number}" for number in range(4096)]
    with pytest.raises(VipError, match=r"^VIPS entry 4097 'x': "):
        parse_vips(f"{text},x")


@given(st.lists(VIPS, min_size=1, max_size=8, unique_by=lambda vip: vip.tag))
def test_what_is_written_is_what_is_read(vips: list[Vip]) -> None:
    """Any list of VIPs, written down, is read as the same list."""
    assert parse_vips(",".join(map(str, vips))) == tuple(vips)


def read(text: str) -> tuple[tuple[Vip, ...], str]:
    """Return the VIPs of a list, or none of them and the error."""
    try:
        return parse_vips(text), ""
    except VipError as error:
        return (), str(error)


@given(st.text(), st.integers(0, 3))
def test_no_text_makes_it_stumble(text: str, before: int) -> None:
    """Whatever is given is either read or refused in one line that names an entry by its number and text."""
    whole = ",".join([*(f"10.0.0.1:80:FD_{number}" for number in range(before)), text])
    vips, message = read(whole)
    if vips:
        assert parse_vips(",".join(map(str, vips))) == vips
    else:
        number = int(message.removeprefix("VIPS entry ").split(" ", 1)[0])
        assert len(message.splitlines()) == 1
        assert message.startswith(f"VIPS entry {number} {whole.split(',')[number - 1].strip()!r}: ")


PIECES = st.sampled_from(
    ["quic@", "udp@", "tcp@", "@", "[", "]", ":", ":", "*", "10.0.0.1", "::1", "%", "80", "FD", ",", " ", "0", "-"]
)


@given(st.lists(PIECES, max_size=12))
def test_no_arrangement_of_its_own_pieces_makes_it_stumble(pieces: list[str]) -> None:
    """What is almost a list is either a list of usable VIPs or refused."""
    whole = "".join(pieces)
    vips, message = read(whole)
    quoted = [f"VIPS entry {number} {entry.strip()!r}: " for number, entry in enumerate(whole.split(","), start=1)]
    assert vips or message.startswith(tuple(quoted))
    for vip in vips:
        assert vip.address == ANY or ipaddress.ip_address(vip.address)
        assert 1 <= vip.port <= 65535
        assert vip.tag.isidentifier()


@given(
    st.lists(st.sampled_from(["0", "00", "1", "9", "25", "255", "256", "0255", "1000", "", " ", "\u00b2"]), max_size=6)
)
def test_an_ipv4_address_is_what_python_takes_for_one(numbers: list[str]) -> None:
    """Without its module, of which PID 1 would carry half a MiB."""
    address = ".".join(numbers)
    try:
        expected = str(ipaddress.IPv4Address(address))
    except ValueError:
        expected = ""
    vips, _ = read(f"{address}:80:FD_A")
    assert (vips[0].address if vips else "") == expected


@pytest.mark.parametrize(
    ("address", "needs"),
    [
        ("[::1]:81", True),
        ("[fe80::1]:81", True),
        ("[::ffff:127.0.0.1]:81", True),
        ("[::]:81", False),
        ("127.0.0.1:81", False),
        ("0.0.0.0:81", False),
        ("/run/x.sock", False),
        ("abns@x", False),
    ],
)
def test_of_one_ipv6_address_it_is_said_that_its_bind_needs_v6only(address: str, *, needs: bool) -> None:
    """haproxy takes every other ordinary listener over."""
    assert needs_v6only(address) is needs
