"""What many files of unit tests ask for."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from replay_build_service import starts as starts_module
from replay_build_service.db import Store
from tests.unit.core_fakes import a_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """The service's database, empty, in a file ``replay.sqlite``."""
    async with a_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is asked again at once where it would be after a while."""
    for name in ("STOP_POLL_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(starts_module, name, 0.01)
