"""Software Heritage: from any SWHID to one directory, and from that to exactly its files, whoever sent them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from replay_build_service.errors import BadLink, RefNotFound, RepositoryNotFound, SourceFault
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.swh import SoftwareHeritageProvider
from replay_build_service.sources import asking, swh
from tests.archives import server as wrong
from tests.archives.swh import SwhServer, modes
from tests.integration.record_cases import Asked, Clock, asked, tree

pytestmark = pytest.mark.hub_independent

FILES = {
    "README.md": b"# Hello\n",
    "a/notebook.ipynb": b"{}\n",
    "a/deep/data.csv": b"1,2\n",
    "a.b/x": b"x",
    "run.sh": b"#!/bin/sh\n",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "SHORT_PAUSE", 0.2)


@pytest.fixture
def archive() -> Iterator[SwhServer]:
    with SwhServer() as running:
        yield running


@pytest.fixture
async def here(archive: SwhServer) -> AsyncIterator[Asked]:
    async with asked(archive.source(), archive.rules) as found:
        yield found


# ---- from an SWHID to a directory


async def test_every_kind_of_name_leads_to_the_one_directory(archive: SwhServer, here: Asked) -> None:
    directory = archive.directory(FILES)
    revision = archive.revision(directory)
    release = archive.release(revision, "revision", "v1.2")
    snapshot = archive.snapshot(
        {
            "HEAD": ("alias", "refs/heads/main"),
            "refs/heads/a": ("revision", "0" * 40),
            "refs/heads/main": ("revision", revision),
        }
    )
    named = [f"swh:1:dir:{directory}", f"swh:1:rev:{revision}", f"swh:1:rel:{release}", f"swh:1:snp:{snapshot}"]
    found = [await here.resolve(name) for name in named]
    assert {one.repository for one in found} == {Repository.of_url(f"{archive.url}/swh:1:dir:{directory}")}
    assert {one.short_version for one in found} == {directory}
    assert len({one.version for one in found}) == 1
    assert [one.page for one in found] == [f"{archive.url}/{name}" for name in named]
    assert found[2].title == "v1.2"
    assert (await here.resolve(named[1], found[0].version)).version == found[0].version


async def test_an_answer_is_good_for_long(archive: SwhServer) -> None:
    """Of the 120 questions that anybody has an hour."""
    revision = archive.revision(archive.directory(FILES))
    clock = Clock()
    async with asyncio.TaskGroup() as tasks, asking.Asker(archive.rules) as ask:
        context = ProviderContext(archive.rules, tasks, ask, clock=clock)
        provider = SoftwareHeritageProvider(context, archive.source())
        for _ in range(50):
            await provider.resolve(RepoSpec("swh", f"swh:1:rev:{revision}", ""))
            clock.now += 60
    assert len(archive.requests) == 1


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        ({"refs/heads/main": "revision"}, "revision"),
        ({"refs/heads/develop": "none", "refs/heads/master": "revision"}, "revision"),
        ({"HEAD": "release"}, "release of a release"),
        ({"HEAD": "directory"}, "a directory itself"),
        ({"HEAD": None, "refs/heads/main": "revision"}, "HEAD dangles"),
    ],
    ids=["no HEAD", "master", "release", "directory", "dangling"],
)
async def test_a_snapshots_main_branch_is_meant(
    archive: SwhServer, here: Asked, branches: Mapping[str, str | None], expected: str
) -> None:
    directory = archive.directory(FILES)
    revision = archive.revision(directory)
    inner = archive.release(revision, "revision")
    targets = {
        "revision": ("revision", revision),
        "release": ("release", archive.release(inner, "release")),
        "directory": ("directory", directory),
        "none": ("revision", "0" * 40),
    }
    snapshot = archive.snapshot({name: None if kind is None else targets[kind] for name, kind in branches.items()})
    assert (await here.resolve(f"swh:1:snp:{snapshot}")).short_version == directory, expected


async def test_what_leads_nowhere_is_told(archive: SwhServer, here: Asked) -> None:
    circle = archive.snapshot({"HEAD": ("alias", "refs/heads/x"), "refs/heads/x": ("alias", "HEAD")})
    nothing = archive.snapshot({"refs/heads/other": ("revision", "0" * 40)})
    of_itself = archive.release("0" * 40, "release")
    archive.releases[of_itself]["target"] = of_itself
    of_nothing = archive.release("", "revision")
    archive.releases[of_nothing]["target"] = None
    for kind, number in (("snp", circle), ("snp", nothing), ("rel", of_itself), ("rel", of_nothing)):
        with pytest.raises(RepositoryNotFound):
            await here.resolve(f"swh:1:{kind}:{number}")
    assert len(archive.requests) < 40


@pytest.mark.parametrize("kind", ["cnt", "dir", "rev", "rel", "snp"])
async def test_what_is_not_archived_is_told(archive: SwhServer, here: Asked, kind: str) -> None:
    with pytest.raises(RepositoryNotFound, match=r"Software Heritage has no .*\."):
        await here.resolve(f"swh:1:{kind}:{'0' * 40}")


async def test_another_directory_than_the_one_that_is_pinned_is_refused(archive: SwhServer, here: Asked) -> None:
    revision = archive.revision(archive.directory(FILES))
    resolved = await here.resolve(f"swh:1:rev:{revision}")
    with pytest.raises(RefNotFound) as caught:
        await here.resolve(f"swh:1:rev:{revision}", "f" * 40)
    assert caught.value.nearest == (resolved.version,)
    with pytest.raises(BadLink):
        await here.resolve("swh:1:ori:" + "0" * 40)


# ---- from a directory to its files


async def test_what_is_fetched_is_the_directory_with_its_modes_and_links(
    archive: SwhServer, here: Asked, tmp_path: Path
) -> None:
    directory = archive.directory(
        FILES, executable=frozenset({"run.sh"}), links={"latest.ipynb": "a/notebook.ipynb", "a/up": "../README.md"}
    )
    said = await here.fetch(await here.resolve(f"swh:1:dir:{directory}"), tmp_path / "source")
    assert tree(tmp_path / "source") == FILES
    found = modes(tmp_path / "source")
    assert (found["run.sh"], found["README.md"]) == ("executable", "file")
    assert (found["latest.ipynb"], found["a/up"]) == ("-> a/notebook.ipynb", "-> ../README.md")
    assert any("packs the files" in line for line in said)
    assert archive.count("POST .*/vault/flat/") == 1
    assert archive.count("/api/1/directory/") == 0, "what has the right name needs no list"
    assert not archive.count("/content/"), "no request for each file"


async def test_what_is_packed_already_is_not_waited_for(archive: SwhServer, here: Asked, tmp_path: Path) -> None:
    archive.looks_until_packed = 0
    said = await here.fetch(await here.resolve(f"swh:1:dir:{archive.directory(FILES)}"), tmp_path / "source")
    assert not any("packs" in line for line in said)
    assert archive.count("/vault/flat/swh:1:dir:[0-9a-f]+/ |/vault/flat/swh:1:dir:[0-9a-f]+/$") == 1


async def test_other_repositories_stay_empty_and_are_named(archive: SwhServer, here: Asked, tmp_path: Path) -> None:
    directory = archive.directory(FILES, submodules={"a/library": "1" * 40})
    said = await here.fetch(await here.resolve(f"swh:1:dir:{directory}"), tmp_path / "source")
    assert modes(tmp_path / "source")["a/library"] == "folder"
    assert not list((tmp_path / "source" / "a" / "library").iterdir())
    assert "The folders of other repositories stay empty: a/library." in said
    assert archive.count("/api/1/directory/") == 2, "the lists of the root and of the one folder below, and no more"


async def test_one_files_content_is_fetched_by_its_name(archive: SwhServer, here: Asked, tmp_path: Path) -> None:
    archive.directory(FILES)
    number = next(number for number, body in archive.contents.items() if body == FILES["a/notebook.ipynb"])
    resolved = await here.resolve(f"swh:1:cnt:{number}")
    await here.fetch(resolved, tmp_path / "source")
    assert tree(tmp_path / "source") == {"content": FILES["a/notebook.ipynb"]}
    archive.hidden.add(number)
    here.clock.now += 7200
    with pytest.raises(RepositoryNotFound, match="does not give it out"):
        await here.resolve(f"swh:1:cnt:{number}")


# ---- when it is not what the link names


@pytest.mark.parametrize("path", ["README.md", "a/deep/data.csv"])
async def test_content_that_the_vault_replaced_is_noticed_down_to_the_file(
    archive: SwhServer, here: Asked, tmp_path: Path, path: str
) -> None:
    directory = archive.directory(FILES)
    number = next(number for number, body in archive.contents.items() if body == FILES[path])
    archive.replaced[number] = b"This content has not been retrieved in the Software Heritage archive"
    with pytest.raises(SourceFault, match=f"not what the link names at “{path}”"):
        await here.fetch(await here.resolve(f"swh:1:dir:{directory}"), tmp_path / "source")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [FILES | {"z": b""}, {"README.md": FILES["README.md"]}], ids=["more", "less"])
async def test_a_file_more_or_less_is_noticed(
    archive: SwhServer, here: Asked, tmp_path: Path, other: Mapping[str, bytes]
) -> None:
    directory = archive.directory(FILES)
    archive.packs[directory] = archive.directory(other)
    with pytest.raises(SourceFault, match="not what the link names:"):
        await here.fetch(await here.resolve(f"swh:1:dir:{directory}"), tmp_path / "source")
    assert not list(tmp_path.iterdir())


async def test_a_mode_that_the_vault_forgot_is_put_right(archive: SwhServer, here: Asked, tmp_path: Path) -> None:
    directory = archive.directory(FILES, executable=frozenset({"run.sh"}))
    archive.packs[directory] = archive.directory(FILES)
    await here.fetch(await here.resolve(f"swh:1:dir:{directory}"), tmp_path / "source")
    assert modes(tmp_path / "source")["run.sh"] == "executable"


async def test_a_list_that_is_none_of_the_directory_proves_nothing(
    archive: SwhServer, here: Asked, tmp_path: Path
) -> None:
    """Whoever can change what is packed can change what is listed, too, and not the name of both."""
    directory, other = archive.directory(FILES), archive.directory(FILES | {"README.md": b"# Something else\n"})
    resolved = await here.resolve(f"swh:1:dir:{directory}")
    archive.directories[directory] = archive.directories[other]
    with pytest.raises(SourceFault, match="lists another directory than it was asked for"):
        await here.fetch(resolved, tmp_path / "source")
    assert not list(tmp_path.iterdir())


async def test_a_vault_that_fails_or_takes_too_long_is_told(
    archive: SwhServer, here: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = await here.resolve(f"swh:1:dir:{archive.directory(FILES)}")
    archive.packing_fails = True
    with pytest.raises(SourceFault, match="could not pack the files"):
        await here.fetch(resolved, tmp_path / "source")
    archive.looks_until_packed = 10**6
    monkeypatch.setattr(swh, "_PACKING_SECONDS", 0.05)
    with pytest.raises(SourceFault, match=r"still packing the files\. Open the link again"):
        await here.fetch(resolved, tmp_path / "source")
    assert not list(tmp_path.iterdir())


async def test_the_limit_of_requests_is_kept_to(archive: SwhServer, here: Asked) -> None:
    revision = archive.revision(archive.directory(FILES))
    archive.faults.append(
        wrong.Fault(wrong.Answer(429, b"{}", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "3600"}))
    )
    with pytest.raises(SourceFault, match=r"takes no more questions for now\. Try again in 60 minutes"):
        await here.resolve(f"swh:1:rev:{revision}")
    here.clock.now += 60
    with pytest.raises(SourceFault, match="Try again in"):
        await here.resolve(f"swh:1:rev:{revision}")
    assert len(archive.requests) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"directory": None},
        {"directory": "0"},
        {"directory": "../" * 13 + "x"},
        [],
        "text",
        None,
        {"directory": {"id": 1}},
    ],
    ids=["empty", "null", "short", "a path", "a list", "text", "nothing", "an object"],
)
async def test_an_odd_answer_is_a_fault_and_no_fact(archive: SwhServer, here: Asked, odd: object) -> None:
    archive.faults.append(wrong.Fault(wrong.Answer.of_json(odd)))
    with pytest.raises(SourceFault, match="not understood"):
        await here.resolve(f"swh:1:rev:{'a' * 40}")


@pytest.mark.parametrize("kind", ["fault", "a page"])
async def test_a_download_that_goes_wrong_leaves_nothing(
    archive: SwhServer, here: Asked, tmp_path: Path, kind: str
) -> None:
    resolved = await here.resolve(f"swh:1:dir:{archive.directory(FILES)}")
    archive.faults.append(wrong.broken(500, where="^/store/") if kind == "fault" else wrong.a_page(where="^/store/"))
    with pytest.raises(SourceFault, match="Try again later"):
        await here.fetch(resolved, tmp_path / "source")
    assert not list(tmp_path.iterdir())


# ---- the archive itself: the examples of https://docs.softwareheritage.org/devel/swh-model/persistent-identifiers.html


@pytest.mark.live
@pytest.mark.timeout(900)
async def test_the_archive_itself_gives_what_an_swhid_names(tmp_path: Path) -> None:
    rules = OutgoingRules(frozenset({"archive.softwareheritage.org", "swhvaultstorage.blob.core.windows.net"}))
    async with asked(swh.SoftwareHeritage(), rules) as here:
        licence = await here.resolve("swh:1:cnt:94a9ed024d3859793618152ea559a168bbcbb5e2")
        await here.fetch(licence, tmp_path / "licence")
        assert tree(tmp_path / "licence")["content"].lstrip().startswith(b"GNU GENERAL PUBLIC LICENSE")
        for named in ("rev:309cf2674ee7a0749978cf8265ab91a60aea0f7d", "rel:22ece559cc7cc2364edc5e5593d63ae8bd229f9f"):
            await here.resolve(f"swh:1:{named}")
        await here.resolve("swh:1:snp:c7c108084bc0bf3d81436bf980b46e98bd338453")
        directory = await here.resolve("swh:1:dir:d198bc9d7a6bcf6db04f476d29314f157507d505")
        await here.fetch(directory, tmp_path / "darktable")
        assert "README.md" in tree(tmp_path / "darktable")
