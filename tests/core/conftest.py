"""After the last test of this folder, the memory of what was explored is given back."""

from pathlib import Path

import pytest

from tests.core.explorer import explore


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Forget gigabytes, which would slow each process down that another test starts."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        explore.cache_clear()
