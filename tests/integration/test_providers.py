"""From a spec to a commit, against a real git server: what each spelling means, and how often the server is asked."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import itertools
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from demo.git_server import GitServer
from demo.repositories import publish_folder
from replay_build_service import git
from replay_build_service.domain import Person, ResolvedRef
from replay_build_service.errors import (
    BadLink,
    NotFound,
    OriginRefused,
    RefNotFound,
    RepositoryNotFound,
    SourceFault,
)
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.pasted_links import PastedLinks
from replay_build_service.policies import PolicySet
from replay_build_service.policy_values import Resources
from replay_build_service.providers import git as git_provider
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.gh import GitHubProvider
from replay_build_service.providers.gist import GistProvider
from replay_build_service.providers.git import DOUBT_AFTER, REFS_KEPT, GitProvider
from replay_build_service.providers.gl import GitLabProvider
from tests.unit.provider_cases import LOCATORS, NO_REFS, PROVIDERS, REFS, REFS_OF, SAME, Provider

pytestmark = pytest.mark.hub_independent


def run_git(folder: Path, *command: str, text: str | None = None) -> str:
    person = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *person, *command], cwd=folder, env=environment, input=text, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@dataclass
class Clock:
    """Time that passes when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A server with one repository, and commits by the names that the tests call them."""

    server: GitServer
    repository: Path
    commits: dict[str, str]

    @property
    def rules(self) -> OutgoingRules:
        return OutgoingRules(exempt_origins=frozenset({self.server.url}))

    def spec(self, ref: str, repository: str = "r.git") -> RepoSpec:
        return RepoSpec.parse(f"git/{quote(f'{self.server.url}/{repository}', safe='')}/{ref}")

    def commit(self, text: str) -> str:
        """A new commit on ``main`` with this text in its one file."""
        files = self.server.root.parent / "files"
        files.mkdir(parents=True, exist_ok=True)
        (files / "file.txt").write_text(text)
        return publish_folder(files, self.repository, message=text)

    def link(self, named: Provider) -> str:
        return named.link.format(url=quote(self.server.url, safe=""))

    def written(self, ref: str) -> str:
        """A ref of the table, with the SHAs of this repository."""
        spelled = {name.upper(): sha.upper() for name, sha in self.commits.items()} | self.commits
        return re.sub(r"\{([^}:]+)(?::\.([0-9]+))?\}", lambda found: spelled[found[1]][: int(found[2] or 40)], ref)

    @property
    def listings(self) -> int:
        return len([line for line in self.server.requests if "info/refs" in line])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Made once; each test gets a copy that it may change."""
    root = tmp_path_factory.mktemp("template") / "root"
    made = Bench(GitServer(root), root / "r.git", {})
    commits = made.commits
    for name in ("buried", "feature", "tagged", "both-tag", "both-branch", "main"):
        commits[name] = made.commit(name)
    changes = "".join(f"create {ref} {commits[name]}\n" for ref, name in REFS_OF.items())
    changes += f"create refs/heads/{commits['main']} {commits['feature']}\n"
    changes += f"create refs/heads/{commits['tagged'][:10]} {commits['both-tag']}\n"
    run_git(made.repository, "update-ref", "--stdin", text=changes)
    for tag, of in (("v1.0", commits["tagged"]), ("v1.0-again", "v1.0")):
        run_git(made.repository, "tag", "-a", "-m", "annotated", tag, of)
        commits[tag] = run_git(made.repository, "rev-parse", f"refs/tags/{tag}")
    return made


@pytest.fixture
def bench(template: Bench, tmp_path: Path) -> Iterator[Bench]:
    shutil.copytree(template.server.root, tmp_path / "root")
    with GitServer(tmp_path / "root") as server:
        yield Bench(server, tmp_path / "root" / "r.git", dict(template.commits))


@asynccontextmanager
async def provided(bench: Bench, clock: Clock | None = None) -> AsyncGenerator[GitProvider]:
    async with asyncio.TaskGroup() as tasks:
        yield GitProvider(bench.rules, tasks, clock=clock or Clock())


KINDS: dict[str, type[GitProvider]] = {
    "git": GitProvider,
    "gh": GitHubProvider,
    "gl": GitLabProvider,
    "gist": GistProvider,
}


