"""The commands that give haproxy a file's new content, and how its answers read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.haproxy import file_updates as updates
from entrypoint.haproxy.file_updates import CannotError, ListChange, Parts, RefusedError
from tests.certificates import key_pair

CRT = b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
ISSUER = b"-----BEGIN CERTIFICATE-----\nREVG\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN EC PRIVATE KEY-----\nS0VZ\n-----END EC PRIVATE KEY-----\n"
CRL = b"-----BEGIN X509 CRL-----\nQ1JM\n-----END X509 CRL-----\n"


# ---- PEM -------------------------------------------------------------------------------------------------------------


def test_what_is_not_pem_is_left_out() -> None:
    """Comments and empty lines between blocks, carriage returns, and blanks at the ends of lines."""
    text = b"Bag Attributes\n\n" + CRT.replace(b"\n", b" \r\n") + b"# more\n\n" + KEY
    assert updates.blocks(text) == [CRT, KEY]
    assert updates.blocks(text, b"PRIVATE KEY-----") == [KEY]
    assert updates.blocks(b"x" + CRT + b" " + KEY) == []


def test_an_empty_line_within_a_block_is_not_given() -> None:
    """It ends a payload, and OpenSSL takes a file with it or not."""
    with pytest.raises(CannotError, match="empty line"):
        updates.blocks(CRT.replace(b"\n", b"\n\n", 1))


def test_a_block_without_an_end_is_sent_as_it_is() -> None:
    """haproxy says what is wrong with it."""
    cut = CRT[:-30]
    assert updates.blocks(CRT + cut) == [CRT, cut.rstrip() + b"\n"]
    assert updates.blocks(b"-----BEGIN ") == [b"-----BEGIN\n"]
    assert updates.blocks(b"") == []
    assert updates.blocks(b"comment\n-----BEGIN X\nQQ==\n-----END X") == [b"-----BEGIN X\nQQ==\n-----END X\n"]


@given(
    st.binary()
    | st.lists(st.sampled_from([CRT, KEY, b"-----BEGIN ", b"-----END ", b"-----", b"\n", b"x"])).map(b"".join)
)
def test_no_payload_has_an_empty_line(text: bytes) -> None:
    """Whatever the file has; and it always ends with a line."""
    try:
        found = updates.blocks(text)
    except CannotError:
        # That is a reload.
        found = []
    for block in found:
        assert block.endswith(b"\n")
        assert all(line.strip() for line in block[:-1].split(b"\n"))


def test_the_key_comes_first_and_the_ocsp_response_last() -> None:
    """haproxy takes the first key, and forgets the response with the certificate."""
    sent = list(updates.set_certificate("a", Parts(CRT + KEY + ISSUER, ocsp=b"\0\1")))
    assert sent == [("set ssl cert a", CRT + KEY + ISSUER), ("set ssl cert a.ocsp", b"AAE=")]
    sent = list(updates.set_certificate("a", Parts(CRT, KEY + CRT)))
    assert sent == [("set ssl cert a", KEY + CRT)]
    assert list(updates.set_certificate("a", Parts(b"garbage"))) == [("set ssl cert a", b"no PEM")]
    assert list(updates.set_certificate("a", Parts(b"", ocsp=b"x"))) == [("set ssl cert a.ocsp", b"eA==")]


@pytest.mark.parametrize("unchecked", [False, True])
@pytest.mark.parametrize(
    "key",
    [
        KEY.replace(b"EC PRIVATE", b"ENCRYPTED PRIVATE"),
        KEY.replace(b"-----\nS0", b"-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nS0"),
    ],
    ids=["PKCS 8", "RFC 1421"],
)
def test_an_encrypted_key_is_never_given(key: bytes, unchecked: bool) -> None:
    """haproxy would wait for a pass phrase and serve nobody."""
    for parts in (Parts(CRT + key), Parts(CRT, key), Parts(CRT + KEY, key)):
        with pytest.raises(CannotError, match=r"^its private key is encrypted$"):
            list(updates.set_certificate("a", parts, unchecked=unchecked))


def test_a_key_that_does_not_fit_is_never_given(tmp_path: Path) -> None:
    """It is final only where the configuration names it: a new haproxy would not notice."""
    (crt, key), (other, _) = (tuple(map(str.encode, key_pair(tmp_path, name))) for name in ("one", "two"))
    for parts in (Parts(other + key), Parts(other, key)):
        with pytest.raises(CannotError, match=r"^its private key does not fit its certificate$"):
            list(updates.set_certificate("a", parts))
        with pytest.raises(RefusedError, match=r"^its private key does not fit its certificate$"):
            list(updates.set_certificate("a", parts, unchecked=True))
    for unchecked in (False, True):
        # The issuer's certificate follows, and is not compared.
        sent = list(updates.set_certificate("a", Parts(crt + other, key), unchecked=unchecked))
        assert sent == [("set ssl cert a", key + crt + other)]
    # Only a response: nothing is compared.
    assert list(updates.set_certificate("a", Parts(b"", key, b"x"))) == [("set ssl cert a.ocsp", b"eA==")]


def test_a_transaction_is_described_like_what_has_been_committed() -> None:
    """But for its name, its status, and the key of an OCSP response, which is known later."""
    rest = "Serial: 4D\nnotAfter: Dec 28\nAlgorithm: EC256\nSHA1 FingerPrint: 3C\nOCSP Response Key: "
    before = updates.described(f"Filename: *a\nStatus: Unused\n{rest}\n\n")
    assert before == "Serial: 4D\nnotAfter: Dec 28\nAlgorithm: EC256\nSHA1 FingerPrint: 3C"
    assert updates.described(f"Filename: a\nCrt filename: a\nStatus: Used\n{rest}304d\n\n") == before
    # All that haproxy says of an Ed25519 certificate.
    short = updates.described("Filename: *a\nStatus: Unused\nSerial: 4D\nAlgorithm: OCSP Response Key: \n\n")
    assert short == "Serial: 4D\nAlgorithm:"
    assert updates.described("Can't display the certificate: Not found or the certificate is a bundle!\n") == ""


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_the_name_in_the_answer_must_be_ours() -> None:
    """HAProxy 2.6 says so if it has put a certificate into somebody else's transaction."""
    updates.has_taken("Transaction created for certificate a.pem!\n", "a.pem", refusable=True)
    updates.has_taken("transaction updated for CA a.pem!", "a.pem", refusable=False)
    with pytest.raises(CannotError, match=r"Transaction updated for certificate b/a\.pem"):
        updates.has_taken("Transaction updated for certificate b/a.pem!", "a.pem", refusable=True)
    with pytest.raises(CannotError):
        updates.has_taken("No transaction created for a.pem!", "a.pem", refusable=True)


