"""Fetching records, in what needs no more than one archive: what is refused, what is told, what is left behind; and what is one archive's alone."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from replay_build_service.builders.venv.builder import VenvBuilder, VenvBuilderSettings
from replay_build_service.domain import BuildId, BuildJob, ImageName, RunnableImage
from replay_build_service.errors import RefNotFound, Refused, RepositoryNotFound, SourceFault
from replay_build_service.pasting import read
from replay_build_service.sources import asking
from replay_build_service.sources.fetching import FetchLimits, partial_folder
from tests.archives import server as wrong
from tests.archives.figshare import FigshareServer
from tests.archives.zenodo import ZenodoServer
from tests.integration.record_cases import NEW, OLD, asked, tree, zipped

pytestmark = pytest.mark.hub_independent


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """As many attempts, without the waits between them."""
    with stamina.set_testing(True, attempts=asking.ATTEMPTS):
        yield


async def test_a_fetch_whose_process_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """Of two files one is there already when it happens."""
    with ZenodoServer() as archive:
        record = archive.publish({"a.csv": b"a,b\n", "z.csv": b"c,d\n"})
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
        stuck = wrong.slow(60, where=r"/z\.csv/")
        archive.faults.append(stuck)
        source = f"Zenodo({{'10.5281': {archive.url!r}}})"
        program = f"""
import asyncio
from pathlib import Path
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.sources.fetching import FetchLimits, fetch_record
from replay_build_service.sources.zenodo import Zenodo
rules = OutgoingRules.from_json({archive.rules.to_json()!r})
address = {resolved.fetch_url.partition("+")[2]!r}
asyncio.run(fetch_record({source}, address, {resolved.version!r}, Path({str(tmp_path / "source")!r}), rules, FetchLimits(10**9)))
"""
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        try:
            assert await asyncio.to_thread(stuck.met.wait, 60)
        finally:
            child.kill()
            await child.wait()
        assert [path.name for path in tmp_path.iterdir()] == [partial_folder(tmp_path / "source").name]
        archive.faults.clear()
        async with asked(archive.source(), archive.rules) as here:
            await here.fetch(resolved, tmp_path / "source")
        assert tree(tmp_path / "source") == {"a.csv": b"a,b\n", "z.csv": b"c,d\n"}
        assert [path.name for path in tmp_path.iterdir()] == ["source"]


async def test_what_figshare_says_of_files_that_are_not_to_be_had_is_told(tmp_path: Path) -> None:
    with FigshareServer() as archive:
        async with asked(archive.source(), archive.rules) as here:
            for extra, sentence in (
                ({"is_metadata_record": True}, "a description without files"),
                ({"is_embargoed": True, "embargo_type": "article"}, "under embargo"),
                ({"is_confidential": True}, "not public"),
                ({"download_disabled": True}, "not public"),
            ):
                with pytest.raises(RepositoryNotFound, match=sentence):
                    await here.resolve(archive.publish(OLD, **extra).locator)
            only_links = archive.publish({"data": b""}, linked=("data",))
            with pytest.raises(RepositoryNotFound, match="only links to files elsewhere"):
                await here.resolve(only_links.locator)
            some = archive.publish({"data": b"", "index.ipynb": b"{}"}, linked=("data",))
            said = await here.fetch(await here.resolve(some.locator), tmp_path / "source")
            assert said == ["data is a link to another place, and is left out."]
            assert tree(tmp_path / "source") == {"index.ipynb": b"{}"}


@pytest.mark.parametrize("doi", ["10.25405/data.ncl.{number}", "10.1184/R1/{number}", "10.4225/03/5a1372e6d24ee"])
async def test_an_institutions_doi_of_figshare_is_found(doi: str) -> None:
    """By the article's number where it has that, else by searching; another article of that number is not believed."""
    with FigshareServer() as archive:
        record = archive.publish(OLD, NEW, doi=doi)
        async with asked(archive.source(), archive.rules) as here:
            newest = await here.resolve(record.locator)
            assert newest.repository.url == record.identity
            assert newest.short_version == "2"
            assert archive.count("POST") == (0 if "{number}" in doi else 1)
            first = await here.resolve(record.locators[0])
            assert (first.repository, first.short_version) == (newest.repository, "1")
            with pytest.raises(RepositoryNotFound):
                await here.resolve(f"10.9999/other.{9782000 + 1}")


async def test_a_portals_page_names_its_article_by_figshares_own_doi() -> None:
    """What a pasted address of a portal becomes has the article's number alone, and the article has the institution's DOI."""
    with FigshareServer() as archive:
        record = archive.publish(OLD, NEW, doi="10.17045/sthlmuni.{number}")
        number = record.locator.rpartition(".")[2]
        pasted = read(f"https://su.figshare.com/articles/software/A_record/{number}/1")
        async with asked(archive.source(), archive.rules) as here:
            first, own = await here.resolve(pasted.spec.locator), await here.resolve(record.locators[0])
            assert (first.version, first.repository) == (own.version, own.repository)
            assert first.repository.url == record.identity


