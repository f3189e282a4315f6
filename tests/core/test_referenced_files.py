"""Named files: every way in which a configuration names what haproxy reads, and haproxy's own opinion of it."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoint.haproxy import referenced_files as core
from entrypoint.haproxy.file_names import Bases, Context, Kind, Store
from entrypoint.haproxy.referenced_files import named_by, named_in

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


def named_files(text: bytes, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that one configuration names."""
    return named_by([("", text)], variables).files


@pytest.mark.parametrize(
    ("line", "files"),
    [
        # certificates and what belongs to them
        ("bind :443 ssl crt /c/a.pem", ["/c/a.pem"]),
        ("bind :443 ssl crt /c/a.pem crt /c/folder/ alpn h2", ["/c/a.pem", "/c/folder/"]),
        ("bind :443 ssl default-crt /c/a.pem crt-list /c/list", ["/c/a.pem", "/c/list"]),
        ("bind :443 ssl crt @store/a.pem", []),
        ("bind :443 ssl crt /c/a ca-file /c/ca verify required crl-file /c/crl", ["/c/a", "/c/ca", "/c/crl"]),
        ("bind :443 ssl crt /c/a ca-verify-file /c/v ca-sign-file /c/s", ["/c/a", "/c/v", "/c/s"]),
        ("bind :443 ssl crt /c/a tls-ticket-keys /c/keys", ["/c/a", "/c/keys"]),
        ('bind :443 ssl crt /c/a tls-ticket-keys "${SAFE_RELOAD_TLS_TICKET_KEYS}"', ["/c/a"]),
        ("bind :443 ssl crt /c/a ech /c/ech", ["/c/a", "/c/ech"]),
        ("bind :443 ssl crt /c/a ech\t/c/ech", ["/c/a", "/c/ech"]),
        ("ssl-f-use crt /a key /k ca-file /ca", ["/a", "/k", "/ca"]),
        ("ssl-f-use crt /a crl-file /crl ocsp /o issuer /i sctl /s", ["/a", "/crl", "/o", "/i", "/s"]),
        ("eab-key-id /e", ["/e"]),
        ("eab-mac-key /e", ["/e"]),
        ("server a 10.0.0.1:443 ssl verify required ca-file /c/ca crt /c/me.pem", ["/c/ca", "/c/me.pem"]),
        ("server a 10.0.0.1:443 ssl verify required ca-file @system-ca", []),
        ("server crt 10.0.0.1:443 check", []),
        ("server-template a 1-9 x:443 ssl ca-file /c/ca", ["/c/ca"]),
        ("default-server ssl ca-file /c/ca", ["/c/ca"]),
        ("default-bind ssl crt /c/a", ["/c/a"]),
        ("stats socket /run/s ssl crt /c/a", ["/c/a"]),
        ("ssl-dh-param-file /c/dh", ["/c/dh"]),
        ("issuers-chain-path /c/chains", ["/c/chains"]),
        ("httpclient.ssl.ca-file /c/ca", ["/c/ca"]),
        # maps and lists
        ("acl a path -f /m/one -f /m/two", ["/m/one", "/m/two"]),
        ("acl a path -i -M -m beg -f /m/one x", ["/m/one"]),
        ("http-request deny if { src -f /m/one } !{ path -f /m/two }", ["/m/one", "/m/two"]),
        ("use_backend %[req.hdr(host),lower,map_dom(/m/h.map,def)] if { path -f opt@/m/x }", ["/m/x", "/m/h.map"]),
        ("http-request set-header A %[src,map_ip(/m/a.map)]%[path,map(/m/b.map,c)]", ["/m/a.map", "/m/b.map"]),
        ("http-request set-var(txn.a) path,map_beg_int(file@/m/a.map,0),add(1)", ["/m/a.map"]),
        ("http-request set-var(txn.a) path,map(virt@a)", []),
        ("http-request set-map(/m/a.map) %[src] 1", []),
        ("http-request set-var(txn.a) hdr(x),jwt_verify(RS256,/c/pub.pem)", ["/c/pub.pem"]),
        ("http-request set-var(txn.a) hdr(map)", []),
        ("http-request set-var(txn.a) path,map(\\'/m,1/a).map\\',x)", ["/m,1/a).map"]),
        ("http-request set-var(txn.a) hdr(x),jwt_decrypt_cert(/c/a.pem)", ["/c/a.pem"]),
        # what is answered
        ("errorfile 503 /e/503.http", ["/e/503.http"]),
        ("errorfiles section 503", []),
        ("http-request return status 200 content-type text/plain file /e/ok", ["/e/ok"]),
        ("http-request return status 200 lf-file /e/ok if { path / }", ["/e/ok"]),
        ("http-request deny deny_status 403 errorfile /e/403", ["/e/403"]),
        ("http-response return errorfile /e/500 status 500", ["/e/500"]),
        ("http-error status 404 content-type text/html file /e/404", ["/e/404"]),
        # what else is loaded
        ("lua-load /l/a.lua argument", ["/l/a.lua"]),
        ("lua-load-per-thread /l/a.lua", ["/l/a.lua"]),
        ("lua-prepend-path /l/?.lua", []),
        ("filter spoe engine waf config /s/waf.conf", ["/s/waf.conf"]),
        ("filter opentracing id ot config /s/ot.cfg", ["/s/ot.cfg"]),
        ("filter compression", []),
        ("h1-case-adjust-file /h/1", ["/h/1"]),
        ("51degrees-data-file /d/51", ["/d/51"]),
        ("deviceatlas-json-file /d/da", ["/d/da"]),
        ("wurfl-data-file /d/w", ["/d/w"]),
        ("wurfl-patch-file /d/w1 /d/w2", ["/d/w1", "/d/w2"]),
        # haproxy's own state, and what is only looked at
        ("server-state-file /var/state", []),
        ("stats-file /var/stats", []),
        ("backing-file /var/ring", []),
        ("pidfile /run/x.pid", []),
        ("chroot /var/empty", []),
        ("external-check command /bin/true", []),
        ("command haproxy -f /other.cfg", []),
        ("description crt /c/a.pem file /x", []),
    ],
)
def test_a_line_names_what_it_makes_haproxy_read(line: str, files: list[str]) -> None:
    """All of it, in order, and nothing else."""
    assert sorted(named_files(f"  {line}\n".encode(), {})) == sorted(files)


@pytest.mark.parametrize(
    ("line", "files"),
    [
        (rb"errorfile 503 /e/a\ b", ["/e/a b"]),
        (b"errorfile 503 '/e/a b'", ["/e/a b"]),
        (b'errorfile 503 "/e/a b"', ["/e/a b"]),
        (b"""errorfile 503 /e/"it's"'$X "'""", ["/e/it's$X \""]),
        (b"errorfile 503 /e/a#b", ["/e/a"]),
        (rb"errorfile 503 /e/a\#b", ["/e/a#b"]),
        (b"errorfile 503 '/e/a#b' # or /e/c", ["/e/a#b"]),
        (rb"errorfile 503 /e/\x41\\\q", ["/e/A\\\\q"]),
        (b"'error'\"file\" 503 /e/a", ["/e/a"]),
        (rb"\x65rrorfile 503 /e/a", ["/e/a"]),
        (b"# errorfile 503 /e/a", []),
        (b'errorfile 503 ""', []),
        (b'errorfile 503 "$D/a"', ["/dir/a"]),
        (b'errorfile 503 "${D}x"', ["/dirx"]),
        (b'errorfile 503 "$D.x"', ["/dir.x"]),
        (b"errorfile 503 ${D}x", ["${D}x"]),
        (b"errorfile 503 '$D'", ["$D"]),
        (rb'errorfile 503 "\$D"', ["$D"]),
        (b'errorfile 503 "${NONE-/def/a}b"', ["/def/ab"]),
        (b'errorfile 503 "${D-/def/a}b"', ["/dirb"]),
        (b'errorfile 503 "${NONE}/a"', ["/a"]),
        (b'"$WORD" 503 /e/a', ["/e/a"]),
        (b'"${ALL[*]}"', ["/e/all"]),
        (b'errorfile 503 "/e/\xff"', ["/e/\udcff"]),
        (b"errorfile 503 /e/a\r", ["/e/a"]),
        (b"errorfile\t503  /e/a", ["/e/a"]),
        (b'errorfile 503 "/e/a', ["/e/a"]),
        (b'errorfile 503 "/e/${D', ["/e//dir"]),
    ],
)
def test_words_are_split_as_haproxy_splits_them(line: bytes, files: list[str]) -> None:
    """Quotes, escapes, comments and variables follow the manual; broken lines are read somehow."""
    variables = {"D": "/dir", "WORD": "errorfile", "ALL": "errorfile 503 /e/all"}
    assert named_files(line, variables) == tuple(files)


