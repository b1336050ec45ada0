"""What comes of a session's files as an archive: from a session that answers as it likes, by our own protocol."""

import asyncio
import io
import random
import zipfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from replay_build_service.errors import Refused
from replay_build_service.work import ABSENCES, Entry, Limits, Listing, SessionSilent, Unreadable, pack

pytestmark = pytest.mark.hub_independent

NOON = datetime(2026, 3, 4, 12, 30, 20, tzinfo=UTC)


@dataclass
class Folder:
    """A folder of a fake session. Values are files' contents, other folders, or what is raised for them."""

    content: Mapping[str, Any]
    unnamed: int = 0
    modified: datetime | None = NOON


@dataclass
class FakeSession:
    root: Folder
    asked: list[tuple[str, ...]] = field(default_factory=list)
    open_files: int = 0
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def listing(self, folder: tuple[str, ...]) -> Listing:
        self.asked.append(folder)
        found: Any = self.root
        for name in folder:
            found = found.content[name]
        if isinstance(found, Exception):
            raise found
        entries = [
            Entry(name, isinstance(one, Folder | SilentFolder), modified=getattr(one, "modified", NOON))
            for name, one in found.content.items()
        ]
        return Listing(entries, found.unnamed)

    async def content(self, file: tuple[str, ...]) -> AsyncGenerator[bytes]:
        self.asked.append(file)
        found: Any = self.root
        for name in file:
            found = found.content[name]
        self.open_files += 1
        self.has_begun.set()
        try:
            for chunk in found if isinstance(found, list) else [found]:
                if isinstance(chunk, Exception):
                    raise chunk
                if chunk:
                    yield chunk
        finally:
            self.open_files -= 1


class SilentFolder(Exception):
    """Listed as a folder; when it is asked for, nothing answers."""

    modified = NOON


async def packed(session: Any, **more: Any) -> zipfile.ZipFile:
    root = await session.listing(())
    pieces = [piece async for piece in pack(session, root, "work", **more)]
    archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces)))
    assert archive.testzip() is None
    assert session.open_files == 0
    return archive


def absences(archive: zipfile.ZipFile) -> str:
    return archive.read(f"work/{ABSENCES}").decode()


async def test_all_that_a_session_shows_is_there_in_a_folder_of_its_own() -> None:
    content = {
        "a.txt": b"hello",
        "empty": b"",
        "résumé 日本.ipynb": [b"one", b"two"],
        "data": Folder({"deep": Folder({"x.bin": bytes(300_000)}), "nothing": Folder({})}),
    }
    archive = await packed(FakeSession(Folder(content)))
    assert {info.filename: info.file_size for info in archive.infolist()} == {
        "work/a.txt": 5,
        "work/empty": 0,
        "work/résumé 日本.ipynb": 6,
        "work/data/": 0,
        "work/data/deep/": 0,
        "work/data/nothing/": 0,
        "work/data/deep/x.bin": 300_000,
    }
    assert archive.read("work/résumé 日本.ipynb") == b"onetwo"
    assert archive.getinfo("work/a.txt").date_time == (2026, 3, 4, 12, 30, 20)
    assert archive.getinfo("work/data/").is_dir()


