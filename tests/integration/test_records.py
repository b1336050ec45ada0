"""What every archive of records is held to: from a link to a version, and from a version to exactly its files.

Each test runs over every row of ``record_cases.ARCHIVES``, against a stand-in that answers like the archive's API over real HTTP.
What is fetched is fetched as builders do it.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stamina

from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.log import LogWriter, read_chunk
from replay_build_service.builders.detached.sources import fetch_sources
from replay_build_service.errors import (
    BadLink,
    OriginRefused,
    RefNotFound,
    Refused,
    RepositoryNotFound,
    SourceFault,
)
from replay_build_service.links import Repository
from replay_build_service.sources import asking
from replay_build_service.sources.fetching import FetchLimits, partial_folder
from tests.archives import server as wrong
from tests.archives.server import ArchiveServer
from tests.integration.record_cases import ARCHIVES, NEW, OLD, Asked, asked, tarred, tree, zipped

pytestmark = pytest.mark.hub_independent

VERSIONED = tuple(archive for archive in ARCHIVES if archive.has_versions)
NAMED = tuple(archive for archive in VERSIONED if archive.names_versions)
WITH_CHECKSUMS = tuple(archive for archive in ARCHIVES if archive.has_checksums)


def name_of(archive: type[ArchiveServer]) -> str:
    return archive.provider


@pytest.fixture(params=ARCHIVES, ids=name_of)
def archive(request: pytest.FixtureRequest) -> Iterator[ArchiveServer]:
    with request.param() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is waited for in earnest, in a moment: as many attempts, without the waits between them."""
    monkeypatch.setattr(asking, "SHORT_PAUSE", 0.2)
    with stamina.set_testing(True, attempts=asking.ATTEMPTS):
        yield


@pytest.fixture
async def here(archive: ArchiveServer) -> AsyncIterator[Asked]:
    async with asked(archive.source(), archive.rules) as found:
        yield found


def only(kind: tuple[type[ArchiveServer], ...]) -> pytest.MarkDecorator:
    """The archives that have what a test is about, in place of all."""
    return pytest.mark.parametrize("archive", kind, ids=name_of, indirect=True)


# ---- from a link to a version


async def test_a_record_resolves_to_a_version_and_says_what_it_is(archive: ArchiveServer, here: Asked) -> None:
    record = archive.publish(OLD, title="Waves in a bathtub")
    resolved = await here.resolve(record.locator)
    assert resolved.repository == Repository.of_url(record.identity)
    assert resolved.title == "Waves in a bathtub"
    assert (resolved.page, resolved.license) == (record.page, record.license)
    assert resolved.version.startswith(f"{record.versions[-1]}-")
    assert resolved.short_version == record.versions[-1]
    assert not resolved.is_commit
    assert resolved.spec.pinned_to(resolved.version).text.endswith(f"@{resolved.version}")


@only(NAMED)
async def test_all_spellings_of_a_record_are_one_repository(archive: ArchiveServer, here: Asked) -> None:
    record = archive.publish(OLD, NEW)
    newest = await here.resolve(record.locator)
    each = [await here.resolve(locator) for locator in record.locators]
    assert {one.repository for one in each} == {newest.repository}
    assert [one.short_version for one in each] == list(record.versions)
    assert each[-1].version == newest.version


@only(VERSIONED)
async def test_what_is_pinned_stays_when_there_is_a_newer_version(
    archive: ArchiveServer, here: Asked, tmp_path: Path
) -> None:
    record = archive.publish(OLD)
    first = await here.resolve(record.locator)
    record = archive.add_version(record, NEW)
    here.clock.now += 3600
    second = await here.resolve(record.locator)
    assert second.version != first.version
    again = await here.resolve(record.locator, first.version)
    assert (again.version, again.fetch_url) == (first.version, first.fetch_url)
    assert (await here.resolve(record.locator, record.versions[0])).version == first.version
    await here.fetch(first, tmp_path / "first")
    await here.fetch(second, tmp_path / "second")
    assert tree(tmp_path / "first") == OLD
    assert tree(tmp_path / "second") == NEW


async def test_the_same_question_is_asked_once(archive: ArchiveServer, here: Asked) -> None:
    record = archive.publish(OLD)
    found = await asyncio.gather(*(here.resolve(record.locator) for _ in range(20)))
    assert len({one.version for one in found}) == 1
    count = len(archive.requests)
    await here.resolve(record.locator, found[0].version)
    assert len(archive.requests) == count, "a version that is known is not asked for again"


