"""Submodules, with the builders' own call against a real git server: which are fetched, from where, and which are not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demo.git_server import GitServer
from replay_build_service.builders.detached import submodules
from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.log import LogWriter, parse_records
from replay_build_service.builders.detached.sources import fetch_sources
from replay_build_service.builders.venv.builder import VenvBuilder, VenvBuilderSettings
from replay_build_service.domain import FailureReason
from replay_build_service.outgoing import OutgoingRules

pytestmark = pytest.mark.hub_independent

MUCH = 100_000_000
_PERSON = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")


def run_git(folder: Path, *command: str, text: str = "") -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *_PERSON, *command], cwd=folder, env=environment, input=text, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@dataclass
class Fetched:
    failure: str
    """Empty where the sources were fetched."""
    lines: list[str]


@dataclass
class Bench:
    server: GitServer
    folder: Path

    @property
    def rules(self) -> OutgoingRules:
        return OutgoingRules(exempt_origins=frozenset({self.server.url}), submodules=True)

    def commit(
        self, name: str, files: Mapping[str, str] = {}, modules: Mapping[str, tuple[str, str]] = {}, link: str = ""
    ) -> str:
        """On ``main`` of that repository: files at the top, and submodules, each from its path to address and commit.

        ``link``: ``.gitmodules`` is a link to there.
        """
        repository = self.server.root / name
        if not repository.exists():
            repository.mkdir(parents=True)
            run_git(repository, "init", "--quiet", "--bare", "--initial-branch=main")
        told = "".join(
            f'[submodule "{number}"]\n\tpath = {path}\n\turl = {url}\n'
            for number, (path, (url, _)) in enumerate(modules.items())
        )
        files = {**files, **({".gitmodules": told} if told and not link else {})}
        entries = [
            ("100644 blob", run_git(repository, "hash-object", "-w", "--stdin", text=text), path)
            for path, text in files.items()
        ]
        if link:
            entries.append(
                ("120000 blob", run_git(repository, "hash-object", "-w", "--stdin", text=link), ".gitmodules")
            )
        entries += [("160000 commit", commit, path) for path, (_, commit) in modules.items() if commit]
        index = {"GIT_INDEX_FILE": str(self.folder / f"index-{name.replace('/', '-')}")}
        listed = "".join(f"{kind.split()[0]} {sha}\t{path}\n" for kind, sha, path in entries)
        environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, **index}

        def indexed(*command: str) -> str:
            done = subprocess.run(
                ["git", *command], cwd=repository, env=environment, input=listed, check=True, stdout=-1, text=True
            )
            return done.stdout.strip()

        indexed("read-tree", "--empty")
        indexed("update-index", "--index-info")
        commit = run_git(repository, "commit-tree", indexed("write-tree"), "-m", "as a test wants it")
        run_git(repository, "update-ref", "refs/heads/main", commit)
        return commit

    async def fetch(
        self, name: str, version: str, rules: OutgoingRules | None = None, limit: int = MUCH, into: str = "checkout"
    ) -> Fetched:
        log = LogWriter(self.folder / f"{into}.log")
        failure = None
        asked = (rules or self.rules).to_json()
        try:
            await fetch_sources(f"{self.server.url}/{name}", version, self.folder / into, asked, limit, log)
        except Unbuildable as error:
            failure = error.failure
        assert failure is None or failure.reason is FailureReason.FETCH
        records, _ = parse_records((self.folder / f"{into}.log").read_bytes())
        return Fetched("" if failure is None else failure.message, [record.text for record in records])

    def files(self, into: str = "checkout") -> dict[str, str]:
        folder = self.folder / into
        return {
            str(path.relative_to(folder)): path.read_text()
            for path in folder.rglob("*")
            if path.is_file() and ".git" not in path.relative_to(folder).parts and path.name != ".gitmodules"
        }


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "root").mkdir()
    with GitServer(tmp_path / "root") as server:
        yield Bench(server, tmp_path)


async def test_each_is_fetched_at_the_commit_that_is_pinned_and_so_are_theirs(bench: Bench) -> None:
    deep = bench.commit("group/deep.git", {"deep.txt": "deep"})
    pinned = bench.commit("group/part.git", {"part.txt": "pinned"}, {"inner": ("../deep.git", deep)})
    bench.commit("group/part.git", {"part.txt": "newer"})
    other = bench.commit("other.git", {"other.txt": "other"})
    modules = {
        "a folder/part": ("../part.git", pinned),
        "whole": (f"{bench.server.url}/other.git", other),
        "up": ("../../other.git/", other),
    }
    top = bench.commit("group/top.git", {"top.txt": "top"}, modules)
    fetched = await bench.fetch("group/top.git", top)
    assert fetched.failure == ""
    assert bench.files() == {
        "top.txt": "top",
        "a folder/part/part.txt": "pinned",
        "a folder/part/inner/deep.txt": "deep",
        "whole/other.txt": "other",
        "up/other.txt": "other",
    }
    assert run_git(bench.folder / "checkout/a folder/part", "rev-parse", "HEAD") == pinned
    assert f"Fetching the submodule a folder/part: {bench.server.url}/group/part.git at commit {pinned}." in (
        fetched.lines
    )
    assert (
        f"Fetching the submodule a folder/part/inner: {bench.server.url}/group/deep.git at commit {deep}."
        in fetched.lines
    )


async def test_they_are_left_alone_unless_the_administrator_says_otherwise(bench: Bench) -> None:
    part = bench.commit("part.git", {"part.txt": "part"})
    top = bench.commit("top.git", {}, {"part": ("../part.git", part)})
    fetched = await bench.fetch("top.git", top, replace(bench.rules, submodules=False))
    assert (fetched.failure, bench.files()) == ("", {})
    assert fetched.lines[-1] == "The repository has submodules, which are not fetched: their folders stay empty."
    assert not any("part.git" in line for line in bench.server.requests)
    with_them, without = (
        VenvBuilder(VenvBuilderSettings(bench.folder, outgoing=replace(bench.rules, submodules=are_fetched)))
        for are_fetched in (True, False)
    )
    assert with_them.recipe != without.recipe, "the image is another"
    assert without.recipe == VenvBuilder(VenvBuilderSettings(bench.folder)).recipe


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://evil.example.org/r.git", "evil.example.org is not among the hosts"),
        ("http://127.0.0.1:1/r.git", "127.0.0.1 at port 1 is not among the hosts"),
        ("git@github.com:o/r.git", "no address over HTTPS"),
        ("/etc", "no address over HTTPS"),
        ("ssh://git@github.com/o/r.git", "not over “ssh:”"),
        ("file:///etc", "not over “file:”"),
        ("ext::sh -c touch% x", "no address over HTTPS"),
        ("--upload-pack=touch", "no address over HTTPS"),
        ("https://user:secret@github.com/o/r.git", "credentials"),
        ("../../../etc", "leads out of"),
        ("https://[", "not a URL"),
    ],
)
async def test_what_may_not_be_asked_stays_empty_and_is_named(bench: Bench, url: str, says: str) -> None:
    top = bench.commit("group/top.git", {"top.txt": "top"}, {"part": (url, "1" * 40)})
    fetched = await bench.fetch("group/top.git", top)
    assert (fetched.failure, bench.files()) == ("", {"top.txt": "top"})
    assert list((bench.folder / "checkout/part").iterdir()) == []
    told = fetched.lines[-1]
    assert told.startswith("The submodule part is not fetched, and its folder stays empty.")
    assert says in told


async def test_one_that_cannot_be_had_ends_the_build(bench: Bench) -> None:
    top = bench.commit("top.git", {}, {"part": ("../gone.git", "1" * 40)})
    fetched = await bench.fetch("top.git", top)
    assert fetched.failure.startswith("The submodule part cannot be had. There is no public repository at ")
    bench.commit("gone.git", {"a.txt": "a"})
    fetched = await bench.fetch("top.git", top, into="again")
    assert fetched.failure.startswith("The submodule part cannot be had.")
    assert "no such commit" in fetched.failure


async def test_what_is_no_submodule_of_the_commit_is_not_looked_for(bench: Bench) -> None:
    part = bench.commit("part.git", {"part.txt": "part"})
    modules = {
        "file.txt": ("../part.git", ""),
        "nowhere": ("../part.git", ""),
        "../outside": ("../part.git", ""),
        "/tmp/outside": ("../part.git", ""),
        ".git/hooks": ("../part.git", ""),
        ":(glob)**": ("../part.git", ""),
        "--all": ("../part.git", ""),
    }
    top = bench.commit("top.git", {"file.txt": "a file"}, modules)
    fetched = await bench.fetch("top.git", top)
    assert (fetched.failure, bench.files()) == ("", {"file.txt": "a file"})
    assert not any("part.git" in line for line in bench.server.requests)
    # And a commit that is pinned without an address has none.
    top = bench.commit("top.git", {"file.txt": "a file"}, {"part": ("../part.git", part)}, link="/etc/passwd")
    fetched = await bench.fetch("top.git", top, into="linked")
    assert (fetched.failure, bench.files("linked")) == ("", {"file.txt": "a file"})
    assert not any("part.git" in line for line in bench.server.requests)


async def test_a_list_that_cannot_be_read_is_told(bench: Bench) -> None:
    long = "".join(f'[submodule "{number}"]\n\turl = {"x" * 1000}\n' for number in range(99))
    told = "The file .gitmodules cannot be read, or says too much. No submodule that it names is fetched."
    for name, text, is_told in (("broken", "[submodule", True), ("long", long, True), ("empty", "# none\n", False)):
        commit = bench.commit(f"{name}.git", {".gitmodules": text, "a.txt": "a"})
        fetched = await bench.fetch(f"{name}.git", commit, into=name)
        assert (fetched.failure, bench.files(name)) == ("", {"a.txt": "a"})
        assert (told in fetched.lines) is is_told


async def test_there_is_an_end_to_how_many_and_how_deep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    below = bench.commit("level-0.git", {"end.txt": "end"})
    for level in range(1, 8):
        below = bench.commit(f"level-{level}.git", {}, {"in": (f"../level-{level - 1}.git", below)})
    fetched = await bench.fetch("level-7.git", below)
    assert "more than 5 levels deep" in fetched.failure
    asked = {line.split("/")[1] for line in bench.server.requests}
    assert asked == {f"level-{level}.git" for level in range(2, 8)}
    monkeypatch.setattr(submodules, "MAX_SUBMODULES", 2)
    part = bench.commit("part.git", {"part.txt": "part"})
    top = bench.commit("top.git", {}, {f"part-{number}": ("../part.git", part) for number in range(3)})
    fetched = await bench.fetch("top.git", top, into="many")
    assert "more than 2 submodules" in fetched.failure


async def test_they_count_against_the_size_that_a_repository_may_have(bench: Bench) -> None:
    part = bench.commit("part.git", {"part.txt": "x" * 2_000_000})
    top = bench.commit("top.git", {"top.txt": "top"}, {"part": ("../part.git", part)})
    fetched = await bench.fetch("top.git", top, limit=1_500_000)
    assert "larger than" in fetched.failure