@pytest.mark.parametrize("access", ["closed", "restricted", "embargoed"])
async def test_what_zenodo_keeps_to_some_is_told(access: str) -> None:
    with ZenodoServer() as archive:
        record = archive.publish(OLD)
        archive.restrict(record, access)
        async with asked(archive.source(), archive.rules) as here:
            with pytest.raises(RepositoryNotFound, match="not public, so they cannot be run"):
                await here.resolve(record.locator)


async def test_the_number_of_all_versions_pins_none(tmp_path: Path) -> None:
    with ZenodoServer() as archive:
        record = archive.publish(OLD, NEW)
        other = archive.publish(OLD)
        async with asked(archive.source(), archive.rules) as here:
            newest = await here.resolve(record.locator)
            for version in (record.locator.rpartition(".")[2], other.versions[0], "x1"):
                with pytest.raises(RefNotFound) as caught:
                    await here.resolve(record.locators[0], version)
                first = await here.resolve(record.locators[0])
                assert caught.value.nearest == (first.version,)
            archive.requests.clear()
            assert (await here.resolve(record.locator, record.versions[0])).short_version == record.versions[0]
            assert len(archive.requests) == 1
            assert (await here.resolve(record.locators[0], newest.version)).version == newest.version


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "a/../../evil", "a\\b", "a\0b", "x" * 300, "index.ipynb/x", "INDEX.ipynb"],
    ids=["up", "absolute", "up later", "backslash", "NUL", "long", "in a file", "case"],
)
async def test_a_listed_name_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with ZenodoServer() as archive:
        record = archive.publish({"index.ipynb": b"{}", name: b"x"})
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
            count = len(archive.requests)
            with pytest.raises(Refused):
                await here.fetch(resolved, tmp_path / "source")
            assert len(archive.requests) == count + 1, "nothing is downloaded"
        assert not list(tmp_path.iterdir())


async def test_a_fetch_that_takes_too_long_is_told(tmp_path: Path) -> None:
    with ZenodoServer() as archive:
        record = archive.publish(OLD)
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
            archive.faults.append(wrong.slow(60, where="/content"))
            with pytest.raises(SourceFault, match=r"within 0\.5 seconds"):
                await here.fetch(resolved, tmp_path / "source", FetchLimits(10**9, seconds=0.5))
        assert not list(tmp_path.iterdir())


async def test_a_folder_that_is_in_use_is_not_replaced(tmp_path: Path) -> None:
    with ZenodoServer() as archive:
        record = archive.publish(OLD)
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
            (tmp_path / "source").mkdir()
            (tmp_path / "source" / "mine").write_bytes(b"")
            with pytest.raises(ValueError, match="not empty"):
                await here.fetch(resolved, tmp_path / "source")
            (tmp_path / "source" / "mine").unlink()
            await here.fetch(resolved, tmp_path / "source")
        assert tree(tmp_path / "source") == OLD


async def test_unpacking_that_is_cancelled_ends_soon_and_leaves_nothing(tmp_path: Path) -> None:
    with ZenodoServer() as archive:
        record = archive.publish({"many.zip": zipped({f"{number:05}": b"x" for number in range(20_000)})})
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
            fetching = asyncio.ensure_future(here.fetch(resolved, tmp_path / "source"))
            unpacking = partial_folder(tmp_path / "source") / "tree"

            def begun() -> int:
                """How many files there are, once there are some."""
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    if unpacking.is_dir() and (count := len(list(unpacking.iterdir()))):
                        return count
                return 0

            assert 0 < await asyncio.to_thread(begun) < 20_000
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
        assert not list(tmp_path.iterdir())


async def test_a_builders_own_process_builds_a_record_by_what_the_service_resolved(tmp_path: Path) -> None:
    """Which has no ``.git``, and a version that is no commit."""
    files = {"octocat-hello-1a2b3c/index.ipynb": b"{}", "octocat-hello-1a2b3c/postBuild": b"#!/bin/sh\necho was here\n"}
    with ZenodoServer() as archive:
        record = archive.publish({"octocat/hello-v1.0.zip": zipped(files)})
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
        builder = VenvBuilder(
            VenvBuilderSettings(
                builds_dir=tmp_path / "builds",
                cache_dir=tmp_path / "cache",
                base_requirements=(),
                environment={},
                outgoing=archive.rules,
                time_limit=120,
            )
        )
        image = ImageName.of(resolved, builder.recipe)
        build = await builder.start(BuildJob(BuildId("build1"), image, resolved, builder.recipe))
        told = [one.text async for chunk in build.follow(0) for one in chunk.records]
        outcome = await build.outcome()
    assert isinstance(outcome, RunnableImage), (outcome, told)
    assert f"Fetching {resolved.fetch_url.partition('+')[2]}, version {resolved.version}." in told
    assert "Unpacking octocat/hello-v1.0.zip." in told
    assert "was here" in told
    assert {path.name for path in Path(outcome.location, "src").iterdir()} == {"index.ipynb", "postBuild"}
