"""Changes of files, played against a real haproxy: what it has afterwards is what a newly started one has, or a reload.

With another one: HAPROXY is the haproxy to ask, and APPLIED_EXAMPLES how many lives there are (12 without it).
"""

import os
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from entrypoint.core.outcome import Outcome
from entrypoint.haproxy.file_names import Store
from entrypoint.haproxy.file_updates import CannotError, RefusedError
from entrypoint.lean.record import replace
from entrypoint.pid1 import applying
from entrypoint.pid1.transactions import Certificate, Transactions
from entrypoint.system.config_snapshot import ConfigSnapshot
from entrypoint.system.haproxy_cli import CliChannel
from tests.certificates import Authority, key_pair
from tests.opened import version
from tests.stores import (
    LIST,
    NAMES,
    OTHERWISE,
    WORDS,
    Living,
    ask,
    certificate_at,
    disk_of,
    files_at_first,
    fresh,
    is_new,
    living,
    make_pool,
    stores,
    write,
)

pytestmark = pytest.mark.skipif(not WORDS, reason="there is no haproxy here")

EXAMPLES = int(os.environ.get("APPLIED_EXAMPLES", "12"))

Edit = tuple[str, bytes | None]
"""A file, and its new content; None if it is gone."""


@cache
def made() -> tuple[Path, Mapping[str, tuple[bytes, bytes]]]:
    """Make the certificates, once."""
    folder = Path(tempfile.mkdtemp(prefix="sr-pool-"))
    return folder, make_pool(folder)


def teardown_module() -> None:
    """Remove them."""
    if made.cache_info().currsize:
        shutil.rmtree(made()[0])


