"""In place of the half of importlib that imports from files, of which there are none.

It becomes the real one as soon as something asks for a name in it, such as `inspect` in the exporter. PID 1 never does,
and so a start takes less.
"""

import _imp
import sys


def _install(_bootstrap: object) -> None:
    """Install no importer: the interpreter calls this at its start."""


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    own = globals()
    del own["__getattr__"]
    exec(_imp.get_frozen_object("importlib._bootstrap_external"), own)  # noqa: S102  # the real one, in this one's place
    own["_set_bootstrap_module"](sys.modules["_frozen_importlib"])
    return own[name]
