"""Gives the new content of files to haproxy over its CLI: one transaction a file, and a look at what haproxy has then.

A transaction that fails is taken back. Runs in the reader process, and waits for each answer.
"""

from __future__ import annotations

import time

from entrypoint.haproxy import file_updates as updates
from entrypoint.haproxy.file_names import Store
from entrypoint.haproxy.file_updates import CannotError, Parts, RefusedError
from entrypoint.haproxy.key_pairs import has_key
from entrypoint.haproxy.loaded_files import escaped
from entrypoint.lean import contextlib
from entrypoint.lean.collections import Callable, Iterator, Sequence
from entrypoint.lean.one_line import reason
from entrypoint.lean.record import record
from entrypoint.system.haproxy_cli import CliChannel

_UNDONE_WITHIN = 1.0
"""Seconds for each command that takes back what was begun."""
_AS_IT_IS = ("utf-8", "surrogateescape")
_DIFFERS = "haproxy has something else now than the file"


@record(frozen=True)
class Certificate:
    """A certificate with the paths of its files."""

    store: Store
    beside: bool
    """haproxy has found the others beside it: they were not named."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths."""
        store = self.store
        return tuple(filter(None, (store.crt, store.key, store.issuer, store.ocsp, store.sctl)))


class Transactions:
    """Runs transactions; each method raises CannotError or RefusedError, and names the file."""

    def __init__(self, channel: CliChannel, content: Callable[[str], bytes | None], most: int, until: float) -> None:
        """Use this channel.

        Args:
            channel: to haproxy's private CLI.
            content: returns the content of a file that counts; None if there is no such file.
            most: bytes of a payload that haproxy takes for sure.
            until: the time on the monotonic clock at which to give up.

        """
        self._channel = channel
        self._content = content
        self._most = most
        self._until = until
        self.is_unsure = False
        """What has failed may be in use all the same, or part of it."""

    def _read(self, path: str) -> bytes:
        """Return the content of a file, without which haproxy would not start; an empty map would be another answer."""
        text = self._content(path)
        if text is None:
            raise CannotError("it is gone")
        return text

    def _commit(self, kind: str, name: str, undo: list[str], *, refusable: bool = False, shows: str = "") -> None:
        """Commit a transaction of TLS, and check that haproxy has then what it has read of the payload.

        Args:
            kind: cert, ca-file or crl-file.
            name: as a word of a command.
            undo: is emptied once haproxy has committed.
            refusable: see `updates.has_taken`.
            shows: must be in haproxy's description before anything is committed.

        """
        wanted = updates.described(self._call(f"show ssl {kind} *{name}"))
        if not wanted or shows not in wanted:
            raise CannotError("haproxy has not read all of it")
        self.is_unsure = True
        answer = self._call(f"commit ssl {kind} {name}")
        try:
            # It takes all of it or nothing, and says which.
            updates.has_committed(answer, refusable=refusable)
        except (CannotError, RefusedError):
            self.is_unsure = False
            raise
        undo.clear()
        if updates.described(self._call(f"show ssl {kind} {name}")) != wanted:
            raise CannotError(_DIFFERS)
        self.is_unsure = False

    def _call(self, command: str, payload: bytes = b"") -> str:
        if len(payload) > self._most:
            raise CannotError(f"it is too long for a command: more than {self._most} bytes")
        return self._channel.call(command, payload, until=self._until).decode(*_AS_IT_IS).strip()

    @contextlib.contextmanager
    def _transaction(self, path: str) -> Iterator[list[str]]:
        """Give a list of commands, which are sent in reverse if the block fails; errors name the file."""
        undo: list[str] = []
        try:
            yield undo
        except BaseException as error:
            for command in reversed(undo):
                with contextlib.suppress(OSError):
                    self._channel.call(command, until=time.monotonic() + _UNDONE_WITHIN)
            if isinstance(error, RefusedError | CannotError):
                raise type(error)(f"{path}: {error}") from None
            if isinstance(error, OSError):
                raise CannotError(f"{path}: {reason(error)}") from None
            raise

    # ---- certificates ------------------------------------------------------------------------------------------------

    def set_certificate(self, certificate: Certificate, *, only_ocsp: bool = False) -> None:
        """Set a certificate, or only its OCSP response."""
        store = certificate.store
        name = escaped(store.name)
        with self._transaction(store.crt) as undo:
            text = self._read(store.crt)
            optional = self._content if certificate.beside else self._read
            key, ocsp = ((optional(path) or b"") if path else b"" for path in (store.key, store.ocsp))
            if (store.issuer and not only_ocsp) or store.sctl:
                # The CLI takes an issuer that a start refuses, and haproxy dies of a list of SCTs.
                raise CannotError("it has an .issuer or .sctl file")
            if certificate.beside and has_key(text):
                # haproxy looks for another one only if there is none.
                key = b""
            undo.append(f"abort ssl cert {name}")
            parts = Parts(b"" if only_ocsp else text, key, ocsp)
            # A start checks only what it has found by itself (3.0 to 3.5): not a crt-store, and no key that is named.
            for command, payload in updates.set_certificate(name, parts, unchecked=not certificate.beside):
                updates.has_taken(self._call(command, payload), store.name, refusable=True)
            self._commit("cert", name, undo, refusable=True)

    def edit_crt_list(
        self,
        name: str,
        path: str,
        added: Sequence[tuple[str, Certificate, bool]],
        removed: Sequence[tuple[str, bool]],
        certificates: Sequence[str],
    ) -> None:
        """Edit a crt-list.

        Args:
            name: what haproxy calls it.
            path: of the file.
            added: lines for its end, each with its certificate, and whether haproxy does not have that yet.
            removed: names of certificates whose line is gone, each with whether nothing else uses it.
            certificates: all names that it has then.

        """
        listed = escaped(name)
        with self._transaction(path) as undo:
            for line, certificate, is_new in added:
                one = escaped(certificate.store.name)
                if is_new:
                    updates.has_said(self._call(f"new ssl cert {one}"), "New empty certificate store")
                    undo.append(f"del ssl cert {one}")
                    self.set_certificate(certificate)
                self.is_unsure = True
                updates.has_said(self._call(f"add ssl crt-list {listed}", line.encode(*_AS_IT_IS)), "Success!")
                undo.append(f"del ssl crt-list {listed} {one}")
            undo.clear()
            self.is_unsure = True
            for store_name, is_unused in removed:
                one = escaped(store_name)
                updates.has_said(self._call(f"del ssl crt-list {listed} {one}"), "deleted in crtlist")
                if is_unused:
                    updates.has_said(self._call(f"del ssl cert {one}"), "deleted")
            if updates.shown_in_list(self._call(f"show ssl crt-list {listed}")) != [*certificates]:
                raise CannotError(_DIFFERS)
            self.is_unsure = False

    # ---- CA and CRL files --------------------------------------------------------------------------------------------

    def set_authorities(self, name: str, path: str) -> None:
        """Set the certificates of a CA file."""
        one = escaped(name)
        with self._transaction(path) as undo:
            certificates = updates.authorities(self._read(path))
            undo.append(f"abort ssl ca-file {one}")
            for number, payload in enumerate(updates.in_payloads(certificates, self._most)):
                answer = self._call(f"{'add' if number else 'set'} ssl ca-file {one}", payload)
                updates.has_taken(answer, name, refusable=False)
            self._commit("ca-file", one, undo, shows=f"Certificate #{len(certificates)}:")

    def set_revocations(self, name: str, path: str) -> None:
        """Set the CRLs of a CRL file."""
        one = escaped(name)
        with self._transaction(path) as undo:
            lists = updates.revocations(self._read(path))
            undo.append(f"abort ssl crl-file {one}")
            answer = self._call(f"set ssl crl-file {one}", b"".join(lists))
            updates.has_taken(answer, name, refusable=False)
            self._commit("crl-file", one, undo, shows=f"Certificate Revocation List #{len(lists)}:")

    # ---- maps and ACL files ------------------------------------------------------------------------------------------

    def set_patterns(self, kind: str, number: str, path: str) -> None:
        """Set the entries of a map or an ACL file.

        Args:
            kind: map or acl.
            number: what haproxy calls it.
            path: of the file.

        """
        with self._transaction(path) as undo:
            entries = updates.entries(kind, self._read(path))
            version = updates.new_version(self._call(f"prepare {kind} {number}"))
            undo.append(f"clear {kind} @{version} {number}")
            for command, payload in updates.add(kind, number, version, entries, self._most):
                updates.has_done(self._call(command, payload))
            self.is_unsure = True
            # From here on this would empty what is in use, if only the answer is late.
            undo.clear()
            updates.has_done(self._call(f"commit {kind} @{version} {number}"))
            if updates.shown_entries(self._channel.call(f"show {kind} {number}", until=self._until)) != entries:
                raise CannotError(_DIFFERS)
            self.is_unsure = False