@pytest.mark.parametrize("moment", [None, datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
async def test_a_moment_that_an_archive_cannot_keep_spoils_nothing(moment: datetime | None) -> None:
    session = FakeSession(Folder({"d": Folder({"f": b"x"}, modified=moment)}))
    archive = await packed(session)
    assert archive.getinfo("work/d/").date_time == (1980, 1, 1, 0, 0, 0)


HOSTILE = [
    "..\\..\\evil.bat",
    "C:\\evil.bat",
    "\\\\host\\share\\x",
    ".. ",
    "...",
    ". .",
    "a\nb\x1b[2J",
    "\ud800surrogate",
    "ü" * 300 + ".txt",
    "x" * 70_000,
]


async def test_names_that_lead_elsewhere_stay_below_the_archives_folder() -> None:
    session = FakeSession(Folder(dict.fromkeys(HOSTILE, b"x") | {"d": Folder(dict.fromkeys(HOSTILE, b"y"))}))
    archive = await packed(session)
    names = archive.namelist()
    assert len(names) == 2 * len(HOSTILE) + 1
    for name in names:
        for path in (PurePosixPath(name), PureWindowsPath(name)):
            assert not path.is_absolute()
            assert not path.drive
            assert path.parts[0] == "work"
            # Windows drops dots and spaces at a name's end.
            assert all(part.rstrip(". ") for part in path.parts)
            assert all(len(part.encode()) <= 255 for part in path.parts)
        assert name.isprintable()
    assert sorted(archive.read(name) for name in names if not name.endswith("/")) == [b"x"] * 10 + [b"y"] * 10


async def test_names_that_become_one_are_kept_apart() -> None:
    archive = await packed(FakeSession(Folder({"a\\b.txt": b"1", "a_b.txt": b"2", "A_B.TXT": b"3", ABSENCES: b"4"})))
    contents = {name: archive.read(name) for name in archive.namelist()}
    assert sorted(contents.values()) == [b"1", b"2", b"3", b"4"]
    assert len({name.casefold() for name in contents}) == 4


async def test_what_cannot_be_read_is_told_and_the_rest_is_there() -> None:
    content = {
        "a gone": Unreadable("it is not there any more"),
        "b broken": [b"beginning", SessionSilent("the session stopped answering in time")],
        "c fine": b"fine",
        "shut": SilentFolder(),
        "z": Folder({"fine": b"too"}, unnamed=2),
    }
    session = FakeSession(Folder(content))
    listing = session.listing

    async def listed(folder: tuple[str, ...]) -> Listing:
        if folder == ("shut",):
            raise Unreadable("the session does not let it be read")
        return await listing(folder)

    session.listing = listed  # type: ignore[method-assign]
    archive = await packed(session)
    assert archive.read("work/c fine") == b"fine"
    assert archive.read("work/z/fine") == b"too"
    assert archive.read("work/b broken") == b"beginning"
    assert "work/a gone" not in archive.namelist()
    assert absences(archive).splitlines()[2:6] == [
        "a gone: it is not there any more.",
        "b broken: only its beginning is here, since the session stopped answering in time.",
        "shut: the session does not let it be read.",
        "z: 2 of what it has is not named in a way that can be read.",
    ]


async def test_a_session_that_has_died_is_not_asked_for_every_file() -> None:
    silent = SessionSilent("the session stopped answering in time")
    session = FakeSession(Folder({f"f{number}": [silent] for number in range(500)}))
    archive = await packed(session)
    assert len(session.asked) == 4  # its root, and three
    assert "The rest: the session does not answer any more." in absences(archive)


async def test_who_may_not_read_any_more_has_what_came_before() -> None:
    refused = Refused("The hub does not let Replay read your session.")
    session = FakeSession(Folder({"a": b"mine", "b": [refused], "c": b"never"}))
    archive = await packed(session)
    assert [name for name in archive.namelist() if ABSENCES not in name] == ["work/a"]
    assert "The rest: The hub does not let Replay read your session." in absences(archive)


@pytest.mark.parametrize("loops", [1, 3])
async def test_links_to_folders_above_are_not_followed_round_and_round(loops: int) -> None:
    content: dict[str, Any] = {"own.txt": b"own"}
    root = Folder(content)
    inner: dict[str, Any] = {"inner.txt": b"inner"}
    content["sub"] = Folder(inner)
    for number in range(loops):
        inner[f"up{number}"] = root
        content[f"here{number}"] = root
    session = FakeSession(root)
    archive = await packed(session)
    files = [name for name in archive.namelist() if name.endswith("/own.txt")]
    assert files == ["work/own.txt"]
    assert "sub/up0: it is a link to a folder above it." in absences(archive)
    assert len(session.asked) < 20


async def test_what_is_too_deep_or_too_many_or_too_much_is_left_out_and_told() -> None:
    class Endless:
        """A folder in a folder without end, each with another name, and endless files."""

        open_files = 0

        async def listing(self, folder: tuple[str, ...]) -> Listing:
            return Listing([Entry(f"d{len(folder)}", True), Entry(f"f{len(folder)}", False, size=1)])

        async def content(self, file: tuple[str, ...]) -> AsyncGenerator[bytes]:
            # More than it said.
            for _ in range(1000):
                yield bytes(1000)

    deep = await packed(Endless(), limits=Limits(depth=3))
    assert [name for name in deep.namelist() if "d3" in name] == []
    assert "d0/d1/d2/d3: it is more than 3 folders deep." in absences(deep)
    many = await packed(Endless(), limits=Limits(entries=5))
    assert len(many.namelist()) == 5 + 1
    assert "an archive has 5 files and folders at most" in absences(many)
    much = await packed(Endless(), limits=Limits(bytes=2_500_000))
    assert sum(info.file_size for info in much.infolist()) < 2_500_000 + 10_000
    assert "d0/d1/f2: only its beginning is here." in absences(much)
    late = await packed(Endless(), limits=Limits(seconds=0))
    assert "an archive takes 0 minutes at most" in absences(late)


async def test_what_is_somebody_elses_data_is_left_out() -> None:
    session = FakeSession(Folder({"datahub": Folder({"space": b"x"}), "mine": b"mine"}))
    archive = await packed(session, left_out={"datahub"})
    assert archive.namelist()[0] == "work/mine"
    assert ("datahub",) not in session.asked
    assert "datahub: it is not the session's own." in absences(archive)


async def test_much_is_never_held_at_once() -> None:
    class Large:
        async def listing(self, folder: tuple[str, ...]) -> Listing:
            return Listing([Entry("large", False)])

        async def content(self, file: tuple[str, ...]) -> AsyncGenerator[bytes]:
            for number in range(200):
                yield random.Random(number).randbytes(65_536)

    sizes = [len(piece) async for piece in pack(Large(), Listing([Entry("large", False)]), "work")]
    assert sum(sizes) > 200 * 65_536
    assert max(sizes) < 3 * 65_536


async def test_who_goes_away_in_the_middle_leaves_nothing_open() -> None:
    content: Sequence[bytes] = [bytes(500_000)] * 50
    session = FakeSession(Folder({"large": content}))
    root = await session.listing(())

    async def taking() -> None:
        async for _ in pack(session, root, "work"):
            pass

    task = asyncio.create_task(taking())
    await session.has_begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.open_files == 0