def test_bases_apply_to_relative_paths() -> None:
    """Certificates have one base, CAs another, and what is absolute or of another kind none."""
    text = b"""
global
    crt-base /crts
    ca-base cas
frontend a
    bind :1 ssl crt a.pem crt /b.pem crt-list list ca-file ca.pem crl-file crl tls-ticket-keys keys
    errorfile 503 503.http
"""
    assert named_files(text, {}) == ("/crts/a.pem", "/b.pem", "list", "cas/ca.pem", "cas/crl", "keys", "503.http")


def test_a_base_applies_from_its_line_on() -> None:
    """As in haproxy, what stands before it does not know of it."""
    text = b"bind :1 ssl crt a\nglobal\ncrt-base /c\nlisten b\nbind :1 ssl crt b\n"
    assert named_files(text, {}) == ("a", "/c/b")


def test_a_store_has_bases_of_its_own() -> None:
    """A crt-store begins with the global bases, and what it changes does not hold after it."""
    text = b"""
global
    crt-base /global
crt-store web
    crt-base /web
    key-base /keys
    load crt a.pem key a.key ocsp a.ocsp issuer a.issuer sctl a.sctl alias "crt"
crt-store other
    load crt b.pem alias b
frontend f
    bind :1 ssl crt c.pem crt @web/a.pem
    load crt not-here
"""
    store = ("/web/a.pem", "/keys/a.key", "/web/a.ocsp", "/web/a.issuer", "/web/a.sctl", "/global/b.pem")
    found = (*store, "/global/c.pem")
    assert named_files(text, {}) == found


def test_every_branch_counts() -> None:
    """What stands in a conditional block is named, whatever the condition."""
    text = b"""
.if defined(X)
    errorfile 503 a
.elif version_atleast(3.0)
    errorfile 503 b
.else
    errorfile 503 c
.endif
"""
    assert named_files(text, {}) == ("a", "b", "c")


def test_the_configuration_sets_variables() -> None:
    """Variables that are set, or removed, in the configuration are so from there on."""
    text = b"""
global
    setenv A /a
    presetenv A /b
    presetenv B /b
    lua-load "$A/1"
    lua-load "$B/2"
    unsetenv A
    lua-load "${A-/none}/3"
    resetenv KEPT
    lua-load "$KEPT/4"
    lua-load "${GIVEN-/none}/5"
"""
    found = ("/a/1", "/b/2", "/none/3", "/kept/4", "/none/5")
    assert named_files(text, {"KEPT": "/kept", "GIVEN": "/given"}) == found


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        ("current", "a", "b"),
        ("config", "/etc/one/a", "two/b"),
        ("parent", "/etc/one/../a", "two/../b"),
        ("origin /o", "/o/a", "/o/b"),
    ],
)
def test_the_default_path_is_what_relative_is_relative_to(policy: str, first: str, second: str) -> None:
    """It holds for the files that are read later, too, for each from where it is."""
    configurations = [
        ("/etc/one/x.cfg", f"lua-load before\ndefault-path {policy}\nlua-load a\nlua-load /abs\n".encode()),
        ("two/y.cfg", b"lua-load b\n"),
    ]
    assert named_by(configurations, {}).files == ("before", first, "/abs", second)


def test_one_configuration_prepares_the_next() -> None:
    """Bases and variables of one file hold in the next; each name counts once."""
    configurations = [
        ("a.cfg", b"global\n crt-base /c\n setenv X /x\n"),
        (
            "b.cfg",
            b'listen l\n bind :1 ssl crt a\n errorfile 503 "$X"\n errorfile 504 "$X"\n lua-load "${.FILE}.lua"\n',
        ),
    ]
    assert named_by(configurations, {}).files == ("/c/a", "/x", "b.cfg.lua")