REFUSED = (
    "unable to load certificate from file 'a': no start line.\nCan't load the payload\nCan't update a!",
    "inconsistencies between private key and certificate loaded 'a'.\nCan't commit a!",
    "The transaction must contain at least a certificate and a private key!\nCan't commit a!",
    "unable to load SSL private key into SSL Context 'a'.\nFailed!",
)


@pytest.mark.parametrize("answer", REFUSED)
def test_a_bad_certificate_is_final_and_anything_else_is_not(answer: str) -> None:
    """Only of a certificate haproxy's word is the last one."""
    for check in (updates.has_committed, lambda text, refusable: updates.has_taken(text, "a", refusable=refusable)):
        with pytest.raises(RefusedError) as refused:
            check(answer, refusable=True)
        assert str(refused.value) == answer.splitlines()[0].rstrip(".!")
        with pytest.raises(CannotError):
            check(answer, refusable=False)


def test_a_limit_of_haproxy_is_no_refusal() -> None:
    """A reload may succeed."""
    for answer in ("The command is too big for the buffer size.\n", "", "Operations on certificates are locked!"):
        with pytest.raises(CannotError):
            updates.has_committed(answer, refusable=True)
    updates.has_committed("Committing a.pem....\nSuccess!\n", refusable=True)


def test_what_only_repeats_the_failure_is_left_out() -> None:
    """Unless there is nothing else."""
    assert updates.in_one_line("bad.\n\nworse!\nCan't update a!\n") == "bad: worse"
    assert updates.in_one_line("Committing a.\nFailed!\n") == "Committing a: Failed"


