"""A git server that is stopped, and a repository that is taken away: what was built of them still starts, and is called what it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from demo.git_server import GitServer
from demo.repositories import publish_folder
from replay_build_service import events as events_module
from replay_build_service import git
from replay_build_service.domain import LaunchState
from replay_build_service.errors import RefNotFound, ReplayError
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.git import REFS_KEPT, GitProvider
from replay_build_service.wishes import Wish
from tests.unit.core_fakes import House, a_house, a_store, image
from tests.unit.test_launches import ADA, BORIS, settled

pytestmark = pytest.mark.hub_independent


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(git, "FIRST_WAIT", 0.01)


def commit(server: GitServer, folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "file.txt").write_text(text)
    return publish_folder(folder, server.root / "r.git", message=text)


@asynccontextmanager
async def a_service(folder: Path, server: GitServer, clock: Clock) -> AsyncGenerator[House]:
    """The core with the real provider and the real store; a new one has forgotten all that is not stored."""
    async with a_store(folder) as store, asyncio.TaskGroup() as tasks:
        rules = OutgoingRules(exempt_origins=frozenset({server.url}))
        provider = GitProvider(rules, tasks, clock=clock)
        async with a_house(store, provider=provider) as house:
            yield house


async def test_what_was_built_starts_although_its_source_does_not_answer_or_is_gone(tmp_path: Path) -> None:
    server = GitServer(tmp_path / "root")
    (tmp_path / "root").mkdir()
    server.start()
    port, link = server.port, f"git/{quote(f'{server.url}/r.git', safe='')}/HEAD"
    old = commit(server, tmp_path / "files", "old")
    clock = Clock()
    async with a_service(tmp_path, server, clock) as house:
        launch = await house.launches.create(BORIS, Wish(link))
        (await house.builder.next()).end(image())
        assert (await settled(house, launch)).state is LaunchState.RUNNING
        server.stop()
        assert (await house.launches.consent(ADA, link)).unanswered is None, "it is believed for a minute"
        clock.now += REFS_KEPT + 1
        silent = (await house.launches.consent(ADA, link)).unanswered
        assert silent is not None
        assert not silent.is_gone

    with GitServer(tmp_path / "root", port=port) as again:
        repository = again.root / "r.git"
        repository.rename(again.root / "away.git")
        async with a_service(tmp_path, again, clock) as house:
            consent = await house.launches.consent(ADA, link)
            assert consent.unanswered is not None
            assert consent.unanswered.is_gone
            assert (consent.is_built, consent.resolved.version) == (True, old)
            with pytest.raises(ReplayError, match="gone, private"):
                await house.launches.create(ADA, Wish(link))
            launch = await house.launches.create(ADA, Wish(link, version=old))
            assert (await settled(house, launch)).state is LaunchState.RUNNING
            assert house.builder.jobs == []
        (again.root / "away.git").rename(repository)
        new = commit(again, tmp_path / "files", "new")
        async with a_service(tmp_path, again, clock) as house:
            consent = await house.launches.consent(ADA, link)
            assert (consent.unanswered, consent.is_built, consent.resolved.version) == (None, False, new)
            (repository / "HEAD").write_text("ref: refs/heads/elsewhere\n")
        async with a_service(tmp_path, again, clock) as house:
            with pytest.raises(RefNotFound, match="no default branch"):
                await house.launches.consent(ADA, link)