def test_a_crt_list_names_files_too() -> None:
    """Its certificates and what its brackets name, relative to the bases that held where it was named."""
    named = named_by([("", b"crt-base /c\nca-base /a\ndefault-path origin /o\nbind :1 ssl crt-list l\n")], {})
    assert named.files == ("/o/l",)
    ((path, context),) = named.naming
    assert (path, context) == ("/o/l", Context(Kind.CRT_LIST, Bases(folder="/o", crt="/c", ca="/a")))
    text = b"""
# comment.pem
one.pem !*
/two.pem [alpn h2 ca-file ca.pem verify required] a.example b.example
three.pem[ca-verify-file /v.pem crl-file crl.pem]*.example
@store/four.pem
five#5.pem [key k.pem ocsp o issuer i sctl s]
"""
    assert named_in(text, context).files == (
        *("/c/one.pem", "/two.pem", "/a/ca.pem", "/c/three.pem", "/v.pem", "/a/crl.pem"),
        *("/c/five#5.pem", "/o/k.pem", "/o/o", "/c/o", "/o/i", "/c/i", "/o/s", "/c/s"),
    )


def test_a_filters_configuration_names_files_too() -> None:
    """It is read as haproxy's own is, with the variables that held where it was named."""
    named = named_by([("", b"global\nsetenv L /l\nlisten l\nfilter spoe engine e config s\n")], {"M": "/m"})
    ((path, context),) = named.naming
    assert (path, context.kind) == ("s", Kind.FILTER)
    text = b"""
[e]
spoe-message m
    args a=src,map_ip(a.map)
    acl x src -f "$L"
    event on-client-session if x !{ src -f "${M}/b" }
"""
    assert named_in(text, context).files == ("a.map", "/l", "/m/b")


def test_a_log_format_names_files_too() -> None:
    """Maps, relative to where haproxy would open them."""
    named = named_by([("", b"default-path origin /o\nhttp-request return status 200 lf-file f\n")], {})
    ((path, context),) = named.naming
    assert (path, context.kind) == ("/o/f", Kind.LOG_FORMAT)
    assert named_in(b"<b>%[src,map_ip(a.map)]%[path,\nmap(/b.map,c)]", context).files == ("/o/a.map", "/b.map")


# ---- certificates, by the names that haproxy has for them ------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "stores"),
    [
        ("bind :1 ssl crt a.pem", [Store("/c/a.pem", "/c/a.pem")]),
        ("bind :1 ssl crt /b.pem crt ./b.pem", [Store("/b.pem", "/b.pem"), Store("/c/./b.pem", "/c/./b.pem")]),
        ("bind :1 ssl default-crt /b.pem", [Store("/b.pem", "/b.pem")]),
        ("server a x:1 ssl ca-file /ca crt /me.pem", [Store("/me.pem", "/me.pem")]),
        ("bind :1 ssl crt @web/a.pem ca-file /ca crl-file /crl", []),
        ("bind :1 ssl crt /b.pem key /k", [Store("/b.pem", "/b.pem")]),
        ("ssl-f-use crt /b.pem", [Store("/b.pem", "/b.pem")]),
        (
            "ssl-f-use crt /b.pem key /k issuer /i ocsp /o sctl /s alpn h2",
            [Store("/b.pem", "/b.pem", "/k", "/i", "/o", "/s")],
        ),
    ],
)
def test_a_certificate_has_the_name_that_haproxy_shows(line: str, stores: list[Store]) -> None:
    """As `show ssl cert` has it, from 2.6 to 3.5: with crt-base, and as it is written."""
    found = named_by([("", f"global\n crt-base /c\nlisten l\n {line}\n".encode())], {}).stores
    assert found == tuple(stores)


def test_the_default_path_is_no_part_of_a_name() -> None:
    """haproxy opens another path than it shows."""
    text = b"global\n default-path origin /o\nlisten l\n bind :1 ssl crt a.pem crt-list l\n"
    named = named_by([("", text)], {})
    assert named.stores == (Store("a.pem", "/o/a.pem"),)
    ((_, context),) = named.naming
    listed = named_in(b"b.pem [key k.pem]\n", context)
    assert listed.stores == (Store("b.pem", "/o/b.pem", "/o/k.pem"),)