@asynccontextmanager
async def elsewhere(bench: Bench, named: Provider) -> AsyncGenerator[GitProvider]:
    """The provider, with the server of this test in the place of the one that it asks."""

    class Elsewhere(KINDS[named.name]):
        def fetch_url(self, spec: RepoSpec) -> str:
            asked = super().fetch_url(spec)
            assert asked == named.asks.format(url=bench.server.url)
            return f"{bench.server.url}/r.git"

    async with asyncio.TaskGroup() as tasks:
        yield Elsewhere(bench.rules, tasks)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "FIRST_WAIT", 0.01)


# ---- what a ref means


@pytest.mark.parametrize("named", PROVIDERS, ids=[named.name for named in PROVIDERS])
async def test_each_spelling_means_one_commit_with_every_provider(bench: Bench, named: Provider) -> None:
    async with elsewhere(bench, named) as provider:
        assert provider.name == named.name
        for ref, name in REFS.items():
            spec = RepoSpec.parse(f"{bench.link(named)}/{bench.written(ref)}")
            resolved = await provider.resolve(spec)
            assert (ref, resolved.version) == (ref, bench.commits[name])
            assert (resolved.spec, resolved.fetch_url) == (spec, f"{bench.server.url}/r.git")
            assert resolved.repository == Repository.of_url(f"{bench.server.url}/r")
        for ref in NO_REFS:
            with pytest.raises(RefNotFound):
                await provider.resolve(RepoSpec.parse(f"{bench.link(named)}/{bench.written(ref)}"))


async def test_a_gist_without_a_ref_is_its_newest_revision(bench: Bench) -> None:
    (named,) = (one for one in PROVIDERS if one.name == "gist")
    async with elsewhere(bench, named) as provider:
        assert (await provider.resolve(RepoSpec.parse(named.link))).version == bench.commits["main"]


async def test_a_full_sha_needs_no_list_of_refs_to_be_known(bench: Bench) -> None:
    for name, version in [("buried", "buried"), ("main", "main"), ("v1.0", "tagged")]:
        async with provided(bench) as provider:
            assert (await provider.resolve(bench.spec(bench.commits[name]))).version == bench.commits[version]


async def test_a_name_is_never_compared_by_its_tail(bench: Bench) -> None:
    run_git(bench.repository, "symbolic-ref", "HEAD", "refs/heads/feature/main")
    run_git(bench.repository, "update-ref", "-d", "refs/heads/main")
    async with provided(bench) as provider:
        assert (await provider.resolve(bench.spec("HEAD"))).version == bench.commits["feature"]
        for ref in ("main", "2026", "heads/both", "tags/v1.0", "7/head", "refs/heads", "refs/main"):
            with pytest.raises(RefNotFound):
                await provider.resolve(bench.spec(ref))


@pytest.mark.parametrize(
    ("ref", "first", "says"),
    [
        ("mian", "main", "has no branch, tag or commit “mian”. Did you mean main"),
        ("master", "main", "Did you mean main"),
        ("feature/mian", "feature/main", "Did you mean feature/main"),
        ("v1.1", "v1.0", "Did you mean v1.0"),
        ("refs/tags/v1.1", "v1.0", "Did you mean v1.0"),
        ("something-else-altogether", "main", "Did you mean main?"),
    ],
)
async def test_a_ref_that_does_not_exist_gets_the_nearest_that_do(
    bench: Bench, ref: str, first: str, says: str
) -> None:
    async with provided(bench) as provider:
        with pytest.raises(RefNotFound) as caught:
            await provider.resolve(bench.spec(ref))
    assert caught.value.nearest[0] == first
    assert len(caught.value.nearest) <= 5
    assert says in caught.value.sentence


async def test_a_short_sha_that_could_be_anything_asks_for_the_full_one(bench: Bench) -> None:
    async with provided(bench) as provider:
        for ref in (bench.commits["buried"][:10], "1234567", bench.commits["main"][:6]):
            with pytest.raises(RefNotFound) as caught:
                await provider.resolve(bench.spec(ref))
            assert ("full SHA" in caught.value.sentence) is (len(ref) >= 7)
        with pytest.raises(RefNotFound, match="no such commit"):
            await provider.resolve(bench.spec("1" * 40))


