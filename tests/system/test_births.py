"""What a generation is made of: and that nothing is left of one that could not be made."""

import os
import resource
from pathlib import Path

import pytest

from entrypoint.births import HaproxyBirth
from entrypoint.configurations import Configurations
from entrypoint.core.command import Serve
from entrypoint.system.handover import Adopted
from entrypoint.system.listeners import Listeners
from tests.core.world import settings
from tests.system.apart import apart


def test_nothing_is_remembered_of_a_generation_that_could_not_be_made(tmp_path: Path) -> None:
    """Without descriptors a storm of reloads leaves neither content nor descriptors behind."""
    path = tmp_path / "haproxy.cfg"
    path.write_text("defaults\n")

    def work() -> bool:
        command = Serve("haproxy", ("-f", str(path)), (str(path),), None)
        configurations = Configurations(command, settings(), {}, None, lambda _: None)
        birth = HaproxyBirth(command, {}, Listeners(), Adopted(), configurations)
        made = birth.of(1, kept=False, bad="")
        made.spawned()
        made.close()
        before = configurations.hand_down()["given"]
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, free + 2))
        for number in range(2, 50):
            with pytest.raises(OSError, match="Too many open files"):
                birth.of(number, kept=False, bad="")
        return bool(configurations.hand_down()["given"] == before and list(before) == [1])

    assert apart(work)
