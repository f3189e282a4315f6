"""What haproxy says that it has loaded, in answers of real ones, from 2.6 to 3.5."""

from entrypoint.haproxy.loaded_files import LISTS, escaped, loaded

CERTIFICATES = "# filename\n./site.pem\n/tmp/fw/with blank.pem\nbun.pem.rsa\n@/plain\n@web/s.pem\n\n"
AUTHORITIES = "# filename\n@system-ca - 144 certificate(s)\nca - b.pem - 2 certificate(s)\ncadir - 0 certificate(s)\n\n"
MAPS = """\
# id (file) description
0 (/tmp/fw/m.map) pattern loaded from file '/tmp/fw/m.map' used by map at file '/tmp/fw/h.cfg' line 12. curr_ver=0
5 (x (y).map) pattern loaded from file 'x (y).map' used by map at file 'h.cfg' line 18. curr_ver=0 next_ver=0
"""
ACLS = """\
# id (file) description
0 (paths.lst) pattern loaded from file 'paths.lst' used by acl at file 'haproxy.cfg' line 15. curr_ver=0 next_ver=0
1 () acl 'path_beg' file 'haproxy.cfg' line 15. curr_ver=0 next_ver=0 entry_cnt=0
"""
NO_TLS = "Unknown command: 'ssl', but maybe one of the following ones is a better match:\n  show env\n"


def answers(**changes: str) -> dict[str, str]:
    """Return answers to every question, these among them."""
    return {**dict.fromkeys(LISTS, ""), **changes}


def test_every_name_is_found_as_haproxy_says_it() -> None:
    """With what a command calls it: blanks are escaped, and maps have numbers."""
    found = loaded(
        answers(
            certificates=CERTIFICATES,
            authorities=AUTHORITIES,
            revocations="# filename\nca1.crl\n",
            crt_lists="list.txt\ndir\n",
            maps=MAPS,
            acls=ACLS,
        )
    )
    assert list(found.certificates) == ["./site.pem", "/tmp/fw/with blank.pem", "bun.pem.rsa", "@/plain", "@web/s.pem"]
    assert found.certificates["/tmp/fw/with blank.pem"] == "/tmp/fw/with\\ blank.pem"
    assert list(found.authorities) == ["@system-ca", "ca - b.pem", "cadir"]
    assert list(found.revocations) == ["ca1.crl"]
    assert list(found.crt_lists) == ["list.txt", "dir"]
    assert found.maps == {"/tmp/fw/m.map": "#0", "x (y).map": "#5"}
    assert found.acls == {"paths.lst": "#0"}
    assert found.busy == ""


def test_only_a_ca_file_s_certificates_are_counted() -> None:
    """Everything else is a name."""
    name = "a - 2 certificate(s)"
    found = loaded(
        answers(certificates=f"{name}\n", authorities=f"{name} - 1 certificate(s)\nb\n", crt_lists=f"{name}\n")
    )
    assert list(found.certificates) == list(found.crt_lists) == [name]
    assert list(found.authorities) == [name, "b"]


def test_names_that_are_no_files_are_left_out() -> None:
    """Those of crt-stores and of the system's CAs."""
    found = loaded(answers(certificates=CERTIFICATES, authorities=AUTHORITIES, maps=MAPS))
    names = list(found.names())
    assert "./site.pem" in names
    assert "x (y).map" in names
    assert not [name for name in names if name.startswith("@")]


def test_a_transaction_is_no_name_but_makes_busy() -> None:
    """Of any kind, whoever has begun it."""
    transaction = "# transaction\n*ca.pem - 1 certificate(s)\n# filename\nca.pem - 1 certificate(s)\n"
    found = loaded(answers(certificates="# filename\n", authorities=transaction))
    assert found.busy == "ca.pem - 1 certificate(s)"
    assert list(found.authorities) == ["ca.pem"]
    assert loaded(answers(certificates="# transaction\n*a.pem\n# filename\na.pem\n")).busy == "a.pem"


def test_a_haproxy_without_tls_has_loaded_no_certificates() -> None:
    """Its answer is an error, and no list of names."""
    found = loaded(answers(**dict.fromkeys(("certificates", "authorities", "revocations", "crt_lists"), NO_TLS)))
    assert list(found.names()) == []


def test_a_name_is_one_word_of_a_command() -> None:
    """Management guide, section 9.3."""
    assert escaped("a b;c\\d\te") == "a\\ b\\;c\\\\d\\\te"
