"""git over HTTP(S), as a guarded subprocess: what refs a repository has, whether a commit exists, one commit checked out.

git itself speaks the protocol, because it is what every server is tested against. What it may do is narrowed: nothing
from the machine's or the user's configuration, no prompt, no credential, no hook, no filter, no transport but HTTP(S),
no redirect that was not looked at, and a connection to exactly the addresses that `outgoing.vet` checked
(``http.curloptResolve``, git 2.37; an older git is refused, because it would ignore that setting and ask DNS again).
Each command runs in a process group of its own, which ends with the call.

Submodules are not fetched and LFS files stay pointers: both lead to places that the link does not name.
A host may hand out, under one repository's address, commits that exist only in a fork of it (GitHub does); what is
checked here is that the commit is what was asked for, not who wrote it.

This room knows refs and commits only: what a spec means is the providers' matter, what is built the builders'.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx
import stamina

from replay_build_service.errors import BadLink, RefNotFound, Refused, RepositoryNotFound, SourceFault
from replay_build_service.outgoing import (
    Origin,
    OutgoingRules,
    Resolver,
    VettedOrigin,
    certificate_file,
    guarded_client,
    resolve_host,
    vet,
)

__all__ = ["FULL_SHA", "RemoteCommit", "RemoteRefs", "fetch_commit", "find_commit", "list_refs"]

logger = logging.getLogger(__name__)

FULL_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A whole object id, SHA-1 or SHA-256."""

LIST_TIMEOUT = 20.0
"""Seconds for listing refs and for looking a commit up, retries included."""
FETCH_TIMEOUT = 600.0
"""Seconds for fetching and checking out, retries included."""
MAX_LISTING = 32 * 1024 * 1024
"""Bytes of refs that are read: about half a million. The largest public repositories have half of that."""
MAX_REDIRECTS = 5
ATTEMPTS = 3
FIRST_WAIT = 0.2
"""Seconds before the second attempt; the third waits twice as long."""

_MAX_MESSAGES = 64 * 1024
_SILENCE = 60
"""Seconds without a byte after which git itself gives up, so that it ends even where this process was killed."""

_OLDEST_GIT = (2, 37)
_git_versions: dict[str, tuple[int, ...]] = {}

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class RemoteRefs:
    """What a repository advertised, at one moment."""

    url: str
    """Where it answered, after redirects."""
    default_branch: str | None
    """What ``HEAD`` points to, in full (``refs/heads/main``); ``None`` where the server does not say."""
    refs: Mapping[str, str]
    """From ``HEAD`` and full names to object ids, as advertised: an annotated tag's is that of the tag object."""
    peeled: Mapping[str, str]
    """For annotated tags: from the full name to what the tag is of."""

    def target(self, name: str) -> str | None:
        """What a full ref name leads to, tags peeled; ``None`` where there is no such ref."""
        return self.peeled.get(name) or self.refs.get(name)


@dataclass(frozen=True, slots=True)
class RemoteCommit:
    """A commit that a repository has."""

    url: str
    """Where the repository answered, after redirects."""
    version: str
    """The commit's full SHA. Not the one asked for where that one was of an annotated tag."""


async def list_refs(
    url: str,
    rules: OutgoingRules,
    *,
    timeout: float = LIST_TIMEOUT,  # noqa: ASYNC109  it has a sentence of its own
    resolver: Resolver = resolve_host,
) -> RemoteRefs:
    """All refs of a repository.

    Protocol version 0 on purpose: it advertises refs in the answer to the first request, version 2 in that to a second.

    Raises `BadLink`, `OriginRefused`, `RepositoryNotFound` (gone, private or empty), `Refused` (too many refs to read)
    and `SourceFault`.
    """

    async def ask(address: str, options: Sequence[str]) -> str:
        command = (*options, "-c", "protocol.version=0", "ls-remote", "--symref", "--", address)
        return await _remote_git(command, address, rules, max_output=MAX_LISTING)

    found, output = await _asked(url, rules, resolver, timeout, ask)
    listing = await asyncio.to_thread(_parse_refs, found, output)
    if not listing.refs:
        raise RepositoryNotFound(f"The repository {_short(url)} is empty: it has no branch and no tag yet.")
    return listing


