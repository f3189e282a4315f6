"""The configurations: the one on disk, which is watched, those that generations were given, and the last known good."""

import os
from collections.abc import Callable, Collection, Mapping

from entrypoint.core import events
from entrypoint.core.command import Serve
from entrypoint.core.configuration import line_of_master_worker, tags
from entrypoint.core.events import Level, Log
from entrypoint.core.settings import Settings
from entrypoint.core.types import Any
from entrypoint.system.contents import Contents, Disk
from entrypoint.system.files import make_folder
from entrypoint.system.inotify import Inotify
from entrypoint.system.kept import DamagedError, Files, StateFile

_AUTO = "auto"
_OFF = "off"


class Configurations:
    """Owns the watches, and the content of every configuration that may still be needed."""

    def __init__(
        self,
        command: Serve,
        settings: Settings,
        variables: Mapping[str, str],
        state_file: StateFile | None,
        log: Callable[[Log], None],
        ours: Collection[str] = (),
    ) -> None:
        """Take what to read; nothing is touched yet.

        Args:
            command: haproxy's arguments, which name the files.
            settings: `--watch`.
            variables: haproxy's environment.
            state_file: where the last known good one survives us; None for nowhere.
            log: writes a line.
            ours: files that we write ourselves.

        """
        self._log = log
        self._watching = settings.watch != (_OFF,)
        extra = tuple(os.path.abspath(path) for path in settings.watch if path not in {_AUTO, _OFF})
        self._disk = Disk(command.configurations, command.folder, extra, variables, follow=self._watching, ours=ours)
        self._state_file = state_file
        self._inotify: Inotify | None = None
        self._given: dict[int, tuple[str, Files]] = {}
        self._kept: tuple[str, Files] | None = None
        self._latest: Contents | None = None
        self._polled = False
        self.stale: tuple[str, ...] = ()
        self.files: tuple[str, ...] = ()

    def restore(self) -> str:
        """Read the last known good one from the state directory; return its digest, empty when there is none."""
        if not self._state_file:
            return ""
        try:
            self._kept = self._state_file.read()
        except DamagedError as error:
            self._log(Log(Level.WARNING, "state_ignored", f"the last known good configuration is ignored: {error}"))
        return self._kept[0] if self._kept else ""

    # ---- the disk --------------------------------------------------------------------------------------------------

    def read(self) -> tuple[Contents, events.Disk]:
        """Read what the disk holds, for us and for the core."""
        contents = self._latest = self._disk.read()
        unreadable = contents.unreadable or ""
        self.files = contents.files
        self._tell_stale(contents.stale)
        digest = "" if unreadable else contents.digest
        return contents, events.Disk(digest, unreadable, contents.polled or self._polled, contents.incomplete)

    def _tell_stale(self, stale: tuple[str, ...]) -> None:
        for path in stale:
            if path not in self.stale and self._watching:
                self._log(Log(Level.WARNING, "stale_mount", _never_changes(path), {"path": path}))
        self.stale = stale

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody must know who believes that a reload has read what is on disk, a line each."""
        return tuple(map(_never_changes, self.stale))

    def tags(self) -> tuple[str, ...]:
        """Return the tags that the files given with -f name, as they were when they were read last."""
        files = self._latest.kept if self._latest else ()
        return tuple(dict.fromkeys(tag for _, text in files for tag in tags(text)))

    def conditional_master_worker(self) -> str:
        """Return FILE:LINE of a `master-worker` in a conditional block, as it was when the files were read last."""
        files = self._latest.kept if self._latest else ()
        lines = ((path, line_of_master_worker(text, in_block=True)) for path, text in files)
        return next((f"{path}:{line}" for path, line in lines if line), "")

    def watch(self) -> bool:
        """Watch what was read last; tell whether something may have changed between reading and watching."""
        if not self._watching or not self._latest:
            return False
        if not self._inotify:
            try:
                self._inotify = Inotify()
            except OSError as error:
                if not self._polled:
                    self._log(Log(Level.WARNING, "polling", f"changes are looked for every --poll seconds: {error}"))
                self._polled = True
                return False
        complete = self._inotify.watch(self._latest.watched)
        if not complete and not self._polled:
            self._log(Log(Level.WARNING, "polling", "not every file can be watched: --poll looks for changes as well"))
        self._polled = not complete
        return self._inotify.fresh

    @property
    def inotify(self) -> Inotify | None:
        """What is readable when a file may have changed."""
        return self._inotify

    def mode(self, disk: events.Disk) -> str:
        """Return how changes are found: inotify, poll or off."""
        if not self._watching:
            return _OFF
        return "poll" if disk.polled or not self._inotify else "inotify"

    # ---- another program takes our place -------------------------------------------------------------------------

    def hand_down(self) -> dict[str, Any]:
        """Return what is remembered as plain values."""
        return {"kept": self._kept, "given": self._given}

    def inherit(self, left: Mapping[str, Any]) -> None:
        """Go on with what our last life has handed down."""
        self._kept = left["kept"]
        self._given = dict(left["given"])

    # ---- what generations were given -------------------------------------------------------------------------------

    def give(self, number: int, digest: str, files: Files) -> None:
        """Remember what a generation was started from."""
        self._given[number] = (digest, files)

    def forget(self, number: int) -> None:
        """Let go of what only a dead generation needed."""
        self._given.pop(number, None)

    def keep(self, number: int) -> None:
        """Make what a generation was started from the last known good one.

        Raises:
            OSError: the state directory cannot be written; in memory it is kept all the same.

        """
        given = self._given.get(number)
        if not given:
            return
        self._kept = given
        if self._state_file:
            make_folder(self._state_file.folder, 0o700)
            self._state_file.write(*given)

    @property
    def kept(self) -> tuple[str, Files] | None:
        """The digest and the files of the last known good one."""
        return self._kept


def _never_changes(path: str) -> str:
    what = f"{path} can never change again in here: it was replaced where it is mounted from. "
    return what + "Mount its folder instead of the file, then start anew"


def in_memory(files: Files) -> list[int]:
    """Return a descriptor for each file, which haproxy can be given as /dev/fd/N.

    Raises:
        OSError: there are no descriptors left.

    """
    descriptors: list[int] = []
    try:
        for path, content in files:
            # The name is for who looks into /proc, and has at most 249 bytes (memfd_create(2)).
            name = os.fsdecode(os.fsencode(os.path.basename(path))[:200]) or "haproxy.cfg"
            descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
            descriptors.append(descriptor)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors
