"""The contract of records against the archives themselves. ``REPLAY_TEST_LIVE=1`` only.

What records hold is their authors' business, so this says nothing of it: that a link resolves to a version, that the version pins, that
exactly its files come with the archive's own checksums, and that all spellings are one repository.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from replay_build_service.assembly import make_providers, outgoing_rules
from replay_build_service.errors import RefNotFound, RepositoryNotFound
from replay_build_service.links import RepoSpec
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.doi import DoiProvider
from replay_build_service.providers.records import RecordProvider
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.all_sources import SOURCES
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.sources.fetching import FetchLimits
from tests.integration.record_cases import PUBLIC, PUBLIC_DOIS, asked, tree
from tests.unit.test_links_doc import ROWS

pytestmark = [pytest.mark.live, pytest.mark.one_hub_version, pytest.mark.timeout(900)]

RULES = outgoing_rules(ServiceSettings()).for_archives()
"""As Replay comes, so that this also tells whether the hosts of downloads are on its list."""


@pytest.mark.parametrize(("provider", "example"), ROWS, ids=[name for name, _ in ROWS])
async def test_the_docs_worked_example_is_there(provider: str, example: str) -> None:
    """Each row of the table in docs/links.md."""
    async with asyncio.TaskGroup() as tasks, Asker(RULES) as ask:
        resolved = await make_providers(ServiceSettings(), tasks, ask)[provider].resolve(RepoSpec.parse(example))
        assert resolved.version


@pytest.mark.parametrize("provider", PUBLIC)
async def test_a_record_resolves_pins_and_comes_whole(provider: str, tmp_path: Path) -> None:
    source = SOURCES[provider]
    async with asked(source, RULES) as here, Asker(RULES) as ask:
        resolved = await here.resolve(PUBLIC[provider])
        pinned = await here.resolve(PUBLIC[provider], resolved.version)
        assert (pinned.version, pinned.fetch_url) == (resolved.version, resolved.fetch_url)
        assert resolved.title
        assert resolved.page.startswith("https://")
        listed = await source.listed(ask, resolved.fetch_url.partition("+")[2])
        assert listed.pinned == resolved.version
        await here.fetch(resolved, tmp_path / "source", FetchLimits(500_000_000))
        assert tree(tmp_path / "source")


async def test_what_is_not_there_is_told() -> None:
    async with asked(SOURCES["zenodo"], RULES) as here:
        with pytest.raises(RepositoryNotFound):
            await here.resolve("10.5281/zenodo.999999999999")
        with pytest.raises(RefNotFound):
            await here.resolve(PUBLIC["zenodo"], "1")


async def test_a_doi_is_handed_on() -> None:
    async with asyncio.TaskGroup() as tasks, Asker(RULES) as ask:
        context = ProviderContext(RULES, tasks, ask)
        providers: dict[str, RepoProvider] = {name: RecordProvider(source, context) for name, source in SOURCES.items()}
        doi = DoiProvider(context, providers, Dataverse())
        for locator, provider in PUBLIC_DOIS.items():
            by_doi = await doi.resolve(RepoSpec("doi", locator, ""))
            own = await providers[provider].resolve(RepoSpec(provider, locator, ""))
            assert (by_doi.repository, by_doi.version) == (own.repository, own.version)
