"""git over HTTP against a real git server: what is listed, what is fetched, what is refused, what is left behind."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from demo.git_server import GitServer
from demo.repositories import publish, publish_folder
from replay_build_service import git
from replay_build_service.errors import (
    BadLink,
    OriginRefused,
    RefNotFound,
    Refused,
    ReplayError,
    RepositoryNotFound,
    SourceFault,
)
from replay_build_service.git import fetch_commit, find_commit, list_refs
from replay_build_service.outgoing import OutgoingRules, Resolver

pytestmark = pytest.mark.hub_independent


def run_git(folder: Path, *command: str, text: str | None = None) -> str:
    person = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *person, *command], cwd=folder, env=environment, input=text, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@dataclass(frozen=True)
class Example:
    """A repository on the server: ``older`` is the parent of ``tip``, and ``tip`` is ``main``'s and tag ``v1``'s."""

    url: str
    older: str
    tip: str
    tag_object: str


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repositories")


@pytest.fixture(scope="module")
def example(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Example:
    files = tmp_path_factory.mktemp("files")
    (files / "file.txt").write_text("one\n")
    repository = root / "example.git"
    older = publish_folder(files, repository, message="one")
    (files / "link").symlink_to("/etc/hostname")
    (files / ".gitattributes").write_text("*.bin filter=lfs\nfile.txt filter=evil\n")
    (files / "big.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    (files / ".gitmodules").write_text('[submodule "part"]\n\tpath = part\n\turl = http://127.0.0.1:1/part.git\n')
    publish_folder(files, repository, message="two")
    tree = run_git(repository, "mktree", text=run_git(repository, "ls-tree", "main") + f"\n160000 commit {older}\tpart")
    tip = run_git(repository, "commit-tree", tree, "-p", older, "-m", "three")
    run_git(repository, "update-ref", "refs/heads/main", tip)
    run_git(repository, "tag", "-a", "-m", "first", "v1", tip)
    run_git(repository, "branch", "feature/main", older)
    return Example("/example.git", older, tip, run_git(repository, "rev-parse", "refs/tags/v1"))


@pytest.fixture(scope="module")
def shared_server(root: Path, example: Example) -> Iterator[GitServer]:
    with GitServer(root) as running:
        yield running


@pytest.fixture
def server(shared_server: GitServer) -> GitServer:
    shared_server.requests.clear()
    return shared_server


def exempting(*origins: str) -> OutgoingRules:
    return OutgoingRules(exempt_origins=frozenset(origins))


def answering(*addresses: str) -> Resolver:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolver


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "FIRST_WAIT", 0.01)


# ---- listing


async def test_refs_are_listed_in_one_request(server: GitServer, example: Example) -> None:
    refs = await list_refs(server.url + example.url, exempting(server.url))
    assert refs.url == server.url + example.url
    assert refs.default_branch == "refs/heads/main"
    assert refs.refs == {
        "HEAD": example.tip,
        "refs/heads/feature/main": example.older,
        "refs/heads/main": example.tip,
        "refs/tags/v1": example.tag_object,
    }
    assert refs.peeled == {"refs/tags/v1": example.tip}
    assert [refs.target(name) for name in ("HEAD", "refs/tags/v1", "main")] == [example.tip, example.tip, None]
    assert server.requests == [f"GET {example.url}/info/refs?service=git-upload-pack"]


async def test_an_empty_repository_and_one_that_is_not_there_are_told_apart(server: GitServer, root: Path) -> None:
    run_git(root, "init", "--quiet", "--bare", "empty.git")
    with pytest.raises(RepositoryNotFound, match="is empty"):
        await list_refs(f"{server.url}/empty.git", exempting(server.url))
    with pytest.raises(RepositoryNotFound, match="gone, private or misspelt"):
        await list_refs(f"{server.url}/missing.git", exempting(server.url))


async def test_a_listing_without_end_is_cut_off(
    server: GitServer, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "MAX_LISTING", 100)
    with pytest.raises(Refused, match="full commit SHA"):
        await list_refs(server.url + example.url, exempting(server.url))


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.org/r.git",
        "http://127.0.0.1:1/r.git",
        "http://[::1]/r.git",
        "ext::touch x",
        "file:///etc",
        "ssh://git@github.com/o/r",
        "git@github.com:o/r",
        "--upload-pack=touch x",
        "-oProxyCommand=x",
        "https://user:secret@github.com/o/r",
        "https://github.com/o/r?x=1",
        "https://github.com/o/r#x",
        "https://github.com/o/r%0a",
        "https://github.com/o/%zz",
        "https://github.com/o\nr",
        "",
    ],
)
async def test_what_may_not_be_asked_never_reaches_git(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "run_remote", None)
    with pytest.raises((BadLink, OriginRefused)):
        await list_refs(url, OutgoingRules())


# ---- commits


async def test_a_commit_is_found_whether_or_not_it_is_a_tip(server: GitServer, example: Example) -> None:
    rules, url = exempting(server.url), server.url + example.url
    for asked, found in [(example.tip, example.tip), (example.older, example.older), (example.tag_object, example.tip)]:
        assert await find_commit(url, asked, rules) == git.RemoteCommit(url, found)


async def test_a_sha_that_is_no_commit_of_the_repository_is_not_found(
    server: GitServer, example: Example, root: Path
) -> None:
    tree = run_git(root / "example.git", "rev-parse", f"{example.tip}^{{tree}}")
    for sha in ("1" * 40, tree):
        with pytest.raises(RefNotFound):
            await find_commit(server.url + example.url, sha, exempting(server.url))
    with pytest.raises(BadLink):
        await find_commit(server.url + example.url, "main", exempting(server.url))


@pytest.mark.parametrize("version", ["tip", "older"])
async def test_exactly_one_commit_is_checked_out(
    server: GitServer, example: Example, tmp_path: Path, version: str
) -> None:
    sha = {"tip": example.tip, "older": example.older}[version]
    await fetch_commit(server.url + example.url, sha, tmp_path / "new" / "folder", exempting(server.url))
    folder = tmp_path / "new" / "folder"
    assert run_git(folder, "rev-parse", "HEAD") == sha
    assert run_git(folder, "rev-list", "--count", "HEAD") == "1"
    assert run_git(folder, "status", "--porcelain") == ""
    assert run_git(folder, "remote", "get-url", "origin") == server.url + example.url
    assert (folder / "file.txt").read_text() == "one\n"


async def test_nothing_in_a_repository_makes_git_do_more_than_write_files(
    server: GitServer, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / ".gitconfig").write_text(
        f'[core]\n\thooksPath = {hooks}\n[filter "evil"]\n\tsmudge = touch {tmp_path}/filtered; cat\n'
        f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {server.url}/\n[submodule]\n\trecurse = true\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    folder = tmp_path / "checkout"
    await fetch_commit(server.url + example.url, example.tip, folder, exempting(server.url))
    assert not (tmp_path / "hooked").exists()
    assert not (tmp_path / "filtered").exists()
    assert os.readlink(folder / "link") == "/etc/hostname"
    assert (folder / "big.bin").read_text().startswith("version https://git-lfs")
    assert os.listdir(folder / "part") == []


async def test_the_configuration_of_the_folder_that_the_service_stands_in_is_not_used(
    server: GitServer, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_git(tmp_path, "init", "--quiet")
    run_git(tmp_path, "config", "url.http://127.0.0.1:1/.insteadOf", f"{server.url}/")
    monkeypatch.chdir(tmp_path)
    assert (await list_refs(server.url + example.url, exempting(server.url))).target("HEAD") == example.tip


async def test_a_folder_that_is_not_empty_stays_as_it_is(server: GitServer, example: Example, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        await fetch_commit(server.url + example.url, example.tip, tmp_path, exempting(server.url))
    assert os.listdir(tmp_path) == ["mine"]


async def test_a_server_that_hands_out_tips_alone_is_asked_for_the_history(
    root: Path, example: Example, tmp_path: Path
) -> None:
    with GitServer(root, hands_out_any_commit=False) as old:
        rules = exempting(old.url)
        assert (await find_commit(old.url + example.url, example.older, rules)).version == example.older
        await fetch_commit(old.url + example.url, example.older, tmp_path / "a", rules)
        with pytest.raises(RefNotFound):
            await find_commit(old.url + example.url, "1" * 40, rules)
        with pytest.raises(RefNotFound):
            await fetch_commit(old.url + example.url, "1" * 40, tmp_path / "b", rules)
    assert run_git(tmp_path / "a", "rev-parse", "HEAD") == example.older


async def test_a_repository_of_sha256_objects_is_fetched_too(server: GitServer, root: Path, tmp_path: Path) -> None:
    bare = root / "sha256.git"
    run_git(root, "init", "--quiet", "--bare", "--object-format=sha256", "--initial-branch=main", str(bare))
    sha = run_git(bare, "commit-tree", run_git(bare, "mktree", text=""), "-m", "one")
    run_git(bare, "update-ref", "refs/heads/main", sha)
    url = f"{server.url}/sha256.git"
    assert len(sha) == 64
    assert (await list_refs(url, exempting(server.url))).target("HEAD") == sha
    await fetch_commit(url, sha, tmp_path / "checkout", exempting(server.url))


# ---- addresses and certificates


async def test_git_connects_to_the_address_that_was_looked_at_and_does_not_ask_dns_again(
    server: GitServer, example: Example, tmp_path: Path
) -> None:
    origin = f"http://forge.invalid:{server.port}"  # RFC 6761: no DNS knows a name in .invalid
    rules, resolver = exempting(origin), answering("127.0.0.1")
    assert (await list_refs(origin + example.url, rules, resolver=resolver)).target("HEAD") == example.tip
    await fetch_commit(origin + example.url, example.older, tmp_path / "checkout", rules, resolver=resolver)


async def test_a_listed_name_that_means_a_private_address_is_not_asked(server: GitServer, example: Example) -> None:
    rules = OutgoingRules(frozenset({f"forge.example.org:{server.port}"}))
    url = f"https://forge.example.org:{server.port}{example.url}"
    with pytest.raises(OriginRefused, match=r"forge\.example\.org leads to an address that is not public"):
        await list_refs(url, rules, resolver=answering("127.0.0.1"))
    assert server.requests == []


async def test_a_git_too_old_to_be_kept_to_an_address_is_not_used(
    server: GitServer, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.36.6\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceFault, match=r"older than 2\.37"):
        await list_refs(server.url + example.url, exempting(server.url))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SourceFault, match="has no git"):
        await list_refs(server.url + example.url, exempting(server.url))


def make_certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context for one name, and the file of the authority that signed it: itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    alternatives = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, str(folder / "certificate.pem")


async def test_over_https_the_name_is_verified_not_the_address(
    root: Path, example: Example, tmp_path: Path, quick_retries: None
) -> None:
    context, authority = make_certificate(tmp_path, "forge.invalid")
    with GitServer(root, tls=context) as secure:
        good, bad = (f"https://{name}.invalid:{secure.port}" for name in ("forge", "other"))
        rules = OutgoingRules(exempt_origins=frozenset({good, bad}), ca_file=authority)
        resolver = answering("127.0.0.1")
        assert (await list_refs(good + example.url, rules, resolver=resolver)).target("HEAD") == example.tip
        for origin, trusting in [(bad, rules), (good, OutgoingRules(exempt_origins=rules.exempt_origins))]:
            with pytest.raises(SourceFault):
                await list_refs(origin + example.url, trusting, resolver=resolver)
        assert len(secure.requests) == 1


# ---- a server that misbehaves


@dataclass
class Answers:
    """A server that gives the answers it is told to give, the last one again and again."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list[tuple[int, dict[str, str], bytes]])
    redirect_to: str | None = None
    requests: list[str] = field(default_factory=list[str])


