"""Key pairs, authorities and their revocation lists, as openssl makes them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("rsa:2048",)

_AUTHORITY = """\
[ca]
default_ca = own
[own]
database = {folder}/{name}.index
new_certs_dir = {folder}
default_md = sha256
rand_serial = yes
policy = policy
[policy]
commonName = supplied
"""


def key_pair(folder: Path, name: str, kind: tuple[str, ...] = P256, *more: str) -> tuple[str, str]:
    """Make NAME.crt, for a host of this name, and NAME.key in a folder; return the two texts."""
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    words = ("openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}", "-days", "30", *more)
    subprocess.run([*words, "-keyout", key, "-out", crt], check=True, capture_output=True)
    return crt.read_text(), key.read_text()


class Authority:
    """Signs certificates and revokes them."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make its files in a folder."""
        self._folder = folder
        self._name = name
        self.crt, self.key = key_pair(folder, name)
        (folder / f"{name}.cnf").write_text(_AUTHORITY.format(folder=folder, name=name))
        (folder / f"{name}.index").touch()

    def signs(self, name: str) -> tuple[str, str]:
        """Make NAME.crt and NAME.key; return the two texts."""
        files = ("-CA", f"{self._folder}/{self._name}.crt", "-CAkey", f"{self._folder}/{self._name}.key")
        return key_pair(self._folder, name, P256, *files)

    def signs_what_has_expired(self, name: str) -> str:
        """Return a certificate of the key NAME.key that was valid in the past."""
        request, crt = self._folder / f"{name}.csr", self._folder / f"{name}.expired"
        words = ("openssl", "req", "-new", "-key", self._folder / f"{name}.key", "-subj", f"/CN={name}")
        subprocess.run([*words, "-out", request], check=True, capture_output=True)
        dates = ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
        self._ca("-batch", "-in", str(request), *dates, "-notext", "-out", str(crt))
        return crt.read_text()

    def revokes(self, *names: str) -> str:
        """Revoke certificates; return a list of all that are revoked."""
        for name in names:
            self._ca("-revoke", f"{self._folder}/{name}.crt")
        return self._ca("-gencrl", "-crldays", "30")

    def responds(self, name: str, *days: int) -> Iterator[bytes]:
        """Yield OCSP responses about NAME.crt, each good for a number of days."""
        own, answer = f"{self._folder}/{self._name}", self._folder / f"{name}.ocsp"
        self._ca("-valid", f"{self._folder}/{name}.crt")
        words = ("openssl", "ocsp", "-index", f"{own}.index", "-CA", f"{own}.crt", "-rsigner", f"{own}.crt")
        about = ("-rkey", f"{own}.key", "-issuer", f"{own}.crt", "-cert", self._folder / f"{name}.crt", "-no_nonce")
        for number in days:
            last = ("-noverify", "-ndays", str(number), "-respout", answer)
            subprocess.run([*words, *about, *last], check=True, capture_output=True)
            yield answer.read_bytes()

    def _ca(self, *words: str) -> str:
        own = f"{self._folder}/{self._name}"
        command = ["openssl", "ca", "-config", f"{own}.cnf", "-cert", f"{own}.crt", "-keyfile", f"{own}.key", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
