"""Installed by a wheel as PREFIX/lib/safe_reload: started by the launcher in PREFIX/bin."""

import sys

# With `pip install --user` the package is here, and the launcher's -I leaves this folder out.
sys.path.append(f"{__file__.rpartition('/')[0]}/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")

from entrypoint.__main__ import main

main()