def commits_that_begin_alike(tree: str) -> tuple[str, str, str]:
    """The text of two commits whose SHAs share the first seven digits, and those digits. About 20,000 tries."""
    seen: dict[str, str] = {}
    for number in itertools.count():
        who = f"Someone <someone@example.org> {number} +0000"
        text = f"tree {tree}\nauthor {who}\ncommitter {who}\n\nalike\n"
        digits = hashlib.sha1(f"commit {len(text)}\0{text}".encode()).hexdigest()[:7]
        if digits in seen:
            return seen[digits], text, digits
        seen[digits] = text
    raise AssertionError("there is no end to count()")


async def test_a_short_sha_that_two_tips_share_is_not_guessed(bench: Bench) -> None:
    one, other, digits = commits_that_begin_alike(run_git(bench.repository, "rev-parse", "main^{tree}"))
    shas = [
        run_git(bench.repository, "hash-object", "-w", "-t", "commit", "--stdin", text=text) for text in (one, other)
    ]
    for name, sha in zip(("one", "other"), shas, strict=True):
        run_git(bench.repository, "update-ref", f"refs/heads/{name}", sha)
    longer = next(length for length in range(8, 41) if shas[0][:length] != shas[1][:length])
    async with provided(bench) as provider:
        with pytest.raises(RefNotFound, match="full SHA"):
            await provider.resolve(bench.spec(digits))
        assert (await provider.resolve(bench.spec(shas[0][:longer]))).version == shas[0]


async def test_a_repository_without_a_default_branch_names_the_branches_it_has(bench: Bench) -> None:
    run_git(bench.repository, "symbolic-ref", "HEAD", "refs/heads/unborn")
    async with provided(bench) as provider:
        with pytest.raises(RefNotFound, match=r"no default branch\. It has .+, both, deadbeef\."):
            await provider.resolve(bench.spec("HEAD"))


async def test_in_a_repository_of_very_many_refs_the_nearest_are_found_in_good_time(bench: Bench) -> None:
    tip = bench.commits["main"]
    names = [f"refs/heads/topic/{number:05}" for number in range(20_000)]
    (bench.repository / "packed-refs").write_text("".join(f"{tip} {name}\n" for name in names))
    async with provided(bench) as provider:
        async with asyncio.timeout(5):
            with pytest.raises(RefNotFound) as caught:
                await provider.resolve(bench.spec("topic/0123x"))
    assert caught.value.nearest == tuple(f"topic/0123{digit}" for digit in range(5))


async def test_names_chosen_to_be_hard_to_compare_cost_little_and_the_same_question_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []

    class Counted(difflib.SequenceMatcher[str]):
        def __init__(self, _: None, one: str, other: str) -> None:
            super().__init__(None, one, other)
            self.lengths = len(one), len(other)

        def set_seq1(self, a: Sequence[str]) -> None:
            super().set_seq1(a)
            self.lengths = len(a), self.lengths[1] if hasattr(self, "lengths") else 0

        def ratio(self) -> float:
            compared.append(self.lengths)
            return super().ratio()

    monkeypatch.setattr(difflib, "SequenceMatcher", Counted)
    tip = bench.commits["main"]
    # "a" and "b" in all orders, and too long to be compared at all.
    names = [f"{number:079b}".translate({48: "a", 49: "b"}) for number in range(2000)] + [
        f"{'ab' * 90}{number:010}" for number in range(1990)
    ]
    (bench.repository / "packed-refs").write_text("".join(f"{tip} refs/tags/{name}\n" for name in names))
    clock = Clock()
    async with provided(bench, clock) as provider:
        for wanted, most in (("ab" * 95, 0), ("a" * 81, 0), ("ab" * 40, 50), ("ab" * 40, 0)):
            compared.clear()
            with pytest.raises(RefNotFound):
                await provider.resolve(bench.spec(wanted))
            assert len(compared) <= most
            assert all(max(lengths) <= 80 for lengths in compared)
    assert bench.listings == 1


async def test_in_many_refs_the_one_that_is_meant_is_suggested(bench: Bench) -> None:
    tip = bench.commits["main"]
    names = [f"refs/tags/build-{number:07}" for number in range(3000)]
    names += ["refs/tags/release-2026.1", "refs/heads/develop", "refs/heads/stable"]
    (bench.repository / "packed-refs").write_text("".join(f"{tip} {name}\n" for name in names))
    async with provided(bench) as provider:
        for wanted, meant in [("devlop", "develop"), ("rstable", "stable"), ("se-2026.1", "release-2026.1")]:
            with pytest.raises(RefNotFound) as caught:
                await provider.resolve(bench.spec(wanted))
            assert meant in caught.value.nearest


