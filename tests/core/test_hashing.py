"""SHA-256 is had from whatever Python there is."""

import subprocess
import sys

import pytest

OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("missing", [(), ("_sha2",), ("_sha256",), ("_sha2", "_sha256")], ids=" ".join)
def test_a_python_without_its_own_uses_openssl_s(missing: tuple[str, ...]) -> None:
    """RHEL's has neither module; the digest is the same."""
    code = f"import sys\nfor name in {missing}: sys.modules[name] = None\n"
    code += "from entrypoint.lean.hashing import sha256\nprint(sha256(b'').hexdigest())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == OF_NOTHING, found.stderr
