"""safe_reload: a PID 1 for HAProxy that binds the VIPs and never lets go of them.

CONTRIBUTING.md has the map: what each folder is for, and the way of four events through it.
"""

__version__ = "0.1.0"
