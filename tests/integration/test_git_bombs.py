"""Repositories made to exhaust whoever checks them out, against a real git server: few bytes that stand for very many."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from demo.git_server import GitServer
from replay_build_service import git, git_process
from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.detached.sources import fetch_sources, is_larger
from replay_build_service.domain import FailureReason
from replay_build_service.errors import RefNotFound, Refused
from replay_build_service.git import fetch_commit, find_commit
from replay_build_service.outgoing import OutgoingRules

pytestmark = pytest.mark.hub_independent

ROOMY = 2_000_000_000
"""Bytes: what the builders' ``repository_limit`` is where nobody sets it."""


class Bomb:
    """A bare repository that is put together from objects. ``name`` is that of its folder below the server's root."""

    def __init__(self, root: Path) -> None:
        self.name = "bomb.git"
        self.path = root / self.name
        self.path.mkdir()
        self.git("init", "--quiet", "--bare", "--initial-branch=main")

    def git(self, *command: str, text: str = "") -> str:
        person = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
        environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *person, *command], cwd=self.path, env=environment, input=text, check=True, stdout=-1, text=True
        )
        return done.stdout.strip()

    def file(self, content: str = "") -> str:
        return self.git("hash-object", "-w", "--stdin", text=content)

    def tree(self, kind: str, content: str, names: Sequence[str]) -> str:
        """A tree whose entries all are the same object, a ``blob`` or a ``tree``."""
        mode = {"blob": "100644", "tree": "040000"}[kind]
        return self.git("mktree", "-z", text="".join(f"{mode} {kind} {content}\t{name}\0" for name in names))

    def repeated(self, tree: str, levels: int, names: Sequence[str]) -> str:
        """``levels`` trees, each of which holds the one before under every name."""
        for _ in range(levels):
            tree = self.tree("tree", tree, names)
        return tree

    def commit(self, tree: str) -> str:
        commit = self.git("commit-tree", tree, "-m", "boom")
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(path.stat().st_size for path in (self.path / "objects").rglob("*") if path.is_file())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "root").mkdir()
    with GitServer(tmp_path / "root") as running:
        yield running


@pytest.fixture
def bomb(server: GitServer) -> Bomb:
    return Bomb(server.root)


def rules_for(server: GitServer) -> OutgoingRules:
    return OutgoingRules(exempt_origins=frozenset({server.url}))


async def check_out(server: GitServer, bomb: Bomb, commit: str, folder: Path) -> None:
    await fetch_commit(f"{server.url}/{bomb.name}", commit, folder, rules_for(server))


async def failure_of(server: GitServer, bomb: Bomb, commit: str, folder: Path, limit: int) -> tuple[FailureReason, str]:
    """How a build's first step ends, with the builders' own call."""
    log = LogWriter(folder.with_name("log"))
    with pytest.raises(Unbuildable) as caught:
        await fetch_sources(f"{server.url}/{bomb.name}", commit, folder, rules_for(server).to_json(), limit, log)
    return caught.value.failure.reason, caught.value.failure.message