@pytest.mark.parametrize(("repository", "says"), [("gone.git", "gone, private"), ("empty.git", "is empty")])
async def test_a_repository_that_cannot_be_had_says_so(bench: Bench, repository: str, says: str) -> None:
    run_git(bench.server.root, "init", "--quiet", "--bare", "empty.git")
    async with provided(bench) as provider:
        with pytest.raises(RepositoryNotFound, match=says):
            await provider.resolve(bench.spec("HEAD", repository))


async def test_a_host_off_the_list_is_refused_by_name(bench: Bench) -> None:
    async with asyncio.TaskGroup() as tasks:
        for rules, host in [(OutgoingRules(), "127.0.0.1"), (OutgoingRules(frozenset()), "127.0.0.1")]:
            with pytest.raises(OriginRefused, match=re.escape(host)):
                await GitProvider(rules, tasks).resolve(bench.spec("HEAD"))
    assert bench.server.requests == []


@pytest.mark.parametrize(
    "link",
    [
        "git/--upload-pack=touch/HEAD",
        "git/ext%3A%3Ash%20-c%20x/HEAD",
        "git/file%3A%2F%2F%2Fetc/HEAD",
        "git/https%3A%2F%2Fgithub.com%2F..%2F..%2Fx/HEAD",
        "git/{url}%2Fr.git/--upload-pack=touch",
        "git/{url}%2Fr.git/a%00b",
        "git/{url}%2Fr.git/" + "x" * 10_000,
        "git/{url}%2F" + "x" * 10_000 + "/HEAD",
        "git/{url}%2Fr.git%3Fservice=x/HEAD",
    ],
)
async def test_a_hostile_spec_is_refused_before_anything_is_asked(bench: Bench, link: str) -> None:
    async with provided(bench) as provider:
        with pytest.raises((BadLink, OriginRefused)):
            await provider.resolve(RepoSpec.parse(link.format(url=quote(bench.server.url, safe=""))))
    assert bench.server.requests == []


# ---- how often the server is asked


async def test_fifty_people_who_ask_at_once_are_one_request(bench: Bench) -> None:
    async with provided(bench) as provider:
        specs = [bench.spec(ref) for ref in ("HEAD", "main", "v1.0", "feature/main", "both") for _ in range(10)]
        resolved = await asyncio.gather(*(provider.resolve(spec) for spec in specs))
        assert len({found.version for found in resolved}) == 4
        assert len(bench.server.requests) == 1
        buried = [provider.resolve(bench.spec(bench.commits["buried"])) for _ in range(50)]
        assert {found.version for found in await asyncio.gather(*buried)} == {bench.commits["buried"]}
        assert len(bench.server.requests) == 3  # protocol version 2: what the server can do, then the fetch