async def find_commit(
    url: str,
    version: str,
    rules: OutgoingRules,
    *,
    timeout: float = LIST_TIMEOUT,  # noqa: ASYNC109  it has a sentence of its own
    resolver: Resolver = resolve_host,
) -> RemoteCommit:
    """Verify that a repository has a commit, tip of a ref or not, without fetching its files.

    Raises as `list_refs`, and `RefNotFound` where the repository has no such commit.
    """
    _require_full_sha(version)
    with tempfile.TemporaryDirectory(prefix="replay-git-") as folder:
        await _initialise(Path(folder), version, "--bare")

        async def ask(address: str, options: Sequence[str]) -> None:
            await _fetch(Path(folder), address, version, rules, options, "--filter=tree:0")

        found, _ = await _asked(url, rules, resolver, timeout, ask)
        commit = await _local_git(Path(folder), "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
    if commit is None:
        raise RefNotFound(f"{version} is not a commit of {_short(url)}.")
    return RemoteCommit(found, commit.strip())


async def fetch_commit(
    url: str,
    version: str,
    folder: Path,
    rules: OutgoingRules,
    *,
    timeout: float = FETCH_TIMEOUT,  # noqa: ASYNC109  it has a sentence of its own
    resolver: Resolver = resolve_host,
) -> None:
    """Check out exactly one commit, without its history, into a folder that is empty or not there yet.

    The folder becomes a repository with a detached ``HEAD`` and the remote ``origin``. After an error or a cancellation
    what is in it is the caller's to remove.

    Raises `ValueError` where the folder is not empty, and as `find_commit`.
    """
    _require_full_sha(version)
    await asyncio.to_thread(_require_empty, folder)
    await _initialise(folder, version)

    async def ask(address: str, options: Sequence[str]) -> None:
        await _fetch(folder, address, version, rules, options)

    try:
        async with asyncio.timeout(timeout):
            found, _ = await _asked(url, rules, resolver, timeout, ask)
            await _check_out(folder, found, version)
    except TimeoutError as error:
        raise _too_slow(url, timeout) from error


async def _check_out(folder: Path, url: str, version: str) -> None:
    await _local_git(folder, "remote", "add", "origin", url)
    if await _local_git(folder, "checkout", "--quiet", "--force", "--detach", version) is None:
        raise RefNotFound(
            f"{version} of {_short(url)} cannot be checked out: it is not a commit, or its files are not whole."
        )
    head = await _local_git(folder, "rev-parse", "--verify", "HEAD")
    if head is None or head.strip() != version:
        raise RefNotFound(f"{version} is not a commit of {_short(url)}.")


# ---- one question to a repository: vetted, redirected, retried, bounded in time


class _Moved(Exception):
    """The server answered with a redirect, which git was told not to follow."""


class _NotBySha(Exception):
    """The server hands out advertised commits only (git's protocol before version 2)."""


async def _asked(
    url: str,
    rules: OutgoingRules,
    resolver: Resolver,
    timeout: float,  # noqa: ASYNC109  it has a sentence of its own
    ask: Callable[[str, Sequence[str]], Awaitable[_Answer]],
) -> tuple[str, _Answer]:
    """The answer, and the address that gave it."""
    await _require_git()
    address = _canonical(url)
    try:
        async with asyncio.timeout(timeout):
            async for attempt in stamina.retry_context(
                on=SourceFault,
                attempts=ATTEMPTS,
                timeout=None,
                wait_initial=FIRST_WAIT,
                wait_max=2.0,
                wait_jitter=FIRST_WAIT,
            ):
                with attempt:
                    return await _asked_once(address, rules, resolver, ask)
    except TimeoutError as error:
        raise _too_slow(url, timeout) from error
    raise AssertionError("stamina ends with a result or an error")


async def _asked_once(
    address: str, rules: OutgoingRules, resolver: Resolver, ask: Callable[[str, Sequence[str]], Awaitable[_Answer]]
) -> tuple[str, _Answer]:
    try:
        return address, await ask(address, _options(await vet(address, rules, resolver=resolver), rules))
    except _Moved:
        pass
    moved = await _located(address, rules, resolver)
    try:
        return moved, await ask(moved, _options(await vet(moved, rules, resolver=resolver), rules))
    except _Moved as error:
        raise SourceFault(f"{_short(address)} redirects in a way that git cannot follow. Try again later.") from error


async def _located(address: str, rules: OutgoingRules, resolver: Resolver) -> str:
    """Where a repository's redirects lead, hop by hop, each looked at before it is asked; nothing is sent along."""
    async with guarded_client(rules, resolver=resolver) as client:
        client.headers["User-Agent"] = "git/replay"
        for _ in range(MAX_REDIRECTS + 1):
            asked = f"{address.rstrip('/')}/info/refs?service=git-upload-pack"
            try:
                async with client.stream("GET", asked) as response:
                    location = response.headers.get("Location") if response.is_redirect else None
            except httpx.HTTPError as error:
                raise SourceFault(f"{Origin.of_url(address).host} could not be asked. Try again later.") from error
            if location is None:
                return address
            address = _repository_of(urljoin(asked, location))
    raise SourceFault(f"{_short(address)} redirects more than {MAX_REDIRECTS} times. Try again later.")


def _repository_of(location: str) -> str:
    path, _, query = location.partition("?")
    if not path.endswith("/info/refs") or query.partition("#")[0] != "service=git-upload-pack":
        raise RepositoryNotFound("That address leads to a page that is no repository. It is gone, private or misspelt.")
    return _canonical(path.removesuffix("/info/refs"))


def _canonical(url: str) -> str:
    """The address as git gets it, put together from parsed parts, so that git cannot read another host from it.

    Raises `BadLink` and `OriginRefused`.
    """
    origin = Origin.of_url(url)
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise BadLink("A repository's address has no “?” and no “#”. Copy the address that you would clone.")
    path = quote(parts.path, safe="/%~!$&'()*+,;=:@")
    if re.search(r"%(?![0-9A-Fa-f]{2})|%(0|1|7f)", path, re.IGNORECASE):
        raise BadLink("The repository's address holds characters that no repository has.")
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    port = "" if (origin.scheme, origin.port) in {("https", 443), ("http", 80)} else f":{origin.port}"
    return f"{origin.scheme}://{host}{port}{path or '/'}"


def _short(url: str) -> str:
    return url.partition("://")[2].removesuffix("/")


def _too_slow(url: str, timeout: float) -> SourceFault:
    return SourceFault(f"{_short(url)} did not answer within {timeout:g} seconds. Try again later.")


# ---- what git is told


def _options(origin: VettedOrigin, rules: OutgoingRules) -> tuple[str, ...]:
    settings = {
        "http.followRedirects": "false",
        "http.proxy": "" if origin.addresses else rules.proxy or "",
        "http.lowSpeedLimit": "1",
        "http.lowSpeedTime": str(_SILENCE),
        "fetch.uriProtocols": "",
        "transfer.bundleURI": "false",
    }
    if origin.addresses and ":" not in origin.host:
        addresses = ",".join(f"[{address}]" if ":" in address else address for address in origin.addresses)
        settings["http.curloptResolve"] = f"{origin.host}:{origin.port}:{addresses}"
    return tuple(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))


