"""Installed as /usr/local/lib/safe_reload: what the launcher has Python run, without site.py to find the package."""

import sys

sys.path.append("/usr/lib/python3/dist-packages")

from entrypoint.__main__ import main

main()