async def test_files_that_changed_under_a_version_are_not_built_under_its_name(
    archive: ArchiveServer, here: Asked, tmp_path: Path
) -> None:
    record = archive.publish(OLD)
    resolved = await here.resolve(record.locator)
    archive.change(record, NEW)
    with pytest.raises(RefNotFound, match="changed since"):
        await here.fetch(resolved, tmp_path / "source")
    assert not list(tmp_path.iterdir())
    here.clock.now += 7200
    with pytest.raises((RefNotFound, RepositoryNotFound)):
        await here.resolve(record.locator, resolved.version)


@pytest.mark.parametrize("how", ["withdraw", "restrict"])
async def test_what_is_not_public_is_told(archive: ArchiveServer, here: Asked, how: str) -> None:
    record = archive.publish(OLD)
    getattr(archive, how)(record)
    with pytest.raises(RepositoryNotFound) as caught:
        await here.resolve(record.locator)
    assert caught.value.sentence.endswith(".")


async def test_what_was_never_there_is_told(archive: ArchiveServer, here: Asked) -> None:
    with pytest.raises(RepositoryNotFound):
        await here.resolve(archive.misspelt)


async def test_a_record_without_files_is_told(archive: ArchiveServer, here: Asked) -> None:
    with pytest.raises(RepositoryNotFound, match=r"files|empty|nothing"):
        await here.resolve(archive.publish({}).locator)


@only(VERSIONED)
async def test_a_version_that_is_not_there_names_the_one_that_is(archive: ArchiveServer, here: Asked) -> None:
    record = archive.publish(OLD)
    newest = await here.resolve(record.locator)
    with pytest.raises(RefNotFound) as caught:
        await here.resolve(record.locator, "87654")
    assert caught.value.nearest == (newest.version,)


async def test_a_fetch_address_that_is_none_of_the_archives_is_refused(archive: ArchiveServer, here: Asked) -> None:
    async with asking.Asker(archive.rules) as ask:
        for address in ("https://example.org/api/records/1", f"{archive.url}/../../etc/passwd", archive.url):
            with pytest.raises((BadLink, OriginRefused)):
                await here.source.listed(ask, address)
    assert not archive.requests


# ---- when the archive is unwell


async def test_an_archive_that_takes_no_more_requests_is_left_alone(archive: ArchiveServer, here: Asked) -> None:
    record = archive.publish(OLD)
    archive.faults.append(wrong.too_many(90))
    with pytest.raises(SourceFault, match=r"takes no more questions for now\. Try again in 90 seconds"):
        await here.resolve(record.locator)
    count = len(archive.requests)
    archive.faults.clear()
    here.clock.now += 10  # that errors are kept is another matter
    with pytest.raises(SourceFault, match="Try again in"):
        await here.resolve(record.locator)
    assert len(archive.requests) == count


async def test_one_stumble_is_asked_again(archive: ArchiveServer, here: Asked) -> None:
    record = archive.publish(OLD)
    archive.faults.append(wrong.broken(500, times=1))
    assert (await here.resolve(record.locator)).short_version == record.versions[-1]


@pytest.mark.parametrize(
    "fault",
    [wrong.broken(500), wrong.broken(502), wrong.a_page(), wrong.truncated(), wrong.Fault(wrong.Answer(200, b"[[[["))],
    ids=["500", "502", "a page", "cut short", "no JSON"],
)
async def test_an_archive_that_is_unwell_is_not_a_fact_about_the_record(
    archive: ArchiveServer, here: Asked, fault: wrong.Fault
) -> None:
    record = archive.publish(OLD)
    archive.faults.append(fault)
    with pytest.raises(SourceFault, match="Try again"):
        await here.resolve(record.locator)


ODD = {
    "an object": b"{}",
    "nothing": b"null",
    "a text": b'"Not found"',
    "a number": b"1e999",
    "deep": b"[" * 100_000,
    "half a character": b'{"id": 1, "title": "\\ud800"}',
    "negative": b'{"id": -1, "version": -1, "conceptrecid": "-1", "metadata": {}, "files": [{"id": -1, "key": 7, "size": -1}]}',
}


@pytest.mark.parametrize("odd", ODD)
async def test_an_answer_that_is_none_is_no_fact_about_the_record(
    archive: ArchiveServer, here: Asked, odd: str
) -> None:
    record = archive.publish(OLD)
    archive.faults.append(wrong.Fault(wrong.Answer(200, ODD[odd], {"Content-Type": "application/json"})))
    with pytest.raises(SourceFault, match=r"not understood|other than|another"):
        await here.resolve(record.locator)