_ALWAYS = tuple(
    part
    for setting in (
        "credential.helper=",
        "core.askPass=",
        f"core.hooksPath={os.devnull}",
        f"core.attributesFile={os.devnull}",
        "core.fsmonitor=false",
        "submodule.recurse=false",
        "maintenance.auto=false",
        "gc.auto=0",
        "init.defaultBranch=main",
    )
    for part in ("-c", setting)
)


def _environment(rules: OutgoingRules | None) -> dict[str, str]:
    """Only what is listed here; ``rules`` are for commands that ask a server."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.devnull,
        "XDG_CONFIG_HOME": os.devnull,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none" if rules is None else "http:https",
    }
    if rules is not None:
        authorities = certificate_file(rules) or os.environ.get("GIT_SSL_CAINFO")
        if authorities:
            environment["GIT_SSL_CAINFO"] = authorities
    return environment


async def _initialise(folder: Path, version: str, *options: str) -> None:
    object_format = "sha256" if len(version) == 64 else "sha1"
    command = ("init", "--quiet", "--template=", f"--object-format={object_format}", *options)
    if await _local_git(folder, *command) is None:
        raise SourceFault("A place for the repository's files could not be made. Try again later.")


async def _fetch(
    folder: Path, address: str, version: str, rules: OutgoingRules, options: Sequence[str], *narrowing: str
) -> None:
    quietly = ("--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance")
    command = (*options, "-c", "protocol.version=2", "fetch", *quietly, *narrowing)
    try:
        await _remote_git((*command, "--depth=1", "--", address, version), address, rules, folder=folder)
    except _NotBySha:
        everything = ("+refs/heads/*:refs/replay/heads/*", "+refs/tags/*:refs/replay/tags/*")
        await _remote_git((*command, "--", address, *everything), address, rules, folder=folder)


async def _remote_git(
    command: Sequence[str],
    address: str,
    rules: OutgoingRules,
    *,
    folder: Path | None = None,
    max_output: int = _MAX_MESSAGES,
) -> str:
    # Without a repository of its own, git must not take up one (and its configuration) from where this process stands.
    environment = _environment(rules) | ({"GIT_DIR": os.devnull} if folder is None else {})
    async with _running(command, environment, folder or Path("/")) as process:
        output, messages, whole = await _read(process, max_output)
    if not whole:
        limit = max_output // (1024 * 1024)
        raise Refused(
            f"{_short(address)} lists more than {limit} MB of branches and tags. Use a full commit SHA instead."
        )
    if process.returncode == 0:
        return output
    logger.info("git failed for %s: %r", address, messages[-2000:])
    raise _failure(messages, address)


async def _local_git(folder: Path, *command: str) -> str | None:
    """What a command that asks nobody prints; ``None`` where it fails."""
    async with _running(command, _environment(None), folder) as process:
        output, messages, whole = await _read(process, _MAX_MESSAGES)
    if process.returncode == 0 and whole:
        return output
    logger.info("git %s failed: %r", command[0], messages[-2000:])
    return None


# ---- what git says


def _failure(messages: str, address: str) -> Exception:
    said = [line for line in messages.splitlines() if line.startswith(("fatal: ", "error: "))]
    text = "\n".join(said)
    name, host = _short(address), Origin.of_url(address).host
    gone = RepositoryNotFound(f"There is no public repository at {name}. It is gone, private or misspelt.")
    status = re.search(r"The requested URL returned error: (\d{3})", text)
    match status and int(status[1]):
        case 301 | 302 | 303 | 307 | 308:
            return _Moved()
        case 401 | 404 | 410:
            return gone
        case int(code):
            return SourceFault(f"{host} did not answer properly for {name} (HTTP {code}). Try again later.")
        case None:
            pass
    if "not our ref" in text or "couldn't find remote ref" in text:
        return RefNotFound(f"The repository {name} has no such commit.")
    if "unadvertised object" in text:
        return _NotBySha()
    if "dumb http transport" in text:
        return Refused(f"{host} serves {name} as plain files. Replay needs a server that speaks git's smart protocol.")
    if re.search(
        r"could not read Username|Authentication failed|repository '.*' not found|is this a git repository", text
    ):
        return gone
    return SourceFault(f"{host} could not be asked for {name}. Try again later.")


def _parse_refs(url: str, output: str) -> RemoteRefs:
    default: str | None = None
    refs: dict[str, str] = {}
    peeled: dict[str, str] = {}
    for line in output.splitlines():
        value, _, name = line.partition("\t")
        if value.startswith("ref: "):
            default = value.removeprefix("ref: ") if name == "HEAD" else default
        elif not FULL_SHA.fullmatch(value):
            raise SourceFault(f"{_short(url)} answered with something that is no list of refs. Try again later.")
        elif set(value) == {"0"}:
            continue  # so git shows a HEAD whose branch does not exist
        elif name.endswith("^{}"):
            peeled[name.removesuffix("^{}")] = value
        else:
            refs[name] = value
    return RemoteRefs(url, default, refs, peeled)


def _require_full_sha(version: str) -> None:
    if not FULL_SHA.fullmatch(version):
        raise BadLink("Only a full commit SHA, in lower case, names a commit for good.")


def _require_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty.")


# ---- processes


async def _require_git() -> None:
    """Raises `SourceFault` where there is no git, or one that could not be kept to vetted addresses."""
    path = shutil.which("git")
    if path is None:
        raise SourceFault("This Replay has no git and cannot fetch repositories. Tell an administrator of this hub.")
    if path not in _git_versions:
        async with _running(("version",), _environment(None), Path("/")) as process:
            output, _, _ = await _read(process, _MAX_MESSAGES)
        _git_versions[path] = tuple(int(number) for number in re.findall(r"\d+", output)[:2])
    if _git_versions[path] < _OLDEST_GIT:
        raise SourceFault(
            "The git of this Replay is older than 2.37 and cannot be used. Tell an administrator of this hub."
        )


@contextlib.asynccontextmanager
async def _running(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> AsyncGenerator[Process]:
    """A git process in a group of its own; nothing of the group outlives the block, however it is left."""
    process = await asyncio.create_subprocess_exec(
        "git",
        *_ALWAYS,
        *command,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield process
        await process.wait()
    finally:
        if process.returncode is None:
            _end(process)
            await process.communicate()


def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
        os.killpg(process.pid, signal.SIGKILL)


async def _read(process: Process, max_output: int) -> tuple[str, str, bool]:
    """What it prints and what it complains, and whether that is all: a process that prints more is ended."""
    if process.stdout is None or process.stderr is None:
        raise ValueError("The process was started without pipes.")
    output, messages = bytearray(), bytearray()

    async def read_messages(stream: asyncio.StreamReader) -> None:
        while part := await stream.read(65536):
            messages.extend(part)
            del messages[:-_MAX_MESSAGES]

    async with asyncio.TaskGroup() as readers:
        readers.create_task(read_messages(process.stderr))
        while part := await process.stdout.read(65536):
            output.extend(part)
            if len(output) > max_output:
                _end(process)
                break
    whole = len(output) <= max_output
    return output.decode(errors="replace") if whole else "", messages.decode(errors="replace"), whole
