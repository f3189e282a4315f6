"""Key pairs as openssl makes them."""

import subprocess
from pathlib import Path

P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def key_pair(folder: Path, name: str, kind: tuple[str, ...] = P256) -> tuple[str, str]:
    """Make NAME.crt, for a host of this name, and NAME.key in a folder; return the two texts."""
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    words = ("openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}", "-days", "30")
    subprocess.run([*words, "-keyout", key, "-out", crt], check=True, capture_output=True)
    return crt.read_text(), key.read_text()
