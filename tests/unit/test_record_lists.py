"""Long lists of files: read page by page and to their end, refused where they are longer than is read, and never gone round in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from replay_build_service.errors import Refused, ReplayError, SourceFault
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.sources import figshare, hydroshare, osf
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record
from tests.archives.ckan import CkanServer
from tests.archives.dataverse import DataverseServer
from tests.archives.direct import Direct
from tests.archives.figshare import FigshareServer
from tests.archives.hydroshare import HydroShareServer
from tests.archives.osf import OsfServer
from tests.archives.server import Answer, ArchiveServer, Request
from tests.archives.zenodo import ZenodoServer

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]

MANY = {f"file-{number:03}.txt": f"{number}".encode() for number in range(61)}


async def found(archive: ArchiveServer, files: Mapping[str, bytes], change: Callable[[Any], Any] = lambda value: value) -> Record:  # fmt: skip
    record = archive.publish(files)
    return await archive.source().find(cast("Asker", Direct(archive, change)), record.locator, None)


async def refusal(archive: ArchiveServer, files: Mapping[str, bytes]) -> ReplayError:
    with pytest.raises(Refused) as told:
        await found(archive, files)
    return told.value


@pytest.mark.parametrize("kind", [FigshareServer, HydroShareServer, OsfServer], ids=lambda kind: kind.provider)
async def test_a_long_list_is_read_to_its_end(kind: type[ArchiveServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figshare, "_PAGE", 20)
    with kind() as archive:
        record = await found(archive, MANY)
    assert sorted(file.path for file in record.files) == sorted(MANY)


async def test_more_files_than_are_read_are_told_with_the_number_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is so today and tomorrow: no fault of the archive's, and not worth trying again."""
    monkeypatch.setattr(figshare, "_PAGE", 20)
    monkeypatch.setattr(figshare, "_MOST_PAGES", 3)
    with FigshareServer() as archive:
        told = await refusal(archive, MANY)
        assert "has more than 60 files, which is the limit here" in told.sentence
    monkeypatch.setattr(hydroshare, "_MAX_PAGES", 20)
    with HydroShareServer() as archive:
        told = await refusal(archive, MANY)
        assert "has 61 files, and Replay reads at most 60 of them" in told.sentence
    monkeypatch.setattr(osf, "_MAX_REQUESTS", 20)
    with OsfServer() as archive:
        told = await refusal(archive, MANY)
        assert "has more than 60 files in 1 folder, and Replay asks OSF for at most 20 lists" in told.sentence
    with OsfServer() as archive:
        told = await refusal(archive, {f"{number:02}/a": b"" for number in range(25)})
        assert "has more than 11 files in 26 folders" in told.sentence


@pytest.mark.parametrize("kind", [FigshareServer, HydroShareServer, OsfServer], ids=lambda kind: kind.provider)
async def test_an_archive_that_gives_one_page_again_and_again_is_left(
    kind: type[ArchiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says of a next one."""
    monkeypatch.setattr(figshare, "_PAGE", 20)
    with kind() as archive:
        record = archive.publish(MANY)
        proper, asked = archive.answer, list[Request]()

        def answer(request: Request) -> Answer:
            if "files" in request.path and "page" in request.query:
                asked.append(request)
                request = Request(request.method, request.path, {**request.query, "page": "1"}, b"", {})
                value = json.loads(proper(request).body)
                if isinstance(value, dict):
                    value |= {"next": f"https://example.org/?page={len(asked)}"} if "results" in value else {}
                return Answer.of_json(value)
            return proper(request)

        archive.answer = answer  # type: ignore[method-assign] # this archive answers otherwise
        ask = cast("Asker", Direct(archive, lambda value: value))
        with pytest.raises(SourceFault, match="the same files again"):
            await archive.source().find(ask, record.locator, None)
        assert len(asked) <= 2


@pytest.mark.parametrize(
    ("kind", "most", "path"),
    [
        (ZenodoServer, 100_000, ("files",)),
        (DataverseServer, 100_000, ("data", "files")),
        (CkanServer, 20_000, ("result", "resources")),
    ],
    ids=["zenodo", "dataverse", "ckan"],
)
async def test_a_list_in_one_answer_that_is_too_long_is_told_as_that(
    kind: type[ArchiveServer], most: int, path: tuple[str, ...]
) -> None:
    with kind() as archive:
        record = archive.publish({"a.txt": b"1"})
        proper = archive.answer

        def answer(request: Request) -> Answer:
            given = proper(request)
            if not given.body:  # a redirect
                return given
            value = json.loads(given.body)
            inner = value
            for name in path[:-1]:
                inner = inner[name]
            inner[path[-1]] = [{}] * (most + 1)
            return Answer.of_json(value)

        archive.answer = answer  # type: ignore[method-assign] # this archive answers otherwise
        async with Asker(archive.rules) as ask:
            with pytest.raises(Refused, match=f"at most {most:,}"):
                await archive.source().find(ask, record.locator, None)


async def test_an_answer_that_is_too_long_is_told_as_that() -> None:
    with ZenodoServer() as archive:
        record = archive.publish({"a.txt": b"1"})
        archive.answer = lambda _: Answer(200, b" " * 17_000_000)  # type: ignore[method-assign]
        async with Asker(OutgoingRules(frozenset(), frozenset({archive.url}))) as ask:
            with pytest.raises(Refused, match="more than 16 MB"):
                await archive.source().find(ask, record.locator, None)