async def test_spellings_of_one_repository_share_its_list(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answers(url: str, *_: object, **__: object) -> git.RemoteRefs:
        asked.append(url)
        if url.endswith("r"):
            raise RepositoryNotFound("There is no such repository.")
        return git.RemoteRefs(url, None, {"HEAD": "a" * 40, "refs/heads/main": "a" * 40}, {})

    monkeypatch.setattr(git_provider, "list_refs", answers)

    async def ask(provider: GitProvider, *urls: str) -> list[ResolvedRef | BaseException]:
        questions = (provider.resolve(RepoSpec("git", url, "main")) for url in urls)
        return await asyncio.gather(*questions, return_exceptions=True)

    async with provided(bench) as provider:
        spellings = ("https://github.com/O/Hello", "https://github.com/o/hello", "https://GitHub.com/o/HELLO")
        found = await ask(provider, *spellings, "https://www.github.com:443/o//h%65llo/")
        assert asked == ["https://github.com/O/Hello"], "as it was spelled first"
        assert {each.repository.url for each in found if isinstance(each, ResolvedRef)} == {
            "https://github.com/o/hello"
        }
        asked.clear()
        # A path of any other host is asked as it is; what one of two names says does not hold for the other.
        found = await ask(provider, *(f"https://codeberg.org/o/{name}" for name in ("r", "r.git", "R.git", "r.git")))
        assert asked == [f"https://codeberg.org/o/{name}" for name in ("r", "r.git", "R.git")]
        assert [isinstance(each, ResolvedRef) for each in found] == [False, True, True, True]
        asked.clear()
        spellings = ("https://CODEBERG.org//o/%72.git", "https://codeberg.org/o/r.git?x")
        *_, with_name = await ask(provider, *spellings, "https://a@codeberg.org/o/r.git")
        assert asked == ["https://codeberg.org/o/r.git?x"], "for git to refuse"
        assert isinstance(with_name, OriginRefused)


async def test_a_branch_is_believed_for_a_minute_and_a_full_sha_for_good(bench: Bench) -> None:
    clock = Clock()
    async with provided(bench, clock) as provider:
        await provider.resolve(bench.spec(bench.commits["buried"]))
        await provider.resolve(bench.spec("main"))
        bench.server.requests.clear()
        moved = bench.commit("moved")
        clock.now += REFS_KEPT - 1
        assert (await provider.resolve(bench.spec("main"))).version == bench.commits["main"]
        assert (await provider.resolve(bench.spec(bench.commits["main"]))).version == bench.commits["main"]
        assert bench.server.requests == []
        clock.now += 2
        assert (await provider.resolve(bench.spec("main"))).version == moved
        assert bench.listings == 1
        clock.now += 1_000_000
        for name in ("buried", "main"):  # one that was asked for, and one that was seen at the tip of a branch
            assert (await provider.resolve(bench.spec(bench.commits[name]))).version == bench.commits[name]
        assert bench.listings == 1


async def test_a_branch_that_was_just_pushed_is_found(bench: Bench) -> None:
    clock = Clock()
    async with provided(bench, clock) as provider:
        with pytest.raises(RefNotFound):
            await provider.resolve(bench.spec("new"))
        run_git(bench.repository, "update-ref", "refs/heads/new", bench.commits["main"])
        clock.now += DOUBT_AFTER + 0.1
        assert (await provider.resolve(bench.spec("new"))).version == bench.commits["main"]


async def test_an_error_is_believed_for_moments_only(bench: Bench) -> None:
    clock = Clock()
    async with provided(bench, clock) as provider:
        for _ in range(2):
            with pytest.raises(RepositoryNotFound):
                await provider.resolve(bench.spec("HEAD", "late.git"))
        assert bench.listings == 1
        bench.repository.rename(bench.repository.with_name("late.git"))
        clock.now += DOUBT_AFTER + 0.1
        assert (await provider.resolve(bench.spec("HEAD", "late.git"))).version == bench.commits["main"]


async def test_one_who_leaves_does_not_take_the_answer_from_the_others(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            provider = GitProvider(OutgoingRules(exempt_origins=frozenset({url})), tasks)
            spec = RepoSpec.parse(f"git/{quote(url + '/r', safe='')}/HEAD")
            leaving, staying = (tasks.create_task(provider.resolve(spec)) for _ in range(2))
            connection, _ = await loop.sock_accept(listening)
            leaving.cancel()
            await asyncio.wait({leaving})
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):
                asked += await loop.sock_recv(connection, 65536)
            lines = [f"{bench.commits['main']} HEAD\0agent=x\n"]
            body = (
                "001e# service=git-upload-pack\n0000" + "".join(f"{len(line) + 4:04x}{line}" for line in lines) + "0000"
            )
            head = "HTTP/1.0 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n"
            await loop.sock_sendall(connection, (head + body).encode())
            connection.close()
            assert (await staying).version == bench.commits["main"]
        assert leaving.cancelled()


async def test_the_end_of_the_service_ends_its_requests_and_tells_who_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        spec = RepoSpec.parse(f"git/{quote(url + '/r', safe='')}/HEAD")
        loop = asyncio.get_running_loop()
        made: asyncio.Future[GitProvider] = loop.create_future()

        async def service() -> None:
            async with asyncio.TaskGroup() as tasks:
                made.set_result(GitProvider(OutgoingRules(exempt_origins=frozenset({url})), tasks))
                await asyncio.Event().wait()

        running = loop.create_task(service())
        provider = await made
        waiting = loop.create_task(provider.resolve(spec))
        connection, _ = await loop.sock_accept(listening)
        running.cancel()
        for question in (waiting, provider.resolve(spec)):
            with pytest.raises(SourceFault, match="being restarted"):
                await question
        await asyncio.wait({running})
        assert running.cancelled()
        connection.close()


async def test_a_server_out_of_order_is_a_fault_and_works_again_when_it_does(bench: Bench, quick_retries: None) -> None:
    clock = Clock()
    url, port = bench.server.url, bench.server.port
    async with provided(bench, clock) as provider:
        spec = bench.spec("HEAD")
        bench.server.stop()
        with pytest.raises(SourceFault) as caught:
            await provider.resolve(spec)
        assert not isinstance(caught.value, NotFound)
        with GitServer(bench.server.root, port=port) as repaired:
            assert repaired.url == url
            clock.now += DOUBT_AFTER + 0.1
            assert (await provider.resolve(spec)).version == bench.commits["main"]


async def test_a_server_that_hangs_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with asyncio.TaskGroup() as tasks:
            provider = GitProvider(OutgoingRules(exempt_origins=frozenset({url})), tasks, timeout=0.3)
            with pytest.raises(SourceFault, match=r"within 0\.3 seconds"):
                await provider.resolve(RepoSpec.parse(f"git/{quote(url + '/r', safe='')}/HEAD"))


# ---- what differs between providers


@pytest.mark.parametrize(("name", "locator", "url"), LOCATORS)
async def test_a_locator_becomes_its_address_or_is_refused(name: str, locator: str, url: str | None) -> None:
    async with asyncio.TaskGroup() as tasks:
        nothing = OutgoingRules(frozenset())
        provider: GitProvider = {
            "gh": GitHubProvider(nothing, tasks),
            "gist": GistProvider(nothing, tasks),
            "gl": GitLabProvider(nothing, tasks, hosts=["gitlab.example.org", "GitLab.example.org:8443"]),
        }[name]
        spec = RepoSpec(name, locator, "HEAD")
        if url is not None:
            assert provider.fetch_url(spec) == url
            with pytest.raises(OriginRefused, match="is not among the hosts"):
                await provider.resolve(spec)
        else:
            with pytest.raises((BadLink, OriginRefused)):
                await provider.resolve(spec)


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_two_links_of_one_repository_are_of_one_repository(
    one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answers(url: str, *_: object, **__: object) -> git.RemoteRefs:
        return git.RemoteRefs(url, None, dict.fromkeys(("HEAD", "refs/heads/main"), "a" * 40), {})

    monkeypatch.setattr(git_provider, "list_refs", answers)
    rules = OutgoingRules(frozenset({"github.com", "gist.github.com", "gitlab.com", "gitlab.example.org"}))
    async with asyncio.TaskGroup() as tasks:
        found: list[GitProvider] = [
            GitProvider(rules, tasks),
            GitHubProvider(rules, tasks),
            GitLabProvider(rules, tasks, hosts=["gitlab.example.org"]),
            GistProvider(rules, tasks),
        ]
        providers = {provider.name: provider for provider in found}
        specs = [RepoSpec.parse(link) for link in (one, other)]
        resolved = [await providers[spec.provider].resolve(spec) for spec in specs]
    assert len({each.repository for each in resolved}) == 1
    assert {Repository.of_url(spec.url) for spec in specs} == {resolved[0].repository}, "as the link alone says"


async def test_all_keep_to_the_seam() -> None:
    async with asyncio.TaskGroup() as tasks:
        rules = OutgoingRules()
        providers: list[RepoProvider] = [kind(rules, tasks) for kind in KINDS.values()]
        assert [provider.name for provider in providers] == list(KINDS)


# ---- addresses that do not say where a branch's name ends


async def test_what_was_pasted_is_told_by_the_refs_and_launched_without_asking_again(bench: Bench) -> None:
    (github,) = (named for named in PROVIDERS if named.name == "gh")
    ada = Person("ada", frozenset({"vo.one"}))
    async with elsewhere(bench, github) as provider:
        pasted = PastedLinks({"gh": provider}, PolicySet.alike({"vo.one": ""}, Resources()))
        for path, link in {
            "blob/release/2026/n/a.ipynb": "release/2026?urlpath=lab/tree/n/a.ipynb",
            "blob/light/a.ipynb": "light?urlpath=lab/tree/a.ipynb",
            "tree/nested/main": "nested/main",
            "blob/gone/a.ipynb": "gone?urlpath=lab/tree/a.ipynb",
        }.items():
            found = await pasted.find(ada, f"https://github.com/o/r/{path}")
            assert found.link == f"/v2/gh/o/r/{link}"
        resolved = await provider.resolve(RepoSpec.parse("gh/o/r/release/2026"))
    assert resolved.version == bench.commits["tagged"]
    assert bench.listings == 1
