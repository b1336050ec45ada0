"""What a provider of records keeps of them and believes: as much as it may, and nothing is worked out twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import overload

import httpx
import pytest

from replay_build_service.domain import BuildRecipe, ImageName, ResolvedRef
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import MOST_KEPT, RecordProvider
from replay_build_service.sources.asking import Asker, RateLimits
from replay_build_service.sources.base import Record, RemoteFile, split_pin

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]


class Listed(Sequence[RemoteFile]):
    """As many files as are said, one of which is held; counts how often they are gone through."""

    def __init__(self, count: int, path: str) -> None:
        self.count = count
        self.readings = 0
        self._file = RemoteFile(path, f"https://zenodo.org/{path}", 1, "")

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> RemoteFile: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RemoteFile]: ...
    def __getitem__(self, index: int | slice) -> RemoteFile | Sequence[RemoteFile]:
        raise AssertionError("files are gone through in order")

    def __iter__(self) -> Iterator[RemoteFile]:
        self.readings += 1
        return iter([self._file] * self.count)


class Source:
    """Has a record of that many files under every locator."""

    name = "zenodo"

    def __init__(self) -> None:
        self.files = Listed(1, "a")
        self.asked: list[str] = []

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        self.asked.append(locator)
        return Record("zenodo", f"https://zenodo.org/{locator}", "1", f"https://doi.org/{locator}", "", self.files)

    async def listed(self, ask: Asker, api_url: str) -> Record:
        raise NotImplementedError


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def provider(source: Source) -> AsyncIterator[RecordProvider]:
    rules = OutgoingRules()
    async with asyncio.TaskGroup() as tasks, Asker(rules) as ask:
        yield RecordProvider(source, ProviderContext(rules, tasks, ask, clock=lambda: 0.0))


def spec(number: int, version: str = "") -> RepoSpec:
    return RepoSpec("zenodo", f"10.5281/zenodo.{number}", version)


async def test_long_lists_take_no_more_room_than_there_is(provider: RecordProvider, source: Source) -> None:
    """A DOI may be spelled in thousands of ways, upper and lower case, and people may have thousands of links."""
    source.files = Listed(10_000, "a" * 50)
    most = MOST_KEPT // (10_000 * 100)
    for number in range(most):
        await provider.resolve(spec(number))
    await provider.resolve(spec(most - 1))
    assert len(source.asked) == most, "the last one is kept"
    await provider.resolve(spec(0))
    assert len(source.asked) == most + 1, "the first one is not any more"


async def test_short_lists_are_kept_by_the_thousand(provider: RecordProvider, source: Source) -> None:
    for _ in range(2):
        for number in range(1000):
            await provider.resolve(spec(number))
    assert len(source.asked) == 1000


async def test_what_is_larger_than_all_room_is_not_kept(provider: RecordProvider, source: Source) -> None:
    source.files = Listed(10, "a" * (MOST_KEPT // 10))
    first, second = await provider.resolve(spec(1)), await provider.resolve(spec(1))
    assert (first, len(source.asked)) == (second, 2)


def test_an_answer_that_was_on_its_way_shortens_no_pause() -> None:
    limits = RateLimits(clock=lambda: 0.0)
    limits.note("api.osf.io", httpx.Response(429, headers={"Retry-After": "600"}))
    limits.note("api.osf.io", httpx.Response(200, headers={"RateLimit-Remaining": "0", "RateLimit-Reset": "5"}))
    assert limits.seconds_left("api.osf.io") == 600


def test_nobody_can_make_two_lists_of_one_digest() -> None:
    """Whoever writes a record chooses the names in it, so a digest of n bits is met twice after some 2 ** (n / 2) tries of theirs."""
    longest = Record("osf", "https://api.osf.io/", "a" * 40, "https://osf.io/abcde", "", ())
    assert len(longest.digest) * 4 / 2 >= 64
    assert split_pin(longest.pinned) == (longest.version, longest.digest)
    record = RepoSpec.parse("osf/abcde").pinned_to(longest.pinned)
    assert RepoSpec.parse(record.text) == record
    name = ImageName.of(
        ResolvedRef(Repository(longest.identity), record, longest.fetch_url, longest.pinned), BuildRecipe("docker")
    )
    assert len(name.tag) <= 128, (
        "https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests"
    )


async def test_a_list_of_files_is_gone_through_when_it_comes_and_not_at_each_look(
    provider: RecordProvider, source: Source
) -> None:
    source.files = Listed(5_000, "a")
    resolved = await provider.resolve(spec(1))
    before = source.files.readings
    for ref in ("", "1", resolved.version):
        assert (await provider.resolve(spec(1, ref))).version == resolved.version
    assert (source.files.readings, len(source.asked)) == (before, 1)
