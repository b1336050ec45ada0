"""Contents in folders of this machine: fetched once by the real program from a real git server, kept, and given up in their order."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from demo.git_server import GitServer
from replay_build_service.contents.folders import GRACE_SECONDS, FolderContents
from replay_build_service.domain import ResolvedRef
from replay_build_service.errors import BadLink, SourceFault
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from tests.site import Repo, make_repository

pytestmark = [pytest.mark.needs("git-server"), pytest.mark.one_hub_version]

MIB = 1024 * 1024


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "git").mkdir()
    with GitServer(tmp_path / "git") as server:
        yield server


def contents_in(
    folder: Path, forge: GitServer, *, limit: int = MIB, kept: int = 10 * MIB, free_disk: int = 0
) -> FolderContents:
    rules = OutgoingRules(exempt_origins=frozenset({forge.url.rstrip("/")}))
    return FolderContents(folder, rules, limit=limit, kept=kept, seconds=60, free_disk=free_disk)


def content_at(repo: Repo) -> ResolvedRef:
    return ResolvedRef(Repository.of_url(repo.url), RepoSpec("git", repo.url, "HEAD"), repo.url, repo.commit)


def a_repository(forge: GitServer, tmp_path: Path, name: str, size: int = 10) -> ResolvedRef:
    made = make_repository(
        forge, tmp_path / "work" / name, name, {"notes.txt": "x" * size, "sub/link": "->../notes.txt"}
    )
    return content_at(made)


async def test_it_is_fetched_once_for_all_who_wait_and_for_the_next(forge: GitServer, tmp_path: Path) -> None:
    contents, notes = contents_in(tmp_path / "contents", forge), a_repository(forge, tmp_path, "notes")
    await asyncio.gather(*(contents.ready(notes) for _ in range(5)))
    given = contents.given(notes)
    assert (given.name, given.version, given.repository) == ("notes", notes.version, notes.repository.url)
    folder = Path(str(given.folder))
    assert {path.name for path in folder.iterdir()} == {".git", "notes.txt", "sub"}
    assert os.readlink(folder / "sub" / "link") == "../notes.txt"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing else is left"
    forge.stop()
    await contents.ready(notes)


@pytest.mark.parametrize(
    ("size", "told"), [(2 * MIB, "is larger than"), (None, "notes could not be fetched into your session. ")]
)
async def test_what_cannot_be_had_is_told_and_leaves_nothing(
    forge: GitServer, tmp_path: Path, size: int | None, told: str
) -> None:
    contents, notes = contents_in(tmp_path / "contents", forge), a_repository(forge, tmp_path, "notes", size or 10)
    if size is None:
        forge.stop()
    with pytest.raises(BadLink, match=told):
        await contents.ready(notes)
    assert list((tmp_path / "contents").iterdir()) == []


async def test_what_was_used_longest_ago_makes_room_but_nothing_that_was_just_promised(
    forge: GitServer, tmp_path: Path
) -> None:
    contents = contents_in(tmp_path / "contents", forge, kept=MIB)
    first, second, third = (a_repository(forge, tmp_path, name, 700_000) for name in ("one", "two", "three"))
    folders = [Path(str(contents.given(one).folder)) for one in (first, second, third)]
    await contents.ready(first)
    await contents.ready(second)
    assert [folder.is_dir() for folder in folders] == [True, True, False], "both were just promised"
    left = tmp_path / "contents" / f"{folders[0].name}.part-0"
    left.mkdir()
    long_ago = time.time() - 2 * GRACE_SECONDS - 60
    for folder in (*folders[:2], left):
        os.utime(folder, (long_ago, long_ago))
    await contents.ready(second)
    await contents.ready(third)
    assert [folder.is_dir() for folder in folders] == [False, True, True]
    assert not left.exists(), "what a killed fetch left goes, too"


async def test_a_full_disk_and_a_tree_that_is_too_deep_are_told(forge: GitServer, tmp_path: Path) -> None:
    notes = a_repository(forge, tmp_path, "notes")
    with pytest.raises(SourceFault, match="The disk of the build service is too full"):
        await contents_in(tmp_path / "contents", forge, free_disk=10**15).ready(notes)
    deep = content_at(
        make_repository(forge, tmp_path / "work" / "deep", "deep", {"/".join(["d"] * 80) + "/a.txt": "a"})
    )
    with pytest.raises(BadLink, match="more than 64 levels deep"):
        await contents_in(tmp_path / "contents", forge).ready(deep)
    assert list((tmp_path / "contents").iterdir()) == []


async def test_a_fetch_that_nobody_waits_for_any_more_ends_and_one_that_failed_is_not_tried_at_once(
    forge: GitServer, tmp_path: Path
) -> None:
    contents, notes = contents_in(tmp_path / "contents", forge), a_repository(forge, tmp_path, "notes")
    waiting = asyncio.ensure_future(contents.ready(notes))
    async for attempt in stamina.retry_context(on=AssertionError, timeout=20, wait_max=0.02, attempts=None):
        with attempt:
            assert list(tmp_path.glob("contents/*.part-*"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert list((tmp_path / "contents").iterdir()) == []
    await contents.ready(notes)
    gone, bare = a_repository(forge, tmp_path, "gone"), forge.root / "gone.git"
    hidden = bare.rename(forge.root / "hidden.git")
    for _ in range(2):
        with pytest.raises(BadLink, match=r"gone could not be fetched into your session\. "):
            await contents.ready(gone)
        # It is there again, and not asked for once more within half a minute.
        hidden = hidden.rename(bare)