@contextmanager
def answers_running() -> Generator[Answers]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.requests.append(self.path)
            if told.redirect_to is not None:
                told.answers = [(301, {"Location": told.redirect_to + self.path}, b"")]
            status, headers, body = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        told = Answers(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture
def told() -> Iterator[Answers]:
    with answers_running() as answers:
        yield answers


@pytest.mark.parametrize(
    ("status", "headers", "body", "error", "attempts"),
    [
        (404, {}, b"", RepositoryNotFound, 1),
        (410, {}, b"", RepositoryNotFound, 1),
        (401, {"WWW-Authenticate": 'Basic realm="forge"'}, b"", RepositoryNotFound, 1),
        (200, {"Content-Type": "text/html"}, b"<html>log in", RepositoryNotFound, 1),
        (403, {}, b"", SourceFault, 3),
        (429, {}, b"", SourceFault, 3),
        (500, {}, b"", SourceFault, 3),
        (503, {}, b"", SourceFault, 3),
        (504, {"Content-Type": "text/plain"}, b"fatal: repository 'x' not found", SourceFault, 3),
    ],
)
async def test_a_fault_is_tried_again_and_a_fact_is_not(
    told: Answers,
    quick_retries: None,
    status: int,
    headers: dict[str, str],
    body: bytes,
    error: type[ReplayError],
    attempts: int,
) -> None:
    told.answers = [(status, headers, body)]
    with pytest.raises(error) as caught:
        await list_refs(f"{told.url}/o/r", exempting(told.url))
    assert type(caught.value) is error
    assert len([path for path in told.requests if "info/refs" in path]) == attempts
    assert "127.0.0.1" in caught.value.sentence


async def test_a_fault_that_passes_is_not_even_noticed(told: Answers, example: Example, quick_retries: None) -> None:
    lines = [f"{example.tip} HEAD\0agent=stand-in\n", f"{example.tip} refs/heads/main\n"]
    listing = "001e# service=git-upload-pack\n0000" + "".join(f"{len(line) + 4:04x}{line}" for line in lines) + "0000"
    good = (200, {"Content-Type": "application/x-git-upload-pack-advertisement"}, listing.encode())
    told.answers = [(503, {}, b""), (502, {}, b""), good]
    refs = await list_refs(f"{told.url}/o/r", exempting(told.url))
    assert refs.refs == {"HEAD": example.tip, "refs/heads/main": example.tip}


async def test_a_head_whose_branch_does_not_exist_is_no_ref(server: GitServer, root: Path, example: Example) -> None:
    run_git(root, "clone", "--quiet", "--bare", "example.git", "headless.git")
    run_git(root / "headless.git", "symbolic-ref", "HEAD", "refs/heads/unborn")
    refs = await list_refs(f"{server.url}/headless.git", exempting(server.url))
    assert "HEAD" not in refs.refs
    assert "refs/heads/main" in refs.refs


async def test_nobody_listening_is_a_fault(quick_retries: None) -> None:
    with answers_running() as gone:
        url = gone.url
    with pytest.raises(SourceFault, match="could not be asked"):
        await list_refs(f"{url}/o/r", exempting(url))


async def test_a_server_of_plain_files_is_refused_and_leads_git_nowhere_else(
    server: GitServer, example: Example, told: Answers, tmp_path: Path
) -> None:
    """The old protocol lets a server name other places to get objects from (``http-alternates``)."""
    told.answers = [(200, {"Content-Type": "text/plain"}, f"{example.tip}\trefs/heads/main\n".encode())]
    with pytest.raises(Refused, match="plain files"):
        await fetch_commit(f"{told.url}/o/r", example.tip, tmp_path / "checkout", exempting(told.url, server.url))
    assert server.requests == []
    assert not any("alternates" in path for path in told.requests)


# ---- redirects


async def test_a_renamed_repository_is_followed_to_its_new_address(
    told: Answers, server: GitServer, example: Example, tmp_path: Path
) -> None:
    told.redirect_to = server.url
    rules = exempting(told.url, server.url)
    assert (await list_refs(told.url + example.url, rules)).url == server.url + example.url
    assert (await find_commit(told.url + example.url, example.older, rules)).url == server.url + example.url
    await fetch_commit(told.url + example.url, example.tip, tmp_path / "checkout", rules)
    assert run_git(tmp_path / "checkout", "remote", "get-url", "origin") == server.url + example.url


async def test_a_redirect_to_a_place_that_is_not_listed_is_refused(
    told: Answers, server: GitServer, example: Example
) -> None:
    told.redirect_to = server.url
    with pytest.raises(OriginRefused, match="is not among the hosts"):
        await list_refs(told.url + example.url, exempting(told.url))
    assert server.requests == []


async def test_a_redirect_to_a_listed_name_with_a_private_address_is_refused(told: Answers, example: Example) -> None:
    told.redirect_to = "https://github.com"
    with pytest.raises(OriginRefused, match=r"github\.com leads to an address that is not public"):
        await list_refs(told.url + example.url, exempting(told.url), resolver=answering("169.254.169.254"))


@pytest.mark.parametrize("location", ["http://user:secret@127.0.0.1", "file:///etc/passwd", "gopher://x"])
async def test_a_redirect_that_is_no_plain_address_is_refused(told: Answers, example: Example, location: str) -> None:
    told.redirect_to = location
    with pytest.raises(OriginRefused):
        await list_refs(told.url + example.url, exempting(told.url))


async def test_a_redirect_to_a_page_means_that_there_is_no_public_repository(told: Answers) -> None:
    told.answers = [(302, {"Location": "/login"}, b"")]
    with pytest.raises(RepositoryNotFound, match="page that is no repository"):
        await list_refs(f"{told.url}/o/r", exempting(told.url))


async def test_redirects_in_a_circle_end(told: Answers, quick_retries: None) -> None:
    told.redirect_to = told.url
    with pytest.raises(SourceFault, match="redirects more than 5 times"):
        await list_refs(f"{told.url}/o/r", exempting(told.url))


# ---- time, and what is left behind


@contextmanager
def silent_server() -> Generator[tuple[socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


def processes_about(url: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if url in " ".join(process.info["cmdline"] or ())]


def have_ended(url: str) -> bool:
    """Whether no process about the URL is left, or the last ones end now."""
    return psutil.wait_procs(processes_about(url), timeout=5)[1] == []


async def test_a_server_that_never_answers_is_given_up_and_no_process_stays(tmp_path: Path) -> None:
    with silent_server() as (_, url):
        for question in (
            list_refs(f"{url}/r", exempting(url), seconds=0.5),
            find_commit(f"{url}/r", "1" * 40, exempting(url), seconds=0.5),
            fetch_commit(f"{url}/r", "1" * 40, tmp_path / "checkout", exempting(url), seconds=0.5),
        ):
            with pytest.raises(SourceFault, match=r"did not answer within 0\.5 seconds"):
                await question
        assert have_ended(url)


async def test_who_stops_waiting_leaves_no_process_behind() -> None:
    with silent_server() as (listening, url):
        question = asyncio.create_task(find_commit(f"{url}/r", "1" * 40, exempting(url)))
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        assert processes_about(url)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        assert have_ended(url)
        connection.close()


# ---- the stand-in itself


@pytest.mark.parametrize(
    "path",
    [
        "/../example.git/info/refs",
        "/%2e%2e/%2e%2e/etc/HEAD",
        "/example.git/../../etc/passwd",
        "/example.git/config",
        "/example.git/info/refs?service=git-receive-pack",
        "/example.git/git-receive-pack",
        "//etc/HEAD",
    ],
)
def test_the_git_server_reads_only_and_only_below_its_root(server: GitServer, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert re.match(rb"HTTP/1.1 40[34] ", answer)


def test_the_git_server_is_for_this_machine_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loopback"):
        GitServer(tmp_path, host="0.0.0.0")


def test_the_demonstrations_repositories_always_have_the_same_commits(tmp_path: Path) -> None:
    published = publish(tmp_path / "one")
    publish(tmp_path / "two")
    publish(tmp_path / "two")
    assert [example.name for example in published] == ["hello-notebook", "pyproject-example", "broken-requirements"]
    for example in published:
        shas = {
            run_git(tmp_path / where / f"{example.name}.git", "rev-parse", example.branch) for where in ("one", "two")
        }
        assert len(shas) == 1