@pytest.mark.parametrize(
    ("section", "load", "store"),
    [
        ("crt-store web", "crt a.pem", Store("@web/a.pem", "/c/a.pem")),
        ("crt-store web", "crt a.pem key k alias x", Store("@web/x", "/c/a.pem", "/k/k")),
        ("crt-store web", "alias x ocsp o crt a.pem", Store("@web/x", "/c/a.pem", ocsp="/c/o")),
        ("crt-store web", "crt /a.pem issuer i sctl s", Store("@web/a.pem", "/a.pem", issuer="/c/i", sctl="/c/s")),
        ("crt-store", "crt a.pem alias x", Store("@/x", "/c/a.pem")),
        ("crt-store", "crt a.pem key /k.pem", Store("/g/a.pem", "/c/a.pem", "/k.pem")),
        ("crt-store", "crt /a.pem", Store("/a.pem", "/a.pem")),
        ("crt-store web", "key k.pem", None),
    ],
)
def test_a_certificate_of_a_store_has_the_name_of_the_store(section: str, load: str, store: Store | None) -> None:
    """Unless neither has a name: then it is the path, with the crt-base of `global` (`crtstore_parse_load`)."""
    text = f"global\n crt-base /g\n{section}\n crt-base /c\n key-base /k\n load {load}\n"
    assert named_by([("", text.encode())], {}).stores == ((store,) if store else ())


def test_a_certificate_of_a_crt_list_has_its_path_as_its_name() -> None:
    """With what its brackets name, relative to the working directory; one of a crt-store is there already."""
    ((_, context),) = named_by([("", b"crt-base /c\nbind :1 ssl crt-list l\n")], {}).naming
    text = (
        b"# no.pem\none.pem !*\n/two.pem [alpn h2] a\nthree.pem[key k.pem ocsp o issuer i sctl s]b\n@web/x c\none.pem\n"
    )
    found = named_in(text, context).stores
    assert found == (
        Store("/c/one.pem", "/c/one.pem"),
        Store("/two.pem", "/two.pem"),
        Store("/c/three.pem", "/c/three.pem", "k.pem", "i", "o", "s"),
    )
    assert [one.names_others for one in found] == [False, False, True]


# ---- what only another haproxy can read again ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fixed"),
    [
        ("bind :1 ssl crt /a ca-file /ca ca-verify-file /v crl-file /crl crt-list /l", []),
        ("bind :1 ssl crt /a ca-sign-file /s tls-ticket-keys /t ech /e", ["/s", "/t", "/e"]),
        ("ssl-f-use crt /a key /k issuer /i ocsp /o sctl /s", []),
        ("server a x:1 ssl crt /a ca-file /ca crl-file /crl", []),
        ("acl a path -f /m -i -f opt@/n", []),
        ("http-request deny if { src -f /m }", []),
        ("http-request set-header A %[src,map_ip(/a.map)] if { path -f /m }", []),
        ("http-request set-var(txn.a) hdr(x),jwt_verify(alg,/pub.pem)", ["/pub.pem"]),
        ("errorfile 503 /e", ["/e"]),
        ("http-error status 404 file /e", ["/e"]),
        ("http-request return status 200 lf-file /f", ["/f"]),
        ("lua-load /a.lua", ["/a.lua"]),
        ("lua-load-per-thread /a.lua", ["/a.lua"]),
        ("filter spoe engine e config /s", ["/s"]),
        ("ssl-dh-param-file /d", ["/d"]),
        ("issuers-chain-path /d", ["/d"]),
        ("httpclient.ssl.ca-file /ca", ["/ca"]),
        ("h1-case-adjust-file /h", ["/h"]),
        ("wurfl-patch-file /d/w1 /d/w2", ["/d/w1", "/d/w2"]),
    ],
)
def test_what_haproxy_cannot_take_while_it_runs_is_fixed(line: str, fixed: list[str]) -> None:
    """It is a reload, whatever the running haproxy says that it has loaded."""
    assert named_by([("", f"listen l\n {line}\n".encode())], {}).fixed == {*fixed}


def test_a_file_that_is_named_both_ways_is_fixed() -> None:
    """Half of its users would go on with the old content."""
    for lines in (
        b"lua-load /x\nacl a path -f /x\n",
        b"acl a path -f /x\nlua-load /x\n",
        b"bind :1 ssl crt /x\nhttp-request set-var(txn.a) hdr(x),jwt_verify(RS256,/x)\n",
    ):
        named = named_by([("", lines)], {})
        assert "/x" in named.fixed
        assert named.files.count("/x") == 1


