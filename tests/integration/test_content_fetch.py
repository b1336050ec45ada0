"""The program that fetches a content, as a process of its own: the files are there whole, or there is nothing of them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo.git_server import GitServer
from demo.repositories import publish_folder
from replay_build_service.contents import instructions
from replay_build_service.contents.fetch import ENDED, MISTAKE
from replay_build_service.contents.instructions import ContentInstructions
from replay_build_service.outgoing import OutgoingRules
from tests.archives import server as archives
from tests.archives.zenodo import ZenodoServer
from tests.integration.record_cases import NEW, asked, tree
from tests.integration.test_git import have_ended, silent_server

pytestmark = pytest.mark.hub_independent

NOWHERE = "/nonexistent"
"""Of a container whose file system is to read only, and whose user has no account."""

NOTEBOOK = '{"cells": []}\n'
ENOUGH = 10_000_000
LARGE = 3_000_000


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with GitServer(tmp_path_factory.mktemp("forge")) as server:
        yield server


@pytest.fixture(scope="module")
def notes(forge: GitServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A repository's address, and its commit."""
    files = tmp_path_factory.mktemp("notes")
    (files / "index.ipynb").write_text(NOTEBOOK)
    (files / "data.bin").write_bytes(os.urandom(LARGE))
    (files / "lies.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    return f"{forge.url}/notes.git", publish_folder(files, forge.root / "notes.git", message="notes")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The one folder that may be written to."""
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def told(url: str, version: str, place: Path, rules: OutgoingRules, limit: int = ENOUGH, seconds: float = 60) -> str:
    return ContentInstructions(url, version, rules.to_json(), limit, str(place / "files"), seconds).to_json()


def of_git(url: str) -> OutgoingRules:
    return OutgoingRules(exempt_origins=frozenset({"/".join(url.split("/")[:3])}))


def environment(content: str, says: Path | None = None) -> dict[str, str]:
    given = {"PATH": os.environ["PATH"], "HOME": NOWHERE, "TMPDIR": NOWHERE}
    return given | {instructions.VARIABLE: content} | ({} if says is None else {instructions.SAYS: str(says)})


def fetched(content: str, says: Path | None = None) -> tuple[int, list[str]]:
    """How the program ends, and what it prints, its errors among it, as `FolderContents` reads it."""
    done = subprocess.run(
        (sys.executable, "-m", instructions.MODULE),
        cwd="/",
        env=environment(content, says),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


def there(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_commit_is_there_as_a_repository_and_is_not_fetched_again(
    forge: GitServer, notes: tuple[str, str], place: Path
) -> None:
    url, commit = notes
    status, said = fetched(told(url, commit, place, of_git(url)))
    assert status == 0, said
    assert said[0] == f"Fetching {url} at commit {commit}."
    assert there(place) == ["files"], "nothing lies beside it"
    assert (place / "files" / "index.ipynb").read_text() == NOTEBOOK
    log = ("git", "-C", place / "files", "log", "--format=%H")
    assert subprocess.run(log, check=True, capture_output=True, text=True).stdout.split() == [commit]

    (place / "files" / "mine.txt").write_text("of the session")
    forge.requests.clear()
    assert fetched(told(url, commit, place, of_git(url))) == (0, [])
    assert (place / "files" / "mine.txt").exists()
    assert forge.requests == []


async def test_a_record_is_there_without_anything_beside_it(place: Path) -> None:
    with ZenodoServer() as archive:
        record = archive.publish(NEW)
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
        content = told(resolved.fetch_url, resolved.version, place, archive.rules)
        status, said = await asyncio.to_thread(fetched, content)
        assert status == 0, said
        assert tree(place / "files") == NEW
        assert there(place) == ["files"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("too large", "The repository is larger than 1 MB, which is the limit here."),
        ("gone commit", "has no such commit"),
        ("gone repository", "There is no public repository at"),
        ("no time", "The content did not come within 0.001 s, which is the limit here."),
        ("not allowed", "is not among the hosts that this Replay fetches from."),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing_and_says_why_last(
    what: str, words: str, notes: tuple[str, str], place: Path, tmp_path: Path
) -> None:
    url, commit = notes
    rules, limit, seconds = of_git(url), ENOUGH, 60.0
    match what:
        case "too large":
            limit = 1_000_000
        case "gone commit":
            commit = "1" * 40
        case "gone repository":
            url = url.replace("notes", "gone")
        case "no time":
            seconds = 0.001
        case _:
            rules = OutgoingRules()
    says = tmp_path / "termination-log"
    status, said = fetched(told(url, commit, place, rules, limit, seconds), says)
    assert status == 1
    assert words in said[-1]
    assert says.read_text() == said[-1]
    assert there(place) == []


def test_a_disk_that_cannot_be_written_and_instructions_that_are_none_are_told_of(
    notes: tuple[str, str], tmp_path: Path
) -> None:
    url, commit = notes
    (tmp_path / "file").touch()
    status, said = fetched(told(url, commit, tmp_path / "file", of_git(url)))
    assert (status, said[-1]) == (
        1,
        "The content's files could not be written: Not a directory. Tell the administrators, and try again later.",
    )
    status, said = fetched("{}", Path(NOWHERE, "log"))
    assert (status, said[-1]) == (1, MISTAKE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_who_ends_it_ends_what_it_started_too_and_nothing_is_left(place: Path, number: signal.Signals) -> None:
    with silent_server() as (listening, url):
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", instructions.MODULE, cwd="/", stdout=asyncio.subprocess.PIPE,
            env=environment(told(f"{url}/r", "1" * 40, place, of_git(url))),
        )  # fmt: skip
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        with connection:
            assert psutil.Process(program.pid).children(recursive=True)
            assert [name.startswith("files.part-") for name in there(place)] == [True]
            program.send_signal(number)
            program.send_signal(number)  # by somebody impatient
            output, _ = await asyncio.wait_for(program.communicate(), 30)
            assert (program.returncode, output.decode().splitlines()[-1]) == (1, ENDED)
        assert there(place) == []
        assert have_ended(url)


async def test_a_record_on_its_way_is_given_up_without_a_rest(place: Path) -> None:
    with ZenodoServer() as archive:
        record = archive.publish({"a.csv": b"a,b\n", "z.csv": b"c,d\n"})
        async with asked(archive.source(), archive.rules) as here:
            resolved = await here.resolve(record.locator)
        stuck = archives.slow(60, where=r"/z\.csv/")
        archive.faults.append(stuck)
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", instructions.MODULE, cwd="/",
            env=environment(told(resolved.fetch_url, resolved.version, place, archive.rules)),
        )  # fmt: skip
        assert await asyncio.to_thread(stuck.met.wait, 60)
        program.terminate()
        assert await asyncio.wait_for(program.wait(), 30) == 1
        assert there(place) == []