async def test_an_archive_that_does_not_answer_in_time_is_told(
    archive: ArchiveServer, here: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.3)
    record = archive.publish(OLD)
    archive.faults.append(wrong.slow(5))
    with pytest.raises(SourceFault, match="did not answer within"):
        await here.resolve(record.locator)


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data", "http://127.0.0.1:9/", "https://example.org/"]
)
async def test_an_archive_sends_nobody_elsewhere(archive: ArchiveServer, here: Asked, target: str) -> None:
    record = archive.publish(OLD)
    archive.faults.append(wrong.elsewhere(target))
    with pytest.raises((OriginRefused, SourceFault, RepositoryNotFound)) as caught:
        await here.resolve(record.locator)
    assert not isinstance(caught.value, RepositoryNotFound)


# ---- from a version to its files


async def test_what_is_fetched_is_what_is_there(archive: ArchiveServer, here: Asked, tmp_path: Path) -> None:
    files = {"environment.yml": b"name: x\n", "empty": b"", "big.bin": bytes(range(256)) * 20_000}
    if archive.folders:
        files |= {"binder/postBuild": b"#!/bin/sh\n", "notebooks/a b/ü.ipynb": b"{}"}
    resolved = await here.resolve(archive.publish(files).locator)
    await here.fetch(resolved, tmp_path / "source")
    assert tree(tmp_path / "source") == files
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert not any("authorization" in headers for headers in archive.headers)


async def test_a_longer_list_is_fetched_whole(archive: ArchiveServer, here: Asked, tmp_path: Path) -> None:
    files = {f"{number:03}.txt": b"%d" % number for number in range(60)}
    resolved = await here.resolve(archive.publish(files).locator)
    await here.fetch(resolved, tmp_path / "source")
    assert tree(tmp_path / "source") == files


@pytest.mark.parametrize(("ending", "pack"), [("zip", zipped), ("tar.gz", tarred)], ids=["zip", "tar.gz"])
async def test_a_record_that_is_one_archive_is_unpacked(
    archive: ArchiveServer, here: Asked, tmp_path: Path, ending: str, pack: type[bytes]
) -> None:
    inner = {f"octocat-hello-1a2b3c/{name}": content for name, content in (OLD | {"postBuild": b"#!/bin/sh\n"}).items()}
    name = f"octocat/hello-v1.0.{ending}" if archive.folders else f"hello-v1.0.{ending}"
    resolved = await here.resolve(archive.publish({name: pack(inner)}).locator)
    said = await here.fetch(resolved, tmp_path / "source")
    assert tree(tmp_path / "source") == OLD | {"postBuild": b"#!/bin/sh\n"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "source").iterdir()}
    assert modes == {"requirements.txt": 0o644, "index.ipynb": 0o644, "postBuild": 0o755}
    assert f"Unpacking {name}." in said


async def test_a_bomb_is_refused_and_leaves_nothing(archive: ArchiveServer, here: Asked, tmp_path: Path) -> None:
    bomb = zipped({"zeros": bytes(30_000_000)})
    assert len(bomb) < 60_000
    resolved = await here.resolve(archive.publish({"bomb.zip": bomb}).locator)
    with pytest.raises(Refused, match="larger than 10 MB"):
        await here.fetch(resolved, tmp_path / "source", FetchLimits(10_000_000))
    assert not list(tmp_path.iterdir())


async def test_a_record_larger_than_the_limit_is_refused(archive: ArchiveServer, here: Asked, tmp_path: Path) -> None:
    resolved = await here.resolve(archive.publish({"a": bytes(600_000), "b": bytes(600_000)}).locator)
    with pytest.raises(Refused, match="larger than 1 MB"):
        await here.fetch(resolved, tmp_path / "source", FetchLimits(1_000_000))
    with pytest.raises(Refused, match="more than 1 files and folders"):
        await here.fetch(resolved, tmp_path / "source", FetchLimits(10_000_000, entries=1))
    assert not list(tmp_path.iterdir())


def downloads_of(archive: ArchiveServer, before: int) -> list[str]:
    """The paths that were asked for since, the last of which gave the file."""
    return [line.partition(" ")[2] for line in archive.requests[before:]]


async def last_download(archive: ArchiveServer, here: Asked, locator: str, folder: Path) -> str:
    """The path where a file's bytes come from, found by fetching it."""
    await here.fetch(await here.resolve(locator), folder)
    return archive.requests[-1].partition(" ")[2].partition("?")[0]


DOWNLOAD_FAULTS = {
    "500": wrong.broken(500),
    "a page": wrong.a_page(),
    "cut short": wrong.truncated(),
}