def test_a_crt_store_is_not_fixed() -> None:
    """Its certificates and keys can be set."""
    assert named_by([("", b"crt-store\n load crt /a key /k ocsp /o issuer /i sctl /s\n")], {}).fixed == frozenset()


def test_what_filters_and_log_formats_name_is_fixed_and_what_a_crt_list_names_is_not() -> None:
    """haproxy keeps maps by name, but here nobody tells which of its maps that is."""
    assert named_in(b"acl x src -f /a\n args b=src,map_ip(/b)\n", Context(Kind.FILTER)).fixed == {"/a", "/b"}
    assert named_in(b"%[src,map_ip(/a.map)]", Context(Kind.LOG_FORMAT)).fixed == {"/a.map"}
    assert named_in(b"/a.pem [key /k ca-file /ca]\n", Context(Kind.CRT_LIST)).fixed == frozenset()


@pytest.mark.parametrize("condition", ["{", "!{", "!!{", "! {", "'!{'", "a !{", "a or !{", "a || {"])
@pytest.mark.parametrize("word", ["if", "unless"])
@pytest.mark.parametrize(
    "line", ["http-request deny", "use_backend b", "monitor fail", "stats admin", "tcp-request content reject", "x"]
)
def test_a_condition_may_stand_anywhere(line: str, word: str, condition: str) -> None:
    """However often it is negated, and with or without a blank."""
    assert named_files(f"{line} {word} {condition} src -f /a.lst }}".encode(), {}) == ("/a.lst",)


def test_a_branch_may_not_be_taken() -> None:
    """What is set in a conditional block may be set or not; all that follows is read both ways."""
    text = b"""
global
.if defined(X)
    setenv A /1
    crt-base /c1
.elif defined(Y)
    setenv A /2
.endif
    lua-load "${A-/3}/a"
listen l
    bind :1 ssl crt x
"""
    assert set(named_files(text, {})) == {"/1/a", "/2/a", "/3/a", "x", "/c1/x"}


def test_what_is_set_at_the_end_holds_from_the_beginning() -> None:
    """HAProxy 3.1 and later read the global sections twice, older ones do not: both count."""
    assert named_files(b'global\n lua-load "${L-b}"\n setenv L a\n', {}) == ("b", "a")


def test_branches_without_end_are_bounded() -> None:
    """Thirty blocks are a thousand million ways: some of them count."""
    text = b"global\n" + b"".join(b".if a\nsetenv A%d x\n.endif\n" % number for number in range(30))
    assert "x/x" in named_files(text + b'lua-load "$A0/$A29"\n', {})


def test_what_haproxy_sets_itself() -> None:
    """Pseudo-variables, and the name of the local peer, which -L keeps as it is."""
    text = b"""
global
    localpeer p
    lua-load "${HAPROXY_LOCALPEER}"
frontend web
    errorfile 503 "${.SECTION}/${.LINE}"
defaults
    errorfile 503 "${.SECTION}"
"""
    assert named_files(text, {"HAPROXY_LOCALPEER": "host"}) == ("p", "host", "web/6", "defaults")


def test_the_branch_of_haproxy_may_be_any() -> None:
    """Which one it is need not be asked: files of other branches are not there, or cost a reload at most."""
    text = b'crt-base "/crts/${HAPROXY_BRANCH}"\nbind :1 ssl crt "a-$HAPROXY_BRANCH.pem" crt /b\n'
    found = named_files(text, {})
    assert {"/crts/2.8/a-2.8.pem", "/crts/3.2/a-3.2.pem", "/crts//a-.pem", "/b"} <= set(found)
    assert "/crts/3.2/a-3.0.pem" not in found
    assert named_in(b'acl x src -f "/$HAPROXY_BRANCH"', Context(Kind.FILTER)).files[:2] == ("/", "/2.8")


WORDS = st.sampled_from(
    (
        b"bind server crt crt-list ca-file -f acl { map( jwt_verify(a ) load default-path config parent crt-store "
        b"setenv resetenv localpeer .if .endif .SECTION "
        b"global ssl-f-use key ech \" ' \\ \\x \\x00 ${ } $A $ [*] # \0 \xff errorfile filter http-request file [ ]"
    ).split()
) | st.sampled_from([b"\n", b" ", b'bind "fd@${A}"', b'bind "fd@${A[*]}"', b'bind "fd@$A" "${A[*]}"'])