def _in_another_form(pem: bytes, form: str) -> bytes:
    match form:
        case "CRLF":
            return pem.replace(b"\n", b"\r\n")
        case "blank lines":
            return pem.replace(b"\n", b"\n\n")
        case "comments":
            return b"# a comment\nBag Attributes\n" + pem.replace(b"-----END", b"-----END", 1)
        case "no last newline":
            return pem.rstrip(b"\n")
        case "cut":
            return pem[: 2 * len(pem) // 3]
        case _:
            return pem


FORMS = st.sampled_from(["plain"] * 6 + ["CRLF", "blank lines", "comments", "no last newline", "cut"])
NAME = st.sampled_from(NAMES)


def _combined(path: str, name: str, key: str, form: str, chain: str) -> list[Edit]:
    pool = made()[1]
    text = pool[name][0] + pool[key][1] + (pool[chain][0] if chain else b"")
    return [(path, _in_another_form(text, form))]


def _two(paths: tuple[str, str], name: str, key: str, which: str) -> list[Edit]:
    pool = made()[1]
    both: list[Edit] = [(paths[0], pool[name][0]), (paths[1], pool[key][1])]
    return {"both": both, "certificate": both[:1], "key": both[1:]}[which]


def _mostly_fitting(make: Callable[..., list[Edit]], *more: st.SearchStrategy[str]) -> st.SearchStrategy[list[Edit]]:
    fitting = NAME.flatmap(lambda name: st.builds(make, st.just(name), st.just(name), *more))
    return fitting | fitting | st.builds(make, NAME, NAME, *more)


WHICH = st.sampled_from(["both", "both", "certificate", "key"])
COMBINED = st.sampled_from(["site.pem", "site.pem", "one.pem", "two.pem", "three.pem"]).flatmap(
    lambda path: _mostly_fitting(
        lambda name, key, form, chain: _combined(path, name, key, form, chain), FORMS, st.sampled_from(["", "", "four"])
    )
)
PAIRS = [("tls.pem", "tls.pem.key")] + ([("store.crt", "store.key")] if WORDS and is_new() else [])
IN_TWO = st.sampled_from(PAIRS).flatmap(
    lambda paths: _mostly_fitting(lambda name, key, which: _two(paths, name, key, which), WHICH)
)


def _lines(line: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(line, max_size=6).map(b"\n".join) | st.lists(line, max_size=6).map(
        lambda lines: b"".join(line + b"\n" for line in lines)
    )


WORD = st.sampled_from([b"/a", b"/b", b"/c#", b"x;y", b"<<", b"\\", b'"q"', b"a\\ b", b"\xc3\xa4", b"#x"])
BLANKS = st.sampled_from([b" ", b"\t", b"  ", b" \t "])
MAP_LINE = st.one_of(
    st.builds(lambda key, blank, value: key + blank + value, WORD, BLANKS, WORD | st.just(b"two words")),
    st.sampled_from([b"", b"# comment", b"  # no comment", b"only", b" /lead v", b"/tail v  ", b"/cr v\r", b"/tab\tv"]),
)
ACL_LINE = WORD | st.sampled_from([b"", b"# comment", b"  lead", b"trail  ", b"two words", b"cr\r", b" \t "])
ADDRESS = st.sampled_from([b"10.0.0.0/8", b"::1", b"192.168.1.1", b"no address", b"10.0.0.1"])
TEXTS: st.SearchStrategy[list[Edit]] = st.one_of(
    _lines(MAP_LINE).map(lambda text: [("hosts.map", text)]),
    _lines(st.builds(lambda a: a + b" v", ADDRESS)).map(lambda text: [("nets.map", text)]),
    _lines(ACL_LINE).map(lambda text: [("paths.lst", text)]),
    _lines(ADDRESS).map(lambda text: [("ip.lst", text)]),
)


def _authorities(names: list[str]) -> list[Edit]:
    return [("ca.pem", b"".join(made()[1][name][0] for name in names))]


def _revocations(names: list[str]) -> list[Edit]:
    return [("crl.pem", b"".join((made()[0] / f"{name}.crl").read_bytes() for name in names))]


AUTHORITIES = st.lists(NAME, min_size=1, max_size=3).map(_authorities) | st.lists(
    NAME, min_size=1, max_size=2, unique=True
).map(_revocations)
LISTS: st.SearchStrategy[list[Edit]] = st.one_of(
    st.integers(1, len(LIST)).map(lambda count: LIST[:count]),
    st.lists(st.sampled_from(LIST), min_size=1, max_size=4, unique=True).map(lambda lines: (LIST[0], *lines)),
    st.lists(st.sampled_from(LIST + OTHERWISE), max_size=5).map(lambda lines: (LIST[0], *lines)),
    st.lists(st.sampled_from(LIST + OTHERWISE), max_size=5).map(tuple),
).map(lambda lines: [("list.txt", "".join(f"{line}\n" for line in lines).encode())])
FILES = (
    *("site.pem", "tls.pem", "tls.pem.key", "one.pem", "two.pem", "list.txt"),
    *("hosts.map", "paths.lst", "ca.pem", "crl.pem", "ip.lst", "store.key"),
)
DAMAGE: st.SearchStrategy[list[Edit]] = st.tuples(
    st.sampled_from(FILES),
    st.sampled_from([b"garbage\n", b"", None, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]),
).map(lambda edit: [edit])


EDITS = COMBINED | IN_TWO | TEXTS | AUTHORITIES | LISTS


class Disk(RuleBasedStateMachine):
    """Changes files, has them applied, and compares."""

    def __init__(self) -> None:
        """Begin without a haproxy."""
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "f"
        self.folder.mkdir()
        self.files: dict[str, bytes] = {}
        self.past: list[dict[str, bytes]] = []
        self.has: dict[str, dict[str, object]] = {}
        """What haproxy had in memory, by the digest of what it ran then."""
        self.lb: Living | None = None
        self.life = ExitStack()

    @initialize()
    def start(self) -> None:
        """Start it from the files as they are at first."""
        folder, pool = made()
        self.files = files_at_first(pool, folder)
        self.past.append(self.files)
        write(self.folder, self.files)
        self.reload()

    def reload(self) -> None:
        """Start another haproxy, if one starts with these files."""
        if self.lb and not fresh(self.folder):
            return
        if self.lb:
            self.life.close()
        self.life = self.stack.enter_context(ExitStack())
        self.lb = self.life.enter_context(living(self.folder))
        assert self.lb
        # By other transactions than another haproxy's the same content may be there in another form.
        self.has = {self.lb.runs.digest: stores(self.folder)}

    def teardown(self) -> None:
        """Stop it."""
        self.stack.close()

    @rule(edits=st.lists(EDITS, min_size=1, max_size=2), reloads=st.booleans())
    def change(self, edits: list[list[Edit]], reloads: bool) -> None:
        """Change files in ways that haproxy may take."""
        self.settle({**self.files, **{path: text for few in edits for path, text in few if text is not None}}, reloads)

    @rule(damage=DAMAGE, others=st.lists(TEXTS | COMBINED, max_size=1), reloads=st.booleans())
    def damage(self, damage: list[Edit], others: list[list[Edit]], reloads: bool) -> None:
        """Damage a file, or remove it, perhaps beside a good change."""
        files = dict(self.files)
        for path, text in [*damage, *(one for few in others for one in few)]:
            if text is None:
                files.pop(path, None)
            else:
                files[path] = text
        self.settle(files, reloads)

    @rule(data=st.data(), reloads=st.booleans())
    def go_back(self, data: st.DataObject, reloads: bool) -> None:
        """Put back what was there."""
        self.settle(data.draw(st.sampled_from(self.past)), reloads)

    def settle(self, files: dict[str, bytes], reloads: bool) -> None:
        """Make these the files; have the changed ones applied, or reload."""
        assert self.lb
        self.files = files
        self.past.append(files)
        write(self.folder, files)
        before, had = self.lb.runs, self.has[self.lb.runs.digest]
        outcome = self.lb.apply()
        now = stores(self.folder)
        if outcome is None or not outcome.digest:
            assert now == had, outcome
            assert outcome is None or outcome.problem
        known = self.has.setdefault(self.lb.runs.digest, now)
        assert now == known, (outcome, "the same digest stands for something else")
        if outcome and not outcome.problem:
            assert now == fresh(self.folder), outcome
        elif outcome and outcome.digest:
            taken = {os.path.basename(path) for path in outcome.files}
            whole = fresh(self.folder)
            for name, content in now.items() if whole else ():
                if name in taken and name != "list.txt" and not taken & {"list.txt"}:
                    assert content == (whole or {})[name], (name, outcome)
                elif name in files and _digest(before, self.folder, name) == _digest(self.lb.runs, self.folder, name):
                    assert content == had[name] or name in {"list.txt", "tls.pem", "store.crt"}, (name, outcome)
        if reloads and (outcome is None or outcome.problem):
            self.reload()

    @invariant()
    def nothing_changes_by_itself(self) -> None:
        """haproxy lives, and has what it had."""
        if self.lb:
            assert self.lb.process.poll() is None
            assert stores(self.folder) == self.has[self.lb.runs.digest]


def _digest(snapshot: object, folder: Path, name: str) -> bytes | None:
    found: bytes | None = snapshot.digests.get(str(folder / name))  # type: ignore[attr-defined]
    return found


def test_what_was_applied_is_what_a_new_haproxy_has() -> None:
    """Or haproxy has exactly what it had; and a digest always stands for the same."""
    run_state_machine_as_test(
        Disk,
        settings=hypothesis_settings(
            max_examples=EXAMPLES,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.fixture
def files() -> dict[str, bytes]:
    """The files as they are at first."""
    return files_at_first(made()[1], made()[0])


@pytest.fixture
def lb(tmp_path: Path, files: dict[str, bytes]) -> Iterator[Living]:
    """A haproxy that was started from these files."""
    folder = tmp_path / "f"
    folder.mkdir()
    write(folder, files)
    with living(folder) as found:
        assert found
        yield found


def applied(lb: Living, files: Mapping[str, bytes]) -> Outcome:
    """Make these the files, and have them applied."""
    write(lb.folder, files)
    outcome = lb.apply()
    assert outcome
    return outcome


def test_edits_by_others_are_left_alone(lb: Living, files: dict[str, bytes]) -> None:
    """What somebody has set at run time stays until the disk changes there; their transaction is theirs."""
    ask(lb.folder, "add map hosts.map /theirs x")
    ask(lb.folder, f"set ssl cert two.pem <<\n{files['three.pem'].decode()}\n")
    assert applied(lb, {**files, "paths.lst": b"/more\n"}).problem == ""
    assert "/theirs x" in ask(lb.folder, "show map hosts.map")
    outcome = applied(lb, {**files, "paths.lst": b"/more\n", "site.pem": files["three.pem"]})
    assert "somebody else has a transaction for two.pem" in outcome.problem
    assert ask(lb.folder, "show ssl cert").startswith("# transaction\n*two.pem")


@pytest.mark.parametrize(
    ("kind", "name", "text", "entry"),
    [("map", "hosts.map", b"/new n\n", "/new n"), ("acl", "paths.lst", b"/new\n", "/new")],
)
def test_a_late_answer_does_not_empty_what_was_committed(
    lb: Living,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    name: str,
    text: bytes,
    entry: str,
) -> None:
    """A new version that haproxy has in use is not taken back: it would serve with an empty map until the reload."""
    right = CliChannel.call

    def late(self: CliChannel, command: str, payload: bytes = b"", *, until: float) -> bytes:
        answer = right(self, command, payload, until=until)
        if command.startswith("commit"):
            raise TimeoutError("timed out")
        return answer

    monkeypatch.setattr(CliChannel, "call", late)
    outcome = applied(lb, {**files, name: text})
    assert outcome.problem == f"{lb.folder}/{name}: timed out"
    assert not outcome.files
    assert entry in ask(lb.folder, f"show {kind} {name}")


def test_after_half_of_a_change_the_rest_and_the_old_content_are_changes(lb: Living, files: dict[str, bytes]) -> None:
    """What was taken is known: nothing of it is given again, and all of it can be taken back."""
    listed = "".join(f"{line}\n" for line in LIST).encode()
    outcome = applied(lb, {**files, "list.txt": listed, "nets.map": b"no address x\n"})
    assert outcome.problem.startswith(f"{lb.folder}/nets.map: 'no' is not a valid IPv4 or IPv6 address")
    assert {os.path.basename(path) for path in outcome.files} == {"list.txt", "three.pem", "four.pem"}
    assert not outcome.refused

    shorter = "".join(f"{line}\n" for line in LIST[:3]).encode()
    outcome = applied(lb, {**files, "list.txt": shorter})
    assert outcome.problem == ""
    assert stores(lb.folder) == fresh(lb.folder)
    assert applied(lb, files).problem == ""
    assert stores(lb.folder) == fresh(lb.folder)


def test_a_file_that_was_not_verified_is_neither_old_nor_new(lb: Living, files: dict[str, bytes]) -> None:
    """Somebody edits the map in the same moment: haproxy has something else than the file, old or new."""
    digest = lb.runs.digest
    theirs = iter(["add map hosts.map /theirs x"])
    call = lb.channel.call

    def meddling(command: str, payload: bytes = b"", *, until: float) -> bytes:
        if command.startswith("show map #"):
            ask(lb.folder, next(theirs))
        return call(command, payload, until=until)

    lb.channel.call = meddling  # type: ignore[method-assign]
    outcome = applied(lb, {**files, "hosts.map": b"/a Z\n"})
    assert outcome.problem == f"{lb.folder}/hosts.map: haproxy has something else now than the file"
    assert (outcome.files, outcome.digest == "") == ((), False)
    assert outcome.digest not in {digest, lb.read().digest}

    lb.channel.call = call  # type: ignore[method-assign]
    assert applied(lb, files).problem == ""
    assert stores(lb.folder) == fresh(lb.folder)
    assert lb.runs.digest == digest


REFUSALS: Mapping[str, tuple[str, Callable[[dict[str, bytes]], bytes], str]] = {
    "cut": ("site.pem", lambda files: files["two.pem"][:400], "unable to load certificate from file"),
    "garbage": ("site.pem", lambda _: b"garbage", "unable to load certificate from file"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_bad_certificate_is_refused_in_haproxy_s_words(lb: Living, files: dict[str, bytes], kind: str) -> None:
    """haproxy has what it had, and what it runs has the same digest."""
    had, digest = stores(lb.folder), lb.runs.digest
    name, text, words = REFUSALS[kind]
    outcome = applied(lb, {**files, name: text(files)})
    assert outcome.refused
    assert outcome.problem.startswith(f"{lb.folder}/{name}: {words}")
    assert (outcome.digest, lb.runs.digest) == ("", digest)
    assert stores(lb.folder) == had


def test_a_key_that_does_not_fit_is_not_even_given(lb: Living, files: dict[str, bytes]) -> None:
    """A reload says what is wrong, in haproxy's words; the CLI would end somebody's connection."""
    had, digest = stores(lb.folder), lb.runs.digest
    for name, text in (("site.pem", files["tls.pem"] + made()[1]["two"][1]), ("tls.pem.key", made()[1]["two"][1])):
        outcome = applied(lb, {**files, name: text})
        assert outcome.problem.endswith("its private key does not fit its certificate")
        assert (outcome.refused, outcome.digest, lb.runs.digest) == (False, "", digest)
        assert stores(lb.folder) == had


@pytest.mark.parametrize("name", ["site.pem", "tls.pem", "hosts.map", "paths.lst", "ca.pem", "crl.pem", "list.txt"])
def test_a_file_that_is_gone_is_not_an_empty_one(lb: Living, files: dict[str, bytes], name: str) -> None:
    """haproxy would not start without it, and goes on with what it has."""
    had = stores(lb.folder)
    outcome = applied(lb, {path: text for path, text in files.items() if path != name})
    assert outcome.problem.startswith(f"{lb.folder}/{name}")
    assert (outcome.digest, outcome.refused) == ("", False)
    assert stores(lb.folder) == had


def test_a_key_that_is_gone_is_no_certificate_of_its_own(lb: Living, files: dict[str, bytes]) -> None:
    """haproxy calls that bad, as a start would."""
    had = stores(lb.folder)
    outcome = applied(lb, {path: text for path, text in files.items() if path != "tls.pem.key"})
    assert outcome.refused
    assert stores(lb.folder) == had


CHANGES: Mapping[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "a certificate": lambda files: {"site.pem": files["two.pem"]},
    "with its chain first": lambda files: {"site.pem": made()[1]["two"][1] + files["two.pem"] + files["tls.pem"]},
    "a key beside": lambda _: {"tls.pem": made()[1]["two"][0], "tls.pem.key": made()[1]["two"][1]},
    "a map": lambda _: {"hosts.map": b"/a Z\n# c\nonly\n"},
    "an ACL file": lambda _: {"paths.lst": b"/x\n a b \n"},
    "a CA": lambda files: {"ca.pem": files["ca.pem"] + made()[1]["two"][0]},
    "another CA": lambda _: {"ca.pem": made()[1]["two"][0]},
    "a CRL": lambda _: {"crl.pem": (made()[0] / "two.crl").read_bytes()},
    "lines of a crt-list": lambda _: {"list.txt": "".join(f"{line}\n" for line in LIST).encode()},
    "one line less": lambda _: {"list.txt": LIST[0].encode() + b"\n"},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_file_is_taken(lb: Living, files: dict[str, bytes], kind: str) -> None:
    """And is then what a newly started haproxy has; nothing else is."""
    had, changes = stores(lb.folder), CHANGES[kind](files)
    outcome = applied(lb, {**files, **changes})
    assert outcome.problem == ""
    assert {os.path.basename(path) for path in outcome.files} >= {*changes}
    assert outcome.digest == lb.read().digest
    now = stores(lb.folder)
    assert now == fresh(lb.folder)
    assert {name for name in now if now[name] != had[name]} == {*changes} - {"tls.pem.key"}


def test_a_certificate_that_no_line_names_any_more_is_forgotten(lb: Living, files: dict[str, bytes]) -> None:
    """Unless somebody else uses it."""
    assert applied(lb, {**files, "list.txt": LIST[0].encode() + b"\n"}).problem == ""
    assert "two.pem" not in ask(lb.folder, "show ssl cert")
    assert "one.pem" in ask(lb.folder, "show ssl cert")


def test_a_refused_entry_leaves_no_version_behind(lb: Living, files: dict[str, bytes]) -> None:
    """It would cost memory until the next one."""
    outcome = applied(lb, {**files, "nets.map": b"10.0.0.1 x\nno address\n"})
    assert outcome.problem
    assert ask(lb.folder, "show map @1 nets.map").strip() == "" or is_new()


@pytest.mark.parametrize("name", ["ca.pem", "crl.pem", "site.pem", "list.txt"])
def test_somebody_else_s_transaction_is_waited_for_by_a_reload(lb: Living, files: dict[str, bytes], name: str) -> None:
    """haproxy has one at a time, for all."""
    ask(lb.folder, f"set ssl ca-file ca.pem <<\n{files['ca.pem'].decode()}\n")
    changes = {
        "ca.pem": made()[1]["two"][0],
        "crl.pem": (made()[0] / "two.crl").read_bytes(),
        "site.pem": files["two.pem"],
        "list.txt": LIST[0].encode() + b"\n",
    }
    outcome = applied(lb, {**files, name: changes[name]})
    assert outcome.problem.startswith("somebody else has a transaction for ca.pem")
    assert outcome.digest == ""
    assert ask(lb.folder, "show ssl ca-file").startswith("# transaction\n*ca.pem")


def test_a_file_that_haproxy_has_not_loaded_is_a_reload(lb: Living, files: dict[str, bytes]) -> None:
    """Nothing is sent, not even of the files that it could take."""
    had = stores(lb.folder)
    lb.disk = disk_of(lb.folder, "note")
    outcome = applied(lb, {**files, "note": b"x", "hosts.map": b"/a Z\n"})
    assert outcome.problem == f"{lb.folder}/note is nothing that haproxy can take while it runs"
    assert stores(lb.folder) == had


def test_a_change_after_the_look_is_not_given(lb: Living, files: dict[str, bytes]) -> None:
    """What haproxy has would have another digest than what is noted."""
    had, read = stores(lb.folder), lb.disk.read

    def read_and_change(*arguments: Mapping[str, bytes]) -> ConfigSnapshot:
        found = read(*arguments)  # type: ignore[arg-type]
        write(lb.folder, {**files, "hosts.map": b"/later Z\n"})
        return found

    lb.disk.read = read_and_change  # type: ignore[assignment,method-assign]
    outcome = applied(lb, {**files, "hosts.map": b"/a Z\n"})
    assert outcome.problem == f"{lb.folder}/hosts.map: it has changed again"
    assert stores(lb.folder) == had


def test_haproxy_says_what_it_has_read(lb: Living, files: dict[str, bytes]) -> None:
    """All of it, but for what is known, whatever its name, and the files that are gone."""
    loaded = {name for name in files if name not in {"haproxy.cfg", "three.pem", "four.pem", "tls.pem.key"}}
    loaded -= {"store.key", "store.crt"}
    nothing = replace(lb.disk.read(), digests={})
    assert {*applying.reported(lb.channel, lb.disk, nothing)} == loaded
    (lb.folder / "alias").symlink_to("site.pem")
    (lb.folder / "paths.lst").unlink()
    named = replace(nothing, digests=dict.fromkeys((lb.disk.at("hosts.map"), lb.disk.at("alias")), b"known"))
    assert {*applying.reported(lb.channel, lb.disk, named)} == loaded - {"hosts.map", "site.pem", "paths.lst"}


def test_before_3_2_8_no_certificate_is_set_after_a_ca(lb: Living, files: dict[str, bytes]) -> None:
    """It would not reach every `bind`; from then on it does."""
    files["ca.pem"] = made()[1]["two"][0]
    assert applied(lb, files).has_authorities
    outcome = applied(lb, {**files, "site.pem": files["two.pem"]})
    if version(WORDS) < 3.2:
        assert outcome.problem.startswith("before HAProxy 3.2.8")
    else:
        assert outcome.problem == ""
        assert stores(lb.folder) == fresh(lb.folder)


def test_selected_files_beside_a_certificate_are_a_reload(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Which of them haproxy reads is not known."""
    files["haproxy.cfg"] = files["haproxy.cfg"].replace(b"global\n", b"global\n  ssl-load-extra-files key\n")
    folder = tmp_path / "f"
    folder.mkdir()
    write(folder, files)
    with living(folder) as found:
        assert found
        crt, key = made()[1]["two"]
        assert "ssl-load-extra-files" in applied(found, {**files, "tls.pem": crt, "tls.pem.key": key}).problem


@pytest.mark.parametrize("kind", CHANGES)
def test_a_lost_answer_means_neither_the_old_nor_the_new_content(
    lb: Living, files: dict[str, bytes], kind: str
) -> None:
    """haproxy has taken it, and says so too late: the old content is a change then, and can be given."""
    digest, call = lb.runs.digest, lb.channel.call

    def losing(command: str, payload: bytes = b"", *, until: float) -> bytes:
        answer = call(command, payload, until=until)
        if command.startswith(("commit ", "add ssl crt-list", "del ssl crt-list")):
            raise TimeoutError("timed out")
        return answer

    lb.channel.call = losing  # type: ignore[method-assign]
    outcome = applied(lb, {**files, **CHANGES[kind](files)})
    assert "timed out" in outcome.problem
    assert outcome.files == ()
    assert outcome.digest not in {"", digest, lb.read().digest}
    lb.channel.call = call  # type: ignore[method-assign]
    outcome = applied(lb, files)
    if kind in {"one line less", "lines of a crt-list"}:
        # Nothing is guessed: that is a reload.
        assert outcome.problem
    else:
        assert outcome.problem == ""
        assert stores(lb.folder) == fresh(lb.folder)
        assert lb.runs.digest == digest


def interrupt(lb: Living, begins: tuple[str, ...], harm: Callable[[], None], *, after: bool = False) -> None:
    """Do harm beside the first command that begins like one of these, before it or after its answer."""
    call = lb.channel.call

    def interrupted(command: str, payload: bytes = b"", *, until: float) -> bytes:
        if not command.startswith(begins):
            return call(command, payload, until=until)
        lb.channel.call = call  # type: ignore[method-assign]
        if not after:
            harm()
        answer = call(command, payload, until=until)
        if after:
            harm()
        return answer

    lb.channel.call = interrupted  # type: ignore[method-assign]


def lose() -> None:
    """Have no answer."""
    raise TimeoutError("timed out")


def pem(text: bytes) -> str:
    """Return it as the payload of a command."""
    return f"<<\n{text.decode().strip()}\n"


BEFORE_THE_COMMIT = ("set ssl ", "add map", "prompt\nadd acl", "add ssl ca-file", "show ssl crl-file *")


@pytest.mark.parametrize("kind", CHANGES)
def test_an_answer_that_is_lost_before_the_commit_leaves_nothing_behind(
    lb: Living, files: dict[str, bytes], kind: str
) -> None:
    """What was begun is taken back; haproxy has what it had, and that is known."""
    had, digest, changes = stores(lb.folder), lb.runs.digest, CHANGES[kind](files)
    if kind == "one line less":
        pytest.skip("this is one command")
    interrupt(lb, BEFORE_THE_COMMIT, lose, after=True)
    outcome = applied(lb, {**files, **changes})
    assert outcome.problem.endswith("timed out")
    assert (outcome.digest, outcome.refused, lb.runs.digest) == ("", False, digest)
    assert stores(lb.folder) == had
    assert "three.pem" not in ask(lb.folder, "show ssl cert")
    for name in ("map hosts.map", "acl paths.lst") if not is_new() else ():
        # 3.5 leaves it there until the next one.
        kept, _, of = name.partition(" ")
        assert ask(lb.folder, f"show {kept} @1 {of}").strip() == ""
    assert applied(lb, {**files, **changes, "ip.lst": b"10.0.0.2\n"}).problem == ""
    assert stores(lb.folder) == fresh(lb.folder)


SOMEBODY_ELSE: Mapping[str, tuple[str, str, Callable[[dict[str, bytes]], list[str]]]] = {
    "a certificate": (
        "site.pem",
        "show ssl cert site.pem",
        lambda files: [f"set ssl cert site.pem {pem(files['three.pem'])}", "commit ssl cert site.pem"],
    ),
    "another CA": (
        "ca.pem",
        "show ssl ca-file ca.pem",
        lambda files: [f"set ssl ca-file ca.pem {pem(files['tls.pem'])}", "commit ssl ca-file ca.pem"],
    ),
    "a CRL": (
        "crl.pem",
        "show ssl crl-file crl.pem",
        lambda files: [f"set ssl crl-file crl.pem {pem(files['crl.pem'])}", "commit ssl crl-file crl.pem"],
    ),
    "lines of a crt-list": (
        "list.txt",
        "show ssl crt-list list.txt",
        lambda _: ["add ssl crt-list list.txt one.pem"],
    ),
}
"""Commands of somebody else, for the moment in which we ask what haproxy has."""


@pytest.mark.parametrize("kind", SOMEBODY_ELSE)
def test_whatever_haproxy_has_instead_is_noticed(lb: Living, files: dict[str, bytes], kind: str) -> None:
    """The answer to a commit is not what counts."""
    name, shows, commands = SOMEBODY_ELSE[kind]

    def harm() -> None:
        for command in commands(files):
            ask(lb.folder, command)

    interrupt(lb, (shows,), harm)
    digest, changes = lb.runs.digest, CHANGES[kind](files)
    outcome = applied(lb, {**files, **changes})
    assert outcome.problem == f"{lb.folder}/{name}: haproxy has something else now than the file"
    assert (outcome.files, outcome.refused) == ((), False)
    assert outcome.digest not in {"", digest, lb.read().digest}


@pytest.mark.parametrize("kind", [kind for kind in SOMEBODY_ELSE if "list" not in kind])
def test_somebody_else_s_next_transaction_is_not_aborted(lb: Living, files: dict[str, bytes], kind: str) -> None:
    """Ours was over, and only its look at haproxy has failed."""
    _, shows, commands = SOMEBODY_ELSE[kind]

    def harm() -> None:
        ask(lb.folder, commands(files)[0])
        lose()

    interrupt(lb, (shows,), harm)
    assert applied(lb, {**files, **CHANGES[kind](files)}).problem.endswith("timed out")
    assert ask(lb.folder, " ".join(shows.split()[:3])).startswith("# transaction\n*")


def test_lines_that_were_added_stay_if_others_cannot_be_removed(lb: Living, files: dict[str, bytes]) -> None:
    """Nothing tells where a removed one was: a reload puts all in order."""
    interrupt(lb, ("show ssl crt-list list.txt",), lose)
    outcome = applied(lb, {**files, "list.txt": f"{LIST[0]}\n{LIST[2]}\n".encode()})
    assert outcome.problem.endswith("timed out")
    assert outcome.digest not in {"", lb.read().digest}
    assert stores(lb.folder) == fresh(lb.folder)


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if "ACL" not in kind])
def test_what_was_not_begun_is_what_it_was(lb: Living, files: dict[str, bytes], kind: str) -> None:
    """A job that has succeeded says nothing of the next one."""
    outcome = applied(lb, {**files, **CHANGES[kind](files), "ip.lst": b"no address\n"})
    assert outcome.problem.startswith(f"{lb.folder}/ip.lst: 'no")
    assert {os.path.basename(path) for path in outcome.files} >= {*CHANGES[kind](files)}
    write(lb.folder, {**files, **CHANGES[kind](files)})
    assert lb.read().digest == outcome.digest
    assert lb.apply() is None


def test_lines_before_a_bad_one_are_taken_back(lb: Living, files: dict[str, bytes]) -> None:
    """With their certificates."""
    had = stores(lb.folder)
    changes = {"list.txt": "".join(f"{line}\n" for line in LIST).encode(), "four.pem": b"garbage"}
    outcome = applied(lb, {**files, **changes})
    assert outcome.problem.startswith(f"{lb.folder}/list.txt: {lb.folder}/four.pem: unable to load certificate")
    assert outcome.refused
    assert stores(lb.folder) == had
    assert not {"three.pem", "four.pem"} & {*ask(lb.folder, "show ssl cert").split()}
    assert "three" not in ask(lb.folder, "show ssl crt-list list.txt")
    assert applied(lb, {**files, "list.txt": changes["list.txt"]}).problem == ""
    assert stores(lb.folder) == fresh(lb.folder)


def test_a_certificate_that_is_gone_with_its_line_is_known_to_be_gone(lb: Living, files: dict[str, bytes]) -> None:
    """Also if something else was not taken: the rest is what is on disk then."""
    files = {**files, "list.txt": f"{LIST[0]}\n".encode()}
    del files["two.pem"]
    outcome = applied(lb, {**files, "ip.lst": b"no address\n"})
    assert {os.path.basename(path) for path in outcome.files} == {"list.txt", "two.pem"}
    write(lb.folder, files)
    assert lb.read().digest == outcome.digest


def test_a_line_of_which_no_answer_tells_may_be_there(lb: Living, files: dict[str, bytes]) -> None:
    """The certificate is known to be, and the old list is not what haproxy has."""
    digest = lb.runs.digest
    interrupt(lb, ("add ssl crt-list",), lose, after=True)
    outcome = applied(lb, {**files, "list.txt": "".join(f"{line}\n" for line in LIST[:3]).encode()})
    assert outcome.problem.endswith("timed out")
    assert outcome.files == ()
    assert outcome.digest not in {"", digest, lb.read().digest}


def test_a_line_that_may_mean_two_certificates_is_a_reload(
    other: Callable[..., Living], files: dict[str, bytes]
) -> None:
    """haproxy has each by its name, and the line may have either."""
    lb = other(("ssl crt tls.pem", "ssl crt tls.pem crt ./two.pem"))
    had = stores(lb.folder)
    outcome = applied(lb, {**files, "list.txt": f"{LIST[0]}\n".encode()})
    assert outcome.problem == f"{lb.folder}/list.txt: two.pem is not one file, or names others"
    assert stores(lb.folder) == had


def test_a_crt_list_in_another_order_is_a_reload(lb: Living, files: dict[str, bytes]) -> None:
    """Nothing is sent."""
    had = stores(lb.folder)
    outcome = applied(lb, {**files, "list.txt": f"{LIST[1]}\n{LIST[0]}\n".encode(), "hosts.map": b"/a Z\n"})
    assert outcome.problem.startswith(f"{lb.folder}/list.txt: more has changed in it")
    assert stores(lb.folder) == had


def test_what_is_too_long_for_a_command_is_a_reload(lb: Living, files: dict[str, bytes]) -> None:
    """At some lengths haproxy says nothing, or dies."""
    had = stores(lb.folder)
    chain = files["tls.pem"] * 30
    assert len(chain) > 15360
    outcome = applied(lb, {**files, "site.pem": files["site.pem"] + chain})
    assert outcome.problem == f"{lb.folder}/site.pem: it is too long for a command: more than 15360 bytes"
    assert (outcome.digest, outcome.refused) == ("", False)
    assert stores(lb.folder) == had


def test_a_ca_file_that_is_too_long_for_a_command_needs_several(
    lb: Living, files: dict[str, bytes], tmp_path: Path
) -> None:
    """HAProxy 2.6 has none that adds to a CA file: what was begun is taken back. The same certificate twice is one."""
    had = stores(lb.folder)
    (tmp_path / "many").mkdir()
    many = "".join(key_pair(tmp_path / "many", f"{number}")[0] for number in range(30)) * 2
    outcome = applied(lb, {**files, "ca.pem": many.encode()})
    if is_new():
        assert outcome.problem == ""
        assert stores(lb.folder) == fresh(lb.folder)
    else:
        assert outcome.problem.startswith(f"{lb.folder}/ca.pem: Unknown command")
        assert outcome.digest == ""
        assert stores(lb.folder) == had


@pytest.mark.parametrize(("name", "label"), [("ca.pem", "CERTIFICATE"), ("crl.pem", "X509 CRL")])
def test_haproxy_s_words_about_a_bad_ca_or_crl_file_are_told(
    lb: Living, files: dict[str, bytes], name: str, label: str
) -> None:
    """They are no refusal: a reload says more."""
    had = stores(lb.folder)
    outcome = applied(lb, {**files, name: f"-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n".encode()})
    assert outcome.problem == f"{lb.folder}/{name}: Invalid payload"
    assert (outcome.digest, outcome.refused) == ("", False)
    assert stores(lb.folder) == had


@pytest.mark.parametrize("name", ["crl.pem", "ca.pem"])
def test_a_payload_that_haproxy_cuts_is_never_in_use(lb: Living, files: dict[str, bytes], name: str) -> None:
    """As 3.5 may cut it without a word; the transaction shows no more than what has arrived."""
    folder, extension = made()[0], "crl" if name == "crl.pem" else "crt"
    one, two = ((folder / f"{who}.{extension}").read_bytes() for who in ("one", "two"))
    call, had = lb.channel.call, stores(lb.folder)

    def cutting(command: str, payload: bytes = b"", *, until: float) -> bytes:
        return call(command, one if command.startswith(("set ssl crl", "set ssl ca")) else payload, until=until)

    lb.channel.call = cutting  # type: ignore[method-assign]
    outcome = applied(lb, {**files, name: two + one})
    assert outcome.problem == f"{lb.folder}/{name}: haproxy has not read all of it"
    assert outcome.digest == ""
    assert stores(lb.folder) == had


@pytest.mark.parametrize(("beside", "error"), [(True, CannotError), (False, RefusedError)])
def test_a_key_that_a_start_would_not_check_is_refused_for_good(beside: bool, error: type[Exception]) -> None:
    """A crt-store's, and one that is named: a new haproxy would take it. Nothing is sent to this one."""
    pool = made()[1]
    texts = {"a.crt": pool["one"][0], "a.key": pool["two"][1]}
    channel = CliChannel()
    channel.spawned()
    try:
        transactions = Transactions(channel, texts.get, 15360, 0.0)
        with pytest.raises(error, match=r"^a\.crt: its private key does not fit its certificate$"):
            transactions.set_certificate(Certificate(Store("@web/a", "a.crt", key="a.key"), beside))
        assert not transactions.is_unsure
    finally:
        channel.close()


def test_an_ed25519_certificate_is_taken(lb: Living, files: dict[str, bytes], tmp_path: Path) -> None:
    """haproxy says neither its fingerprint nor its algorithm (up to 3.5)."""
    (tmp_path / "ed").mkdir()
    crt, key = key_pair(tmp_path / "ed", "ed", ("ed25519",))
    # A CA twice in a file is one in haproxy.
    outcome = applied(lb, {**files, "site.pem": f"{crt}{key}".encode(), "ca.pem": 2 * crt.encode()})
    assert outcome.problem == ""
    assert len(outcome.files) == 2
    assert stores(lb.folder) == fresh(lb.folder)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (MemoryError(), "there is not enough memory"),
        (ValueError("odd\nwords"), r"odd\nwords"),
    ],
    ids=["OSError", "MemoryError", "ValueError"],
)
@pytest.mark.parametrize("command", ["show ssl cert", "prepare map"])
def test_whatever_goes_wrong_is_told_and_is_a_reload(
    lb: Living, files: dict[str, bytes], command: str, error: Exception, problem: str
) -> None:
    """In one line, with the file if it is one's; nothing was taken."""

    def harm() -> None:
        raise error

    interrupt(lb, (command,), harm)
    outcome = applied(lb, {**files, "hosts.map": b"/a Z\n"})
    named = f"{lb.folder}/hosts.map: " if command == "prepare map" and isinstance(error, OSError) else ""
    assert outcome == Outcome(problem=f"{named}{problem}")


def test_a_file_that_is_too_large_to_be_given_is_a_reload(lb: Living, files: dict[str, bytes]) -> None:
    """It is not read to its end, and haproxy reads it faster."""
    had = stores(lb.folder)
    outcome = applied(lb, {**files, "hosts.map": b"# " + b"x" * (16 << 20) + b"\n"})
    assert outcome.problem.startswith(f"{lb.folder}/hosts.map: it has more than ")
    assert stores(lb.folder) == had


@pytest.fixture
def other(tmp_path: Path, files: dict[str, bytes]) -> Iterator[Callable[..., Living]]:
    """A function that starts one whose configuration and files differ."""
    with ExitStack() as stack:

        def start(*replaced: tuple[str, str], **more: bytes) -> Living:
            text = files["haproxy.cfg"].decode()
            for old, new in replaced:
                assert old in text
                text = text.replace(old, new)
            files.update({"haproxy.cfg": text.encode(), **{name.replace("_", "."): more[name] for name in more}})
            folder = tmp_path / "other"
            folder.mkdir()
            write(folder, files)
            found = stack.enter_context(living(folder))
            assert found
            return found

        yield start


def test_a_key_beside_a_certificate_that_has_one_is_not_haproxy_s(
    other: Callable[..., Living], files: dict[str, bytes]
) -> None:
    """haproxy looks for it only if there is none; whose it is does not matter."""
    lb = other(site_pem_key=made()[1]["four"][1])
    assert applied(lb, {**files, "site.pem": files["two.pem"]}).problem == ""
    assert stores(lb.folder) == fresh(lb.folder)
    assert applied(lb, {**files, "site.pem": files["two.pem"], "site.pem.key": made()[1]["three"][1]}).problem == ""
    assert stores(lb.folder) == fresh(lb.folder)


def test_the_key_of_a_crt_may_have_another_name(other: Callable[..., Living], files: dict[str, bytes]) -> None:
    """Where the configuration says so, and nowhere else."""
    crt, key = made()[1]["one"]
    changes = dict(zip(("x.crt", "x.key"), made()[1]["two"], strict=True))
    lb = other(
        ("global\n", "global\n  ssl-load-extra-del-ext\n"), ("ssl crt tls.pem", "ssl crt x.crt"), x_crt=crt, x_key=key
    )
    outcome = applied(lb, {**files, **changes})
    assert (outcome.problem, len(outcome.files)) == ("", 2)
    assert stores(lb.folder) == fresh(lb.folder)
    same_key = applied(lb, {**files, **changes, "x.key": changes["x.key"] + b"# comment\n"})
    assert same_key.problem == ""
    assert stores(lb.folder) == fresh(lb.folder)


@pytest.mark.parametrize("kind", ["issuer", "sctl"])
def test_other_files_beside_a_certificate_are_a_reload(
    other: Callable[..., Living], files: dict[str, bytes], kind: str
) -> None:
    """The CLI takes an issuer that a start refuses, and haproxy dies of a list of SCTs."""
    lb = other(tls_pem_issuer=made()[1]["one"][0])
    had, (crt, key) = stores(lb.folder), made()[1]["two"]
    changes = {"tls.pem": crt, "tls.pem.key": key, f"tls.pem.{kind}": files["tls.pem.issuer"]}
    outcome = applied(lb, {**files, **changes})
    assert outcome.problem == f"{lb.folder}/tls.pem: it has an .issuer or .sctl file"
    assert (outcome.digest, outcome.refused, stores(lb.folder)) == ("", False, had)


def test_only_a_changed_response_is_given_alone(other: Callable[..., Living], files: dict[str, bytes]) -> None:
    """With it the certificate stays as it is, also one with an issuer beside it, which cannot be set."""
    authority = Authority(made()[0], "signer")
    crt, key = authority.signs("leaf")
    old, new = authority.responds("leaf", 3, 7)
    lb = other(tls_pem=crt.encode(), tls_pem_key=key.encode(), tls_pem_issuer=authority.crt.encode(), tls_pem_ocsp=old)
    (shown,) = (line for line in ask(lb.folder, "show ssl cert tls.pem").splitlines() if "OCSP Response Key" in line)
    response = f"show ssl ocsp-response {shown.split(': ')[1]}"
    (before,) = (line for line in ask(lb.folder, response).splitlines() if "Next Update" in line)
    outcome = applied(lb, {**files, "tls.pem.ocsp": new})
    assert (outcome.problem, outcome.files) == ("", (f"{lb.folder}/tls.pem.ocsp",))
    assert before not in ask(lb.folder, response)
    assert "Next Update" in ask(lb.folder, response)
    outcome = applied(lb, {name: text for name, text in files.items() if name != "tls.pem.ocsp"})
    assert outcome.problem == f"{lb.folder}/tls.pem: it has an .issuer or .sctl file"


def test_a_certificate_that_is_used_elsewhere_outlives_its_line(
    other: Callable[..., Living], files: dict[str, bytes]
) -> None:
    """And is renewed in the same moment."""
    lb = other(("ssl crt tls.pem", "ssl crt tls.pem crt two.pem"))
    outcome = applied(lb, {**files, "list.txt": f"{LIST[0]}\n".encode(), "two.pem": files["three.pem"]})
    assert outcome.problem == ""
    assert certificate_at(lb.folder / "tls.sock", "three") == as_shown(files["three.pem"])
    assert stores(lb.folder) == fresh(lb.folder)
    # The line is back, with another content at once.
    outcome = applied(lb, {**files, "list.txt": f"{LIST[0]}\ntwo.pem two\n".encode(), "two.pem": files["four.pem"]})
    assert outcome.problem == ""
    assert certificate_at(lb.folder / "tls.sock", "four") == as_shown(files["four.pem"])
    assert stores(lb.folder) == fresh(lb.folder)


def as_shown(text: bytes) -> str:
    """Return a certificate as `certificate_at` does."""
    return ssl.PEM_cert_to_DER_cert(text.decode().partition("-----BEGIN PRIVATE")[0]).hex()


def test_where_relative_names_have_another_folder_nothing_is_guessed(
    other: Callable[..., Living], files: dict[str, bytes]
) -> None:
    """haproxy shows them without it: a file of that name may be another one."""
    lb = other(("global\n", "global\n  default-path config\n"))
    had = stores(lb.folder)
    outcome = applied(lb, {**files, "hosts.map": b"/a Z\n"})
    assert outcome.problem == f"{lb.folder}/hosts.map is nothing that haproxy can take while it runs"
    assert stores(lb.folder) == had
    assert list(applying.reported(lb.channel, lb.disk, replace(lb.disk.read(), digests={}))) == []


def test_a_name_with_its_folder_is_known_wherever_others_are_relative_to(
    other: Callable[..., Living], files: dict[str, bytes], tmp_path: Path
) -> None:
    """It is the same file for everybody."""
    path = str(tmp_path / "other" / "hosts.map")
    lb = other(("global\n", "global\n  default-path config\n"), ("map(hosts.map,none)", f"map({path},none)"))
    assert list(applying.reported(lb.channel, lb.disk, replace(lb.disk.read(), digests={}))) == [path]
    write(lb.folder, {**files, "hosts.map": b"/a Z\n"})
    outcome = lb.apply()
    assert outcome
    assert (outcome.problem, outcome.files) == ("", (path,))


def test_a_map_that_is_an_acl_file_as_well_is_a_reload(other: Callable[..., Living], files: dict[str, bytes]) -> None:
    """Each of the two commands would set the other's entries, too."""
    lb = other(("path_beg -f paths.lst", "path_beg -M -f hosts.map"))
    assert "hosts.map" in ask(lb.folder, "show acl")
    had = ask(lb.folder, "show map hosts.map")
    outcome = applied(lb, {**files, "hosts.map": b"/a Z\n"})
    assert outcome.problem == f"{lb.folder}/hosts.map is a map and an ACL file at once"
    assert ask(lb.folder, "show map hosts.map") == had


needs_stores = pytest.mark.skipif(not WORDS or not is_new(), reason="this HAProxy knows no crt-store")


@needs_stores
def test_a_named_key_that_does_not_fit_is_final(lb: Living, files: dict[str, bytes]) -> None:
    """A new haproxy would start with it, and every handshake would fail."""
    had = stores(lb.folder)
    outcome = applied(lb, {**files, "store.key": made()[1]["two"][1]})
    assert outcome.problem == f"{lb.folder}/store.crt: its private key does not fit its certificate"
    assert outcome.refused
    assert stores(lb.folder) == had


@needs_stores
def test_a_certificate_with_a_named_key_is_left_alone_if_nothing_of_it_has_changed(
    lb: Living, files: dict[str, bytes]
) -> None:
    """Like any other one that somebody has set."""
    ask(lb.folder, f"set ssl cert @web/a {pem(files['three.pem'])}")
    ask(lb.folder, "commit ssl cert @web/a")
    theirs = certificate_at(lb.folder / "store.sock")
    assert theirs == as_shown(files["three.pem"])
    assert applied(lb, {**files, "site.pem": files["two.pem"]}).problem == ""
    assert certificate_at(lb.folder / "store.sock") == theirs


@needs_stores
def test_a_named_key_counts_whatever_the_certificate_has(lb: Living, files: dict[str, bytes]) -> None:
    """As haproxy reads it at a start."""
    (crt, key), (_, another) = made()[1]["two"], made()[1]["three"]
    assert applied(lb, {**files, "store.crt": crt + another, "store.key": key}).problem == ""
    assert stores(lb.folder) == fresh(lb.folder)


@needs_stores
def test_a_certificate_that_has_two_keys_by_the_configuration_is_a_reload(
    other: Callable[..., Living], files: dict[str, bytes]
) -> None:
    """Only haproxy knows which branch of a condition it has taken."""
    load = "load crt store.crt key store.key alias a\n"
    both = f".if version_atleast(99.0)\n{load.replace('store.key', 'tls.pem.key')}.else\n{load}.endif\n"
    lb = other((load, both))
    had = stores(lb.folder)
    outcome = applied(lb, {**files, **dict(zip(("store.crt", "store.key"), made()[1]["two"], strict=True))})
    assert outcome.problem == "the configuration has two different certificates @web/a"
    assert stores(lb.folder) == had


@needs_stores
def test_a_new_line_that_names_a_key_is_a_reload(other: Callable[..., Living], files: dict[str, bytes]) -> None:
    """haproxy knows no such certificate, and a command for it has no such options."""
    crt, key = made()[1]["three"]
    lb = other(x_crt=crt, x_key=key)
    had = stores(lb.folder)
    outcome = applied(lb, {**files, "list.txt": files["list.txt"] + b"x.crt [key x.key] x\n"})
    assert outcome.problem == f"{lb.folder}/list.txt: x.crt is not one file, or names others"
    assert stores(lb.folder) == had
