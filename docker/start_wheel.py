"""Installed by a wheel as PREFIX/lib/safe_reload: started by the launcher in PREFIX/bin."""

import sys

# With `pip install --user` the package is here, and the launcher's -I leaves this folder out.
_PACKAGES = f"{__file__.rpartition('/')[0]}/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
if _PACKAGES not in sys.path:
    sys.path.append(_PACKAGES)

from entrypoint.__main__ import main

main()