@given(st.lists(WORDS | st.binary(max_size=4), max_size=60).map(b" ".join) | st.binary())
def test_no_text_is_too_odd(text: bytes) -> None:
    """Whatever the bytes, there is an answer, and each of it can be given to the kernel."""
    for name in (
        *named_files(text, {"A": "b c"}),
        *(name for kind in Kind for name in named_in(text, Context(kind)).files),
    ):
        assert name
        assert "\0" not in name
        name.encode("utf-8", "surrogateescape")


@given(st.lists(WORDS | st.binary(max_size=4), max_size=60).map(b" ".join))
def test_the_quick_search_finds_every_line_that_names_a_file(text: bytes) -> None:
    """Reading every line finds the same files."""
    found = named_files(text, {"A": "crt /b"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "_relevant_lines", lambda text: range(text.count(b"\n") + 1))
        assert named_files(text, {"A": "crt /b"}) == found


def test_a_tag_is_no_reason_to_read_a_line() -> None:
    """Thousands of VIPs cost a search, and no more; what stands beside a tag is read."""
    vips = b"".join(b'    bind "fd@${FD_%d}"\n' % number for number in range(1000))
    assert core._relevant_lines(b"frontend f\n" + vips) == []  # noqa: SLF001  # that it is not done has no other sign
    assert core._relevant_lines(vips + b'bind "fd@${FD_A}" "${CRT}" /a.pem\n') == [1000]  # noqa: SLF001


PIECES = st.sampled_from(["a", "/", "b.c", "'", '"', "\\", " ", "#", "$V", "${V}", "${N-d}", "\\n", "\\x41", "\t", "-"])


@pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy here")
@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(PIECES, min_size=1, max_size=8).map("".join), min_size=1, max_size=60))
def test_haproxy_says_the_same(words: list[str]) -> None:
    """The error file that haproxy complains of not finding is the one that was found in its line."""
    assert HAPROXY
    lines = [f"errorfile 503 /nowhere/{word}" for word in words]
    run = subprocess.run(
        [HAPROXY, "-c", "-f", "/dev/stdin"],
        input="defaults\n" + "\n".join(lines) + "\n",
        env={"V": "v w"},
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = run.stderr.partition("[/dev/stdin:")[2].split("[/dev/stdin:")
    compared = 0
    for complaint in complaints:
        number, _, words_of_haproxy = complaint.partition("] : errorfile : error opening file '")
        if not words_of_haproxy:
            continue
        said = words_of_haproxy.partition("'.\n[")[0]
        assert named_files(lines[int(number) - 2].encode(), {"V": "v w"}) == (said,)
        compared += 1
    assert compared == run.stderr.count("error opening file")


@pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy here")
@pytest.mark.parametrize(
    "line",
    [
        "errorfile 503 503",
        "bind 127.0.0.1:1 ssl crt a",
        "bind 127.0.0.1:2 ssl crt-list list",
        "acl a path -f acl",
        "http-request deny if { path -f acl }",
        "http-request set-header a %[path,map_beg(map,x)]",
        "http-request return status 200 content-type a/b file 200",
        "filter spoe engine e config spoe",
        "server s 127.0.0.1:3 ssl verify required ca-file ca",
    ],
)
@pytest.mark.parametrize("policy", ["current", "config", "parent", "origin there"])
def test_haproxy_misses_what_is_named(tmp_path: Path, line: str, policy: str) -> None:
    """haproxy is content when the one file that the line names is there, and complains of its content or absence."""
    assert HAPROXY
    (tmp_path / "etc").mkdir()
    (tmp_path / "there").mkdir()
    text = f"global\n crt-base cr\n ca-base cr\n default-path {policy}\nlisten l\n mode http\n {line}\n"
    (tmp_path / "etc" / "x.cfg").write_text(text)
    (name,) = named_by([("etc/x.cfg", text.encode())], {}).files

    def run() -> list[str]:
        command = [HAPROXY or "", "-c", "-f", "etc/x.cfg"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr
        return [words.partition(") : ")[2] for words in said.splitlines()]  # without the pid

    missing = run()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x y\n")
    assert run() != missing