def left_in(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def has_only_the_repository(folder: Path) -> bool:
    return os.listdir(folder) == [".git"] and not (folder / ".git" / "index").exists()


LETTERS = [chr(ord("a") + number) for number in range(26)]


# ---- very many entries


@pytest.mark.parametrize(
    "levels", [3, 24], ids=["some four hundred thousand", "more than the machine could ever write"]
)
async def test_subtrees_that_are_repeated_are_counted_before_git_unfolds_them(
    server: GitServer, bomb: Bomb, tmp_path: Path, levels: int
) -> None:
    leaf = bomb.tree("blob", bomb.file("x\n"), LETTERS)
    commit = bomb.commit(bomb.repeated(leaf, levels, LETTERS))
    folder = tmp_path / "checkout"
    assert bomb.size < 50_000
    reason, sentence = await failure_of(server, bomb, commit, folder, ROOMY)
    assert reason is FailureReason.FETCH
    assert "more than 200,000 files and folders, which is the limit here" in sentence
    assert has_only_the_repository(folder)
    assert left_in(folder) == []


async def test_folders_count_even_where_there_is_no_file_in_any(server: GitServer, bomb: Bomb, tmp_path: Path) -> None:
    commit = bomb.commit(bomb.repeated(bomb.git("mktree"), 12, LETTERS))
    with pytest.raises(Refused, match="200,000 files and folders"):
        await check_out(server, bomb, commit, tmp_path / "checkout")


async def test_a_tree_of_just_as_many_entries_as_may_be_is_checked_out(
    server: GitServer, bomb: Bomb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = bomb.tree("blob", bomb.file("x\n"), ["one", "two\nlines", "drei ü"])
    commit = bomb.commit(bomb.repeated(leaf, 1, ["a", "b"]))
    monkeypatch.setattr(git, "MAX_ENTRIES", 7)
    with pytest.raises(Refused, match="more than 7 files and folders"):
        await check_out(server, bomb, commit, tmp_path / "refused")
    monkeypatch.setattr(git, "MAX_ENTRIES", 8)
    await check_out(server, bomb, commit, tmp_path / "taken")
    assert sorted(os.listdir(tmp_path / "taken" / "b")) == ["drei ü", "one", "two\nlines"]


async def test_names_without_end_are_refused_too(server: GitServer, bomb: Bomb, tmp_path: Path) -> None:
    """Few entries, each with a path that is longer than any file's: git would hold them all at once."""
    names = [letter * 20_000 for letter in LETTERS[:12]]
    commit = bomb.commit(bomb.repeated(bomb.tree("blob", bomb.file(), names), 2, names))
    assert bomb.size < 50_000
    with pytest.raises(Refused, match="names of files and folders that take more than 64 MB together"):
        await check_out(server, bomb, commit, tmp_path / "checkout")
    assert has_only_the_repository(tmp_path / "checkout")


async def test_a_tree_that_cannot_be_counted_is_not_checked_out(
    server: GitServer, bomb: Bomb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = bomb.commit(bomb.tree("blob", bomb.file("x\n"), ["file"]))
    count_local = git.count_local

    async def failing(folder: Path, *command: str, max_records: int, max_output: int) -> git_process.Count | None:
        return await count_local(folder, *command, "--no-such-option", max_records=max_records, max_output=max_output)

    monkeypatch.setattr(git, "count_local", failing)
    with pytest.raises(RefNotFound, match="cannot be checked out"):
        await check_out(server, bomb, commit, tmp_path / "checkout")
    assert has_only_the_repository(tmp_path / "checkout")


# ---- entries that weigh nothing


async def test_empty_files_count_against_the_limit_on_size(server: GitServer, bomb: Bomb, tmp_path: Path) -> None:
    commit = bomb.commit(bomb.repeated(bomb.tree("blob", bomb.file(), LETTERS), 1, LETTERS))
    folder = tmp_path / "checkout"
    reason, sentence = await failure_of(server, bomb, commit, folder, 2_000_000)
    assert (reason, sentence.partition(",")[0]) == (FailureReason.FETCH, "The repository is larger than 2 MB")


def test_whatever_is_in_a_folder_takes_at_least_a_block(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"folder{number}").mkdir()
        (tmp_path / f"empty{number}").touch()
        (tmp_path / f"link{number}").symlink_to("/nowhere")
    assert is_larger(tmp_path, 30 * 4096 - 1)
    (tmp_path / "folder0" / "two blocks").write_bytes(b"x" * 5000)
    assert is_larger(tmp_path, 32 * 4096 - 1)
    assert not is_larger(tmp_path, 64 * 4096)


# ---- processes


async def test_who_stops_waiting_while_git_starts_leaves_no_process_behind_either(tmp_path: Path) -> None:
    """Given up at that moment, asyncio ends git, and nothing of what git has started."""
    folder = tmp_path / "checkout"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        rules = OutgoingRules(exempt_origins=frozenset({url}))
        question = asyncio.create_task(fetch_commit(f"{url}/r", "1" * 40, folder, rules))
        # No step further than to the one that starts it.
        while not any(url in " ".join(process.cmdline()) for process in left_in(folder)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        connection, _ = listening.accept()  # The loop stands still meanwhile, and does not learn that git has started.
        question.cancel()
        await asyncio.wait({question}, timeout=5)
        assert psutil.wait_procs(left_in(folder), timeout=5)[1] == []
        assert question.cancelled()
        connection.close()


# ---- memory


async def test_every_process_of_git_is_limited_in_its_memory(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        rules = OutgoingRules(exempt_origins=frozenset({url}))
        question = asyncio.create_task(fetch_commit(f"{url}/r", "1" * 40, tmp_path / "checkout", rules))
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        running = left_in(tmp_path / "checkout")
        limits = {process.rlimit(psutil.RLIMIT_DATA) for process in running}
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        connection.close()
    assert len(running) >= 2, "git and the helper that speaks HTTP"
    assert limits == {(git_process.MAX_MEMORY // 1024 * 1024,) * 2}


async def test_a_limit_that_is_narrower_already_stays(
    server: GitServer, bomb: Bomb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = bomb.commit(bomb.tree("blob", bomb.file("x\n"), ["file"]))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(git_process, "MAX_MEMORY", 2**62)
    resource.setrlimit(resource.RLIMIT_DATA, (2**33, hard))
    try:
        await check_out(server, bomb, commit, tmp_path / "checkout")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    assert (tmp_path / "checkout" / "file").read_text() == "x\n"


async def test_a_commit_that_unpacks_to_more_than_memory_is_refused_when_it_is_fetched(
    server: GitServer, bomb: Bomb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is looked up: a server need not heed that only the commit was asked for."""
    commit = bomb.commit(bomb.tree("blob", bomb.file("0" * 100_000_000), ["zeros"]))
    monkeypatch.setattr(git_process, "MAX_MEMORY", 64_000_000)
    server.requests.clear()
    assert (await find_commit(f"{server.url}/{bomb.name}", commit, rules_for(server))).version == commit
    reason, sentence = await failure_of(server, bomb, commit, tmp_path / "checkout", ROOMY)
    assert reason is FailureReason.FETCH
    assert "more than 0.064 GB of memory, which is the limit here" in sentence
    assert len([line for line in server.requests if line.startswith("GET")]) == 2, "it is a fact, and not tried again"


async def test_a_tree_that_takes_more_than_memory_is_refused_when_it_is_checked_out(
    server: GitServer, bomb: Bomb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [letter * 2000 for letter in LETTERS]
    commit = bomb.commit(bomb.repeated(bomb.tree("blob", bomb.file(), names), 2, names))
    monkeypatch.setattr(git, "MAX_PATHS", 2**40)
    monkeypatch.setattr(git_process, "MAX_MEMORY", 64_000_000)
    reason, sentence = await failure_of(server, bomb, commit, tmp_path / "checkout", ROOMY)
    assert reason is FailureReason.FETCH
    assert "more than 0.064 GB of memory, which is the limit here" in sentence
    assert left_in(tmp_path / "checkout") == []
