"""Files change as they do in practice: each change is one reload, and what is none is none."""

import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.certificates import key_pair
from tests.container.conftest import IMAGES, Balancer, Start, configuration
from tests.container.gate import GATE, make_gate, open_gate, who_waits
from tests.container.trouble import Crowd, say, status
from tests.container.volumes import UID, ConfigMap, no_inotify, replace
from tests.waiting import eventually

DEBOUNCE = 0.2
QUICK = ("--debounce", f"{DEBOUNCE}")
A_WHILE = 10 * DEBOUNCE
"""After so long even what is never quiet has been looked at."""
FIRST, SECOND, THIRD = "one", "two", "three"


def reloads(lb: Balancer) -> dict[tuple[str, str], int]:
    """Return how many reloads there were, by trigger and result; files that the current generation takes count."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in status(lb)["reloads"]:
        counts[row["trigger"], row["result"]] += row["count"]
    return dict(counts)


def done(count: int) -> dict[tuple[str, str], int]:
    """Return what `reloads` says after so many for changed files, all well."""
    return {("files", "success"): count} if count else {}


def _is_done(lb: Balancer, count: int) -> None:
    """Wait until so many reloads are done: a new generation answers before it is current, and may be passed over."""
    eventually(lambda: reloads(lb) == done(count))


@pytest.fixture
def start(start: Start) -> Start:
    """Start containers that watch their files."""
    return partial(start, watch="auto")


@pytest.fixture
def watching(start: Start, image: str) -> Balancer:
    """A container that serves "one", and whose files need not be quiet for long."""
    return start(image, options=QUICK).begins(FIRST)


@pytest.fixture
def crowd(watching: Balancer) -> Iterator[Crowd]:
    """Clients of it, none of which may fail."""
    with Crowd(watching, 300, 1) as clients:
        yield clients
    say(clients.ends)
    assert clients.ends.failures == []


# ---- a ConfigMap ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("older", [False, True], ids=["newer", "older"])
def test_each_swap_of_a_configmap_is_one_reload(start: Start, image: str, older: bool) -> None:
    """Under load, by a user who is not root, with files that the older kubelet gives to its group too late."""
    maps: list[ConfigMap] = []

    def prepare(folder: Path) -> None:
        maps.append(ConfigMap(folder, older=older, group=UID))
        maps[0].publish({"haproxy.cfg": configuration(FIRST)})

    options = {"user": f"{UID}:{UID}", "tmpfs": {"/run/safe_reload": "mode=1777"}}
    lb = start(image, options=QUICK, prepare=prepare, **options).begins(FIRST)
    with Crowd(lb, 300, 1) as crowd:
        for number in range(4):
            keys = {"haproxy.cfg": configuration(f"swap {number}")}
            if number % 2:
                keys["more.txt"] = "a key that comes and goes"
            maps[0].publish(keys)
            lb.serves(f"swap {number}")
            _is_done(lb, number + 1)
        crowd.goes_on_for(A_WHILE)
    say(crowd.ends)

    assert crowd.ends.failures == []
    _is_done(lb, 4)
    assert status(lb)["watch"]["mode"] == "inotify"
    assert '"polling"' not in lb.log and "--poll" not in lb.log


def test_files_that_are_swapped_as_a_set_are_never_mixed(start: Start, image: str) -> None:
    """In a storm of swaps and reloads whoever is current has read one version of both files, and the last one wins.

    One that has read a mixture may answer until that is found out, a moment after it has begun to listen.
    """
    files = ("10.cfg", "20.cfg")
    maps: list[ConfigMap] = []

    def version(number: int) -> dict[str, str]:
        text = configuration(f"{number} ${{OTHER}} ${{SAFE_RELOAD_GENERATION}}")
        return {"10.cfg": f"global\n    setenv OTHER {number}\n", "20.cfg": text}

    def prepare(folder: Path) -> None:
        maps.append(ConfigMap(folder))
        maps[0].publish(version(0))

    operands = tuple(word for name in files for word in ("-f", f"/etc/lb/{name}"))
    lb = start(image, options=("--debounce", "0.02"), operands=operands, prepare=prepare).begins("0 0 1")
    answers: Counter[str] = Counter()
    number = 0
    end = time.monotonic() + 5
    with Crowd(lb, 100, 1) as crowd:
        while time.monotonic() < end or len(answers) <= 3:
            number += 1
            maps[0].publish(version(number))
            lb.kill("USR1")
            soon = time.monotonic() + 0.05
            while time.monotonic() < soon:
                answers[lb.get()] += 1
        eventually(lambda: lb.get().startswith(f"{number} {number} "))
    torn = {int(found) for found in re.findall(r"generation (\d+) \(pid \d+\) is not used: the files", lb.log)}
    served = lb.log.count(" is current")
    say(f"{number} swaps, {served} generations, {len(torn)} not used, {len(answers)} versions seen; {crowd.ends}")

    mixed = [(first, other, int(number)) for first, other, number in map(str.split, answers) if first != other]
    # After three in a row the next one serves as it is.
    assert [one for one in mixed if not {one[2]} <= torn and not {one[2] - back for back in (1, 2, 3)} <= torn] == []
    assert crowd.ends.failures == []


def test_one_that_has_read_a_mixture_is_not_used(start: Start, image: str) -> None:
    """Two files change while a candidate is between them: another one takes its place, and only that one is current."""
    text = configuration("%s").replace('string "%s"', 'lf-string "%s %%[str(x),map(/etc/lb/x.map)]"')

    def prepare(folder: Path) -> None:
        publish(folder, 1)

    def publish(folder: Path, number: int, more: str = "") -> None:
        replace(folder / "haproxy.cfg", more + text.replace("%s", str(number)).replace("%%", "%"))
        replace(folder / "x.map", f"x {number}\n")

    lb = start(image, watch="off", prepare=prepare).begins("1 1")
    make_gate(lb)
    publish(lb.folder, 2, GATE)
    lb.kill("USR1")
    who_waits(lb)
    publish(lb.folder, 3)
    open_gate(lb)
    lb.serves("3 3")
    eventually(lambda: "is current; asked for by SIGUSR1" in lb.log)

    assert re.findall(r"generation (\d) \(pid \d+\) is (current|not used)", lb.log) == [
        ("1", "current"),
        ("2", "not used"),
        ("3", "current"),
    ]


# ---- a folder, or a file, that is mounted --------------------------------------------------------------------------


def test_each_way_of_writing_a_file_is_one_reload(watching: Balancer, crowd: Crowd) -> None:
    """In place, by a rename, or removed and made anew; nobody notices any of it."""
    path = watching.folder / "haproxy.cfg"

    def make_anew(text: str) -> None:
        path.unlink()
        path.write_text(text)

    def in_pieces(text: str) -> None:
        with path.open("w") as file:
            for line in text.splitlines(keepends=True):
                file.write(line)
                file.flush()

    ways: tuple[Callable[[str], object], ...] = (watching.edit, lambda text: replace(path, text), make_anew, in_pieces)
    for number, way in enumerate(ways):
        way(configuration(f"way {number}"))
        watching.serves(f"way {number}")
        crowd.goes_on_for(A_WHILE)
        _is_done(watching, number + 1)


def test_a_single_file_that_is_mounted_is_followed_as_long_as_it_can_be(
    start: Start, image: str, tmp_path: Path
) -> None:
    """Written in place it is reloaded; replaced where it comes from it can never change again, and that is said."""
    path = tmp_path / "single.cfg"
    path.write_text(configuration(FIRST))
    single = {str(path): {"bind": "/single.cfg", "mode": "ro"}}
    lb = start(image, options=QUICK, operands=("-f", "/single.cfg"), volumes=single).begins(FIRST)
    assert status(lb)["watch"] == {"mode": "inotify", "stale_mounts": [], "files": 1}

    path.write_text(configuration(SECOND))
    lb.serves(SECOND)
    assert "can never change" not in lb.log

    replace(path, configuration(THIRD))
    eventually(lambda: status(lb)["watch"]["stale_mounts"] == ["/single.cfg"])
    assert lb.log.count("/single.cfg can never change again") == 1
    assert lb.get() == SECOND
    _is_done(lb, 1)

    code, text = lb.run("safe_reload", "reload")
    assert code == 0
    assert "/single.cfg can never change again" in text


# ---- what a configuration names ------------------------------------------------------------------------------------

TLS = """\
frontend tls_file
    bind "fd@${FD_FILE}" ssl crt /etc/lb/file.pem
    http-request return status 200