@pytest.mark.parametrize("fault", DOWNLOAD_FAULTS)
async def test_a_download_that_goes_wrong_is_asked_again_and_told(
    archive: ArchiveServer, here: Asked, tmp_path: Path, fault: str
) -> None:
    """Once, it is put right; for good, it is told, and nothing looks whole."""
    locator = archive.publish({"data.csv": b"a,b\n" * 100}).locator
    path = await last_download(archive, here, locator, tmp_path / "first")
    resolved = await here.resolve(locator)
    bad = DOWNLOAD_FAULTS[fault]
    archive.faults.append(wrong.Fault(bad.answer, f"^{path}", 1, bad.delay, bad.kept, bad.spoilt))
    await here.fetch(resolved, tmp_path / "second")
    assert tree(tmp_path / "second") == {"data.csv": b"a,b\n" * 100}
    archive.faults.append(wrong.Fault(bad.answer, f"^{path}", 100, bad.delay, bad.kept, bad.spoilt))
    with pytest.raises(SourceFault, match=r"could not be fetched: .*Try again later"):
        await here.fetch(resolved, tmp_path / "third")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["first", "second"]


@only(WITH_CHECKSUMS)
async def test_bytes_that_are_not_those_of_the_checksum_are_refused(
    archive: ArchiveServer, here: Asked, tmp_path: Path
) -> None:
    locator = archive.publish({"data.csv": b"a,b\n" * 100}).locator
    path = await last_download(archive, here, locator, tmp_path / "first")
    archive.faults.append(wrong.spoilt(where=f"^{path}"))
    with pytest.raises(SourceFault, match="checksum"):
        await here.fetch(await here.resolve(locator), tmp_path / "second")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["first"]


async def test_a_download_waits_where_the_archive_says_for_how_long(
    archive: ArchiveServer, here: Asked, tmp_path: Path
) -> None:
    locator = archive.publish({"data.csv": b"a,b\n"}).locator
    path = await last_download(archive, here, locator, tmp_path / "first")
    archive.faults.append(wrong.too_many(1, where=f"^{path}", times=1))
    await here.fetch(await here.resolve(locator), tmp_path / "second")
    archive.faults.append(wrong.too_many(900, where=f"^{path}"))
    with pytest.raises(SourceFault, match="Try again in 15 minutes"):
        await here.fetch(await here.resolve(locator), tmp_path / "third")


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest", "http://10.0.0.1/", "https://example.org/", "file:///etc/passwd"]
)
async def test_a_download_leads_to_no_other_place(
    archive: ArchiveServer, here: Asked, tmp_path: Path, target: str
) -> None:
    locator = archive.publish({"data.csv": b"a,b\n"}).locator
    path = await last_download(archive, here, locator, tmp_path / "first")
    archive.faults.append(wrong.elsewhere(target, where=f"^{path}"))
    with pytest.raises(OriginRefused, match="from elsewhere"):
        await here.fetch(await here.resolve(locator), tmp_path / "second")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["first"]


async def test_a_file_that_is_listed_and_not_given_is_told(archive: ArchiveServer, here: Asked, tmp_path: Path) -> None:
    locator = archive.publish({"data.csv": b"a,b\n"}).locator
    path = await last_download(archive, here, locator, tmp_path / "first")
    archive.faults.append(wrong.Fault(wrong.Answer.of_json({}, 403), f"^{path}"))
    with pytest.raises(RepositoryNotFound, match=r"data\.csv"):
        await here.fetch(await here.resolve(locator), tmp_path / "second")


async def test_a_fetch_that_is_cancelled_leaves_nothing(archive: ArchiveServer, here: Asked, tmp_path: Path) -> None:
    locator = archive.publish({"data.csv": b"a,b\n", "other.csv": b"c,d\n"}).locator
    path = await last_download(archive, here, locator, tmp_path / "first")
    stuck = wrong.slow(60, where=f"^{path}")
    archive.faults.append(stuck)
    fetching = asyncio.ensure_future(here.fetch(await here.resolve(locator), tmp_path / "second"))
    assert await asyncio.to_thread(stuck.met.wait, 10)
    assert partial_folder(tmp_path / "second").exists()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert sorted(one.name for one in tmp_path.iterdir()) == ["first"]


# ---- as a builder does it


async def test_a_builder_fetches_a_record_by_what_the_service_resolved(
    archive: ArchiveServer, here: Asked, tmp_path: Path
) -> None:
    resolved = await here.resolve(archive.publish(OLD).locator)
    log = LogWriter(tmp_path / "log")
    sources = {here.source.name: here.source}
    rules = here.rules.to_json()
    await fetch_sources(resolved.fetch_url, resolved.version, tmp_path / "source", rules, 10**9, log, sources=sources)
    assert tree(tmp_path / "source") == OLD
    told = read_chunk(tmp_path / "log", 0).records[0].text
    assert resolved.version in told
    archive.change(archive.publish(OLD), NEW)
    with pytest.raises(Unbuildable, match="changed since"):
        await fetch_sources(
            resolved.fetch_url, f"{resolved.version[:-1]}x", tmp_path / "again", rules, 10**9, log, sources=sources
        )
    assert not (tmp_path / "again").exists()