def test_success_of_a_map_command_is_silence() -> None:
    """Prompts are silence, too."""
    updates.has_done("\n")
    updates.has_done("\n> \n> \n")
    with pytest.raises(CannotError, match=r"^'x' is not a valid IPv4 or IPv6 address$"):
        updates.has_done("> 'x' is not a valid IPv4 or IPv6 address.\n\n> \n")
    updates.has_said("Entry 'a' deleted in crtlist 'L'!", "deleted in crtlist")
    with pytest.raises(CannotError, match=r"^no$"):
        updates.has_said("no!", "deleted")


def test_the_version_of_a_map_is_a_number() -> None:
    """Anything else is an error."""
    assert updates.new_version("New version created: 12\n\n") == "12"
    for answer in ("New version created: x", "", "Oops. New version created: 1"):
        with pytest.raises(CannotError):
            updates.new_version(answer)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_a_payload_stays_below_the_buffer() -> None:
    """The smallest that any of the configurations sets, and never more than the usual one."""
    assert updates.most_of_a_payload([b"global\n"]) == 15360
    assert updates.most_of_a_payload([b"x", b"global\n tune.bufsize 8192 # or 1\n", b" tune.bufsize 32768\n"]) == 7168
    assert updates.most_of_a_payload([b" tune.bufsize.small 1024\n"]) == 15360
    assert updates.most_of_a_payload([b" tune.bufsize\n # tune.bufsize 1\n"]) == 15360
    assert (
        updates.most_of_a_payload([b" tune.bufsize ${SIZE}\n"]) == updates.most_of_a_payload([b"tune.bufsize 9"]) == 0
    )


@given(st.lists(st.binary(min_size=1, max_size=900), max_size=60))
def test_pieces_are_joined_up_to_a_limit(pieces: list[bytes]) -> None:
    """In order, and none is empty."""
    joined = list(updates.in_payloads(pieces, 14336))
    assert b"".join(joined) == b"".join(pieces)
    assert all(0 < len(one) <= 8192 for one in joined)
    assert len(joined) <= 1 + sum(map(len, pieces)) // (8192 - 900)


def test_a_piece_that_is_longer_than_a_payload_should_be_is_one() -> None:
    """A command that has nothing to add would be an error."""
    long = b"x" * 14336
    assert list(updates.in_payloads([long, b"a", long], 14336)) == [long, b"a", long]
    assert list(updates.in_payloads([], 14336)) == []


# ---- CA and CRL files ------------------------------------------------------------------------------------------------


def test_authorities_are_certificates_only() -> None:
    """Keys and comments are left out, as haproxy does; CRLs are not."""
    assert updates.authorities(b"# x\n" + CRT + KEY + ISSUER) == [CRT, ISSUER]
    with pytest.raises(CannotError, match="CRLs"):
        updates.authorities(CRT + CRL)
    assert updates.revocations(CRL + CRT + CRL) == [CRL, CRL]


@pytest.mark.parametrize("bad", [b"", b"garbage", KEY, "cut", "no base64"])
def test_a_ca_or_crl_file_that_is_not_whole_is_not_given(bad: bytes | str) -> None:
    """haproxy would refuse it, and end somebody's connection of the error that it leaves in OpenSSL's queue."""
    for parse, good, what in ((updates.authorities, CRT, "certificate"), (updates.revocations, CRL, "CRL")):
        text = {"cut": good + good[:-20], "no base64": good + good.replace(b"\nQ", b"\nQQ")}.get(str(bad), bad)
        assert isinstance(text, bytes)
        with pytest.raises((CannotError, ValueError), match=f"^it has no {what}, or one is cut off$|base64|padding"):
            parse(text)


def test_revocations_are_compared_as_haproxy_describes_them() -> None:
    """Without the name, which differs in a transaction."""
    one = "Certificate Revocation List #"
    shown = f"Filename: {{}}\nStatus: {{}}\n \n{one}1:\nVersion 1\n \n{one}2:\n2\n"
    before, after = shown.format("*a", "Unused"), shown.format("a", "Used")
    assert updates.described(before) == updates.described(after) == f"{one}1:\nVersion 1\n\n{one}2:\n2"


