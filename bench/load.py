"""The load: the client in C, while it runs, and its counts."""

import json
import os
import subprocess
from collections.abc import Sequence

from bench.lives import PORT, StuckError

CLIENT = os.environ.get("BENCH_CLIENT", "bench-client")
KINDS = ("refused", "reset_connecting", "reset", "cut", "torn", "timeout", "bad", "other")
"""How a request can fail; the client's source says what each is."""
CLIENTS = 400

Values = dict[str, float]


class Load:
    """The client, while it runs, in the network in which it was started."""

    def __init__(self, seconds: float, *, clients: int = CLIENTS, rate: int = 0, keep: bool = False) -> None:
        """Start it."""
        words = [CLIENT, "-c", str(clients), "-s", str(seconds)]
        words += ["-r", str(rate)] if rate else []
        words += ["-k"] if keep else []
        self.process = subprocess.Popen([*words, "127.0.0.1", str(PORT)], stdout=subprocess.PIPE)

    def runs(self) -> bool:
        """Say whether it still runs."""
        return self.process.poll() is None

    def result(self) -> Values:
        """Wait for its counts."""
        text = self.process.communicate(timeout=600)[0]
        if self.process.returncode:
            raise StuckError("the client could not run")
        counts: Values = json.loads(text)
        return {**counts, "rate": counts["ok"] / counts["seconds"]}


def named(prefix: str, values: Values, keys: Sequence[str]) -> Values:
    """Pick values and put a prefix before their names."""
    return {f"{prefix}.{key}": values[key] for key in keys}