frontend tls_folder
    bind "fd@${FD_FOLDER}" ssl crt /etc/lb/crts/
    http-request return status 200
"""
FILE, FOLDER = 8443, 8444


def _key_pair(name: str, tmp_path: Path) -> tuple[str, bytes]:
    """Return a new key with its certificate as haproxy has them, and the certificate as clients get it."""
    crt, key = key_pair(tmp_path, name)
    return crt + key, ssl.PEM_cert_to_DER_cert(crt)


def _handshake(lb: Balancer, port: int, name: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(lb.connect(port), server_hostname=name) as client:
        return client.getpeercert(binary_form=True) or b""


def test_a_new_certificate_is_served_by_the_next_handshake(start: Start, image: str, tmp_path: Path) -> None:
    """Applied once if it is replaced, or written in a folder; one reload if it is new there."""
    names = ("a.example", "b.example", "c.example", "d.example", "e.example")
    pairs = {name: _key_pair(name, tmp_path) for name in names}

    def prepare(folder: Path) -> None:
        (folder / "crts").mkdir()
        (folder / "file.pem").write_text(pairs["a.example"][0])
        (folder / "crts" / "b.pem").write_text(pairs["b.example"][0])
        (folder / "haproxy.cfg").write_text(configuration(FIRST, TLS))

    vips = f"127.0.0.1:8080:FD_WEB,127.0.0.1:{FILE}:FD_FILE,127.0.0.1:{FOLDER}:FD_FOLDER"
    lb = start(image, options=QUICK, vips=vips, prepare=prepare).begins(FIRST)

    def serves(port: int, name: str) -> None:
        eventually(lambda: _handshake(lb, port, name) == pairs[name][1])

    serves(FILE, "a.example")
    serves(FOLDER, "b.example")
    replace(lb.folder / "file.pem", pairs["c.example"][0])
    serves(FILE, "c.example")
    _is_done(lb, 1)
    (lb.folder / "crts" / "b.pem").write_text(pairs["d.example"][0])
    serves(FOLDER, "d.example")
    _is_done(lb, 2)
    (lb.folder / "crts" / "e.pem").write_text(pairs["e.example"][0])
    serves(FOLDER, "e.example")
    serves(FOLDER, "d.example")
    with Crowd(lb, 50, 1) as crowd:
        crowd.goes_on_for(A_WHILE)

    _is_done(lb, 3)
    assert [(row["kind"], row["count"]) for row in status(lb)["reloads"]] == [("applied", 2), ("reload", 1)]


@pytest.mark.parametrize("image", [IMAGES["3.0"], IMAGES["3.2"]])
@pytest.mark.parametrize("first", ["crt", "key"])
def test_no_handshake_fails_while_a_key_has_not_come_yet(start: Start, image: str, first: str, tmp_path: Path) -> None:
    """haproxy would take a certificate and a `key` that do not fit: it is not asked before both are there."""
    (old, was), (new, becomes) = (_key_pair(name, tmp_path) for name in ("a.example", "b.example"))

    def put(folder: Path, pair: str, what: str) -> None:
        begin = pair.index("-----BEGIN PRIVATE")
        replace(folder / f"site.{what}", pair[:begin] if what == "crt" else pair[begin:])

    def prepare(folder: Path) -> None:
        put(folder, old, "crt")
        put(folder, old, "key")
        (folder / "list").write_text("/etc/lb/site.crt [key /etc/lb/site.key]\n")
        more = 'frontend tls\n    bind "fd@${FD_FILE}" ssl crt-list /etc/lb/list\n    http-request return status 200\n'
        (folder / "haproxy.cfg").write_text(configuration(FIRST, more))

    vips = f"127.0.0.1:8080:FD_WEB,127.0.0.1:{FILE}:FD_FILE"
    lb = start(image, options=QUICK, vips=vips, prepare=prepare).begins(FIRST)
    eventually(lambda: _handshake(lb, FILE, "x") == was)
    done, seen = Event(), []

    def clients() -> None:
        while not done.is_set():
            try:
                seen.append(_handshake(lb, FILE, "x"))
            except OSError as error:
                seen.append(repr(error).encode())

    crowd = Thread(target=clients)
    crowd.start()
    put(lb.folder, new, first)
    eventually(lambda: status(lb)["configuration"]["incomplete"])
    assert reloads(lb) == {}
    put(lb.folder, new, "key" if first == "crt" else "crt")
    eventually(lambda: seen[-1] == becomes)
    done.set()
    crowd.join()
    assert set(seen) == {was, becomes}
    _is_done(lb, 1)


def test_what_is_no_change_and_what_passes(start: Start, image: str) -> None:
    """An empty file that haproxy takes, our own files, a branch that does not hold; then failures that pass."""
    block = "\n.if defined(IT_HOLDS)\nglobal\n    master-worker\n.endif\n"

    def prepare(folder: Path) -> None:
        (folder / "haproxy.cfg").write_text(configuration(FIRST, block))
        (folder / "90-local.cfg").write_text("")

    ours = ("--watch", "/run/lb", "--pid-file", "/run/lb/x.pid", "--state-dir", "/run/lb")
    files = ("-f", "/etc/lb/haproxy.cfg", "-f", "/etc/lb/90-local.cfg")
    tmpfs = {"/run/lb": "mode=0777"}
    lb = start(image, options=(*QUICK, *ours), operands=files, prepare=prepare, tmpfs=tmpfs, user="root").begins(FIRST)
    lb.edit(configuration(SECOND, block))
    lb.serves(SECOND)
    with Crowd(lb, 50, 1) as crowd:
        crowd.goes_on_for(A_WHILE)
        _is_done(lb, 1)
        assert status(lb)["configuration"]["unreadable"] is None
        assert status(lb)["configuration"]["incomplete"] == []

        # A name that does not resolve: tried again, until it does.
        (lb.folder / "90-local.cfg").write_text("backend b\n    server s later.example:80\n")
        eventually(lambda: reloads(lb).get(("retry", "failure"), 0) >= 2)
        assert lb.run("sh", "-c", "echo 127.0.0.1 later.example >> /etc/hosts")[0] == 0
        eventually(lambda: reloads(lb).get(("retry", "success")) == 1)

        # A branch that does hold.
        lb.edit(configuration(THIRD, block.replace("IT_HOLDS", "PATH")))
        line = configuration(THIRD, block)[: configuration(THIRD, block).index("master-worker")].count("\n") + 1
        eventually(lambda: f"/etc/lb/haproxy.cfg:{line}: remove `master-worker`" in lb.log)
        assert lb.get() == SECOND

        # A file that was not empty is waited for, but not for ever.
        (lb.folder / "90-local.cfg").write_text("")
        lb.edit(configuration(THIRD))
        eventually(lambda: status(lb)["configuration"]["incomplete"] == ["/etc/lb/90-local.cfg is empty"])
        lb.serves(THIRD)
        assert status(lb)["configuration"]["incomplete"] == []


def test_a_map_and_a_folder_of_configurations_are_followed(start: Start, image: str) -> None:
    """One reload for a value of a map, for a file that is new in a -f folder, and for one that goes."""

    def prepare(folder: Path) -> None:
        (folder / "a.map").write_text("key one\n")
        text = configuration("MARK").replace('string "MARK"', 'lf-string "%[str(key),map(/etc/lb/a.map)]"')
        (folder / "10.cfg").write_text(text)

    lb = start(image, options=QUICK, operands=("-f", "/etc/lb"), prepare=prepare).begins(FIRST)
    with Crowd(lb, 50, 1) as crowd:
        (lb.folder / "a.map").write_text("key two\n")
        lb.serves(SECOND)
        crowd.goes_on_for(A_WHILE)
        _is_done(lb, 1)

        answer = "    http-request return status 200 content-type text/plain string three\n"
        (lb.folder / "20.cfg").write_text(f"frontend more\n    bind 127.0.0.1:8081\n{answer}")
        eventually(lambda: reloads(lb) == done(2))
        assert lb.get(8081) == THIRD

        (lb.folder / "20.cfg").unlink()
        eventually(lambda: reloads(lb) == done(3))
        crowd.goes_on_for(A_WHILE)
        _is_done(lb, 3)


def test_more_paths_can_be_watched(start: Start, image: str) -> None:
    """`--watch PATH` adds a file that nothing names, and a folder that is not there yet, to what is named."""
    more = ("--watch", "/etc/lb/extra", "--watch", "/etc/lb/later")
    lb = start(image, options=(*QUICK, *more)).begins(FIRST)
    (lb.folder / "some.map").write_text("a b\n")
    named = "backend b\n  http-request set-header x %[src,map(/etc/lb/some.map)]\n"
    lb.edit(configuration(FIRST, named))
    eventually(lambda: status(lb)["watch"]["files"] == 2)
    eventually(lambda: reloads(lb) == done(1))
    (lb.folder / "some.map").write_text("a c\n")
    eventually(lambda: reloads(lb) == done(2))
    (lb.folder / "extra").write_text("x\n")
    eventually(lambda: reloads(lb) == done(3))
    (lb.folder / "later").mkdir()
    (lb.folder / "later" / "file").write_text("x\n")
    eventually(lambda: reloads(lb) == done(4))
    lb.edit(configuration(SECOND))
    lb.serves(SECOND)

    _is_done(lb, 5)


# ---- what is no reload ---------------------------------------------------------------------------------------------


def test_what_leaves_the_content_as_it_is_is_no_reload(watching: Balancer, crowd: Crowd) -> None:
    """A touch, a mode, the same bytes once more in place or by a rename, a file that nothing names."""
    path = watching.folder / "haproxy.cfg"
    changes: tuple[Callable[[], object], ...] = (
        path.touch,
        lambda: path.chmod(0o640),
        lambda: path.write_bytes(path.read_bytes()),
        lambda: replace(path, path.read_bytes()),
        lambda: (watching.folder / "README").write_text("x\n"),
    )
    for change in changes:
        change()
        crowd.goes_on_for(3 * DEBOUNCE)
    crowd.goes_on_for(A_WHILE)

    assert reloads(watching) == {}
    assert status(watching)["last_reload"] is None


def test_nothing_is_watched_with_watch_off(start: Start, image: str) -> None:
    """An edit waits until somebody asks for it."""
    lb = start(image, options=(*QUICK, "--watch", "off")).begins(FIRST)
    with Crowd(lb, 50, 1) as crowd:
        lb.edit(configuration(SECOND))
        crowd.goes_on_for(A_WHILE)
    assert lb.get() == FIRST
    assert status(lb)["watch"]["mode"] == "off"
    lb.kill("USR1")
    lb.serves(SECOND)
    eventually(lambda: reloads(lb) == {("SIGUSR1", "success"): 1})


# ---- what is not right yet -----------------------------------------------------------------------------------------


def test_a_file_that_is_empty_or_gone_is_waited_for(watching: Balancer, crowd: Crowd) -> None:
    """What was serves on, status and log say what is missing, and what comes at last is one reload."""
    path = watching.folder / "haproxy.cfg"

    def unreadable() -> str:
        return str(status(watching)["configuration"]["unreadable"] or "")

    path.write_text("")
    eventually(lambda: status(watching)["configuration"]["incomplete"] == ["/etc/lb/haproxy.cfg is empty"])
    path.unlink()
    eventually(lambda: unreadable() == "/etc/lb/haproxy.cfg cannot be read: No such file or directory")
    assert watching.log.count("waited for") == 2
    assert watching.get() == FIRST
    assert reloads(watching) == {}

    path.write_text(configuration(SECOND))
    watching.serves(SECOND)
    crowd.goes_on_for(A_WHILE)
    assert unreadable() == ""
    _is_done(watching, 1)


def _last_was_good(lb: Balancer) -> bool:
    """Tell what the metric says; the status says the same, unless it changed between the two questions."""
    before = _last_result(lb)
    lines = lb.run("safe_reload", "metrics")[1].splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("safe_reload_config_last_reload_successful ")]
    assert (float(value) == 1) in {before, _last_result(lb)}
    return float(value) == 1


def _last_result(lb: Balancer) -> bool:
    last = status(lb)["last_reload"]
    return last is None or last["result"] == "success"


def test_a_failed_reload_waits_for_another_content(watching: Balancer, crowd: Crowd) -> None:
    """It is not tried again for a touch; the way back to what runs clears status and metric with no reload at all."""
    path = watching.folder / "haproxy.cfg"
    bad = configuration("bad", "nonsense here\n")
    failed = {("files", "failure"): 1}
    assert _last_was_good(watching)

    path.write_text(bad)
    eventually(lambda: reloads(watching) == failed)
    assert not _last_was_good(watching)
    for _ in range(3):
        path.touch()
        path.write_text(bad)
        crowd.goes_on_for(3 * DEBOUNCE)
    crowd.goes_on_for(A_WHILE)
    assert reloads(watching) == failed
    assert watching.get() == FIRST

    path.write_text(configuration(FIRST))
    eventually(lambda: _last_was_good(watching))
    assert reloads(watching) == failed
    assert status(watching)["configuration"]["pending"] is False

    path.write_text(configuration(SECOND))
    watching.serves(SECOND)
    eventually(lambda: reloads(watching) == {**failed, **done(1)})


def test_a_flood_of_writes_is_a_bounded_number_of_reloads(watching: Balancer, crowd: Crowd) -> None:
    """A file that is written every 20 ms for 5 s: at most one in ten debounces and one more, and the last one wins."""
    path = watching.folder / "haproxy.cfg"
    began = written = time.monotonic()
    number = pauses = 0
    while time.monotonic() < began + 5:
        number += 1
        replace(path, configuration(f"flood {number}"))
        # On a slow machine the flood has pauses, and each may be taken for its end.
        pauses += time.monotonic() > written + DEBOUNCE / 2
        written = time.monotonic()
        crowd.goes_on_for(0.02)
    lasted = time.monotonic() - began
    watching.serves(f"flood {number}")
    crowd.goes_on_for(A_WHILE)

    counts = reloads(watching)
    say(f"{number} writes in {lasted:.1f} s with {pauses} pauses, {counts}")
    assert set(counts) == {("files", "success")}
    assert 1 < counts["files", "success"] <= lasted / (10 * DEBOUNCE) + 1 + pauses


# ---- where the kernel does not tell --------------------------------------------------------------------------------


def test_without_inotify_the_poll_finds_the_change(start: Start, image: str) -> None:
    """All instances of a uid are taken, as on a full node: log and status say so, until there are some again."""
    options = {"user": f"{UID}:{UID}", "tmpfs": {"/run/safe_reload": "mode=1777"}}
    with no_inotify():
        lb = start(image, options=(*QUICK, "--poll", "0.5"), **options).begins(FIRST)
        assert status(lb)["watch"]["mode"] == "poll"
        assert "inotify" in lb.log and "--poll" in lb.log
        for number in range(2):
            lb.edit(configuration(f"poll {number}"))
            lb.serves(f"poll {number}")
            _is_done(lb, number + 1)
        with Crowd(lb, 50, 1) as crowd:
            crowd.goes_on_for(A_WHILE)
        _is_done(lb, 2)
        assert status(lb)["watch"]["mode"] == "poll"

    eventually(lambda: status(lb)["watch"]["mode"] == "inotify")
    lb.edit(configuration(SECOND))
    lb.serves(SECOND)
    _is_done(lb, 3)
