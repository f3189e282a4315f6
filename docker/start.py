"""Installed as /usr/local/lib/safe_reload: started by the launcher without site.py, so it sets the path itself."""

import sys

sys.path.append("/usr/lib/python3/dist-packages")

from entrypoint.__main__ import main

main()