# ---- maps and ACL files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "of_map", "of_acl"),
    [
        (b"k v", b"k v", b"k v"),
        (b"  k\t v  w  ", b"k v  w", b"k\t v  w  "),
        (b"k", b"k ", b"k"),
        (b"k v\r", b"k v", b"k v"),
        (b" # c", b"# c", b"# c"),
        (b"#c", None, None),
        (b"", None, None),
        (b" \t", None, None),
        (b"\r", None, None),
    ],
)
def test_entries_are_those_that_haproxy_reads_at_a_start(
    line: bytes, of_map: bytes | None, of_acl: bytes | None
) -> None:
    """Tried with haproxy in tests/system/test_applied_changes.py."""
    for kind, entry in (("map", of_map), ("acl", of_acl)):
        assert updates.entries(kind, b"a b\n" + line + b"\n") == [b"a b", *([entry] if entry is not None else [])]


@pytest.mark.parametrize("bad", [b"x" * 901, b"a\0b", b"<<"])
def test_what_a_command_cannot_say_is_a_reload(bad: bytes) -> None:
    """The line is named."""
    with pytest.raises(CannotError, match=r"^line 2 "):
        updates.entries("acl", b"a\n" + bad)
    assert updates.entries("acl", b"x" * 900) == [b"x" * 900]


def test_a_map_has_payloads_and_an_acl_a_session() -> None:
    """`add acl` takes none."""
    assert list(updates.add("map", "#1", "7", [b"a b", b"c "], 14336)) == [("add map @7 #1", b"a b\nc \n")]
    ((command, payload),) = updates.add("acl", "#2", "7", [b"a b", b"c;d"], 14336)
    assert command == "prompt\nadd acl @7 #2 a\\ b\nadd acl @7 #2 c\\;d\nquit"
    assert payload == b""
    assert list(updates.add("map", "#1", "7", [], 14336)) == []
    assert len(list(updates.add("acl", "#1", "7", [b"x" * 800] * 20, 14336))) == 2


def test_entries_are_shown_with_addresses() -> None:
    """Of memory, one line each."""
    assert updates.shown_entries(b"0x55 a b\n0x56 c \n\n") == [b"a b", b"c "]


# ---- crt-lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        (b"a\nb\n", b"a\nb\nc [x]  y\n", ListChange(added=("c [x] y",))),
        (b"a\nb\nc\n", b"a\nc\n", ListChange(removed=("b",))),
        (b"a\nb x\n", b"# new\na\nc\n", ListChange(added=("c",), removed=("b",))),
        (b"a\nb\n", b" a \n\n# c\nb\n", ListChange()),
    ],
)
def test_lines_at_the_end_and_lines_that_are_gone(before: bytes, now: bytes, change: ListChange) -> None:
    """Nothing else can be said in commands."""
    assert updates.list_change(before, now) == change


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (b"a\nb\n", b"b\n"),
        (b"a\nb\n", b"c\na\nb\n"),
        (b"a\nb\n", b"a\nc\nb\n"),
        (b"a\nb\n", b"b\na\n"),
        (b"a\nb\n", b""),
        (b"", b"a\n"),
        (b"a\nb x\nb y\n", b"a\nb x\n"),
        (b"a\nb x\n", b"a\nb y\n"),
        (b"a\nb\n", b"a\nb\nb\n"),
        (b"a\nb\nb\n", b"a\nb\n"),
        (b"a\nb\n", b"a\nb\nc"),
    ],
    ids=[
        "first gone",
        "first new",
        "inserted",
        "swapped",
        "empty",
        "was empty",
        "one of two",
        "edited",
        "twice",
        "once",
        "cut",
    ],
)
def test_other_changes_of_a_crt_list_are_a_reload(before: bytes, now: bytes) -> None:
    """Order counts, the first entry is the default, and a command means one entry."""
    with pytest.raises(CannotError):
        updates.list_change(before, now)


def test_a_list_is_shown_with_options_and_zero_bytes() -> None:
    """The names are what counts."""
    assert updates.shown_in_list("# list.txt\na.pem\nb.pem [alpn h2\0] x\n\n") == ["a.pem", "b.pem"]
