"""git as a guarded subprocess: what it is told, what it may do, what it says, and how it ends.

git itself speaks the protocol, because it is what every server is tested against. What it may do is narrowed: nothing
from the machine's or the user's configuration, no prompt, no credential, no hook, no filter, no transport but HTTP(S),
no redirect that was not looked at, and a connection to exactly the addresses that `outgoing.vet` checked
(``http.curloptResolve``, git 2.37; an older git is refused, because it would ignore that setting and ask DNS again).
Each command runs in a process group of its own, which ends with the call, and has no more memory than `MAX_MEMORY`:
what it unpacks is strangers' data, and a few kilobytes of that can stand for more than any machine has.

This room runs one git command and reads its answer. Which commands make up a question, and when one is asked again,
is the business of `git`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from replay_build_service.errors import RefNotFound, Refused, RepositoryNotFound, SourceFault
from replay_build_service.outgoing import Origin, OutgoingRules, VettedOrigin, certificate_file

__all__ = [
    "Count",
    "Moved",
    "NotBySha",
    "connection_options",
    "count_local",
    "improper_answer",
    "no_repository",
    "require_git",
    "run_local",
    "run_remote",
    "too_many_refs",
    "unanswered",
    "without_scheme",
]

logger = logging.getLogger(__name__)

MAX_MEMORY = 4_000_000_000
"""Bytes that each process of git may have for itself. git holds whole files up to half a gigabyte, and a few at a time."""
_WITH_MEMORY_LIMIT = 'ulimit -d "$0" && exec git "$@"'
"""For a POSIX shell, with KiB as ``$0``. Not the address space (``-v``): git maps its packs, which may be of any size."""

_MAX_MESSAGES = 64 * 1024
"""Bytes of what git complains that are kept, the last ones; a local command may print as many."""
_SILENCE = 60
"""Seconds without a byte after which git itself gives up, so that it ends even where this process was killed."""

_OLDEST_GIT = (2, 37)
_git_versions: dict[str, tuple[int, ...]] = {}
"""Of the git that is found in a search path."""


class Moved(Exception):
    """The server answered with a redirect, which git was told not to follow."""


class NotBySha(Exception):
    """The server hands out advertised commits only (git's protocol before version 2)."""


@dataclass(frozen=True, slots=True)
class Count:
    """How much a command printed. Of one that was ended at a limit, more than that limit."""

    records: int
    size: int
    """Bytes."""


async def require_git() -> None:
    """Raises `SourceFault` where there is no git, or one that could not be kept to vetted addresses."""
    places = os.environ.get("PATH", os.defpath)
    if places not in _git_versions:
        if shutil.which("git", path=places) is None:
            raise SourceFault(
                "This Replay has no git and cannot fetch repositories. Tell an administrator of this hub."
            )
        async with _running(("version",), _environment(None), Path("/")) as process:
            output, _, _ = await _read(process, _MAX_MESSAGES)
        _git_versions[places] = tuple(int(number) for number in re.findall(r"\d+", output)[:2])
    if _git_versions[places] < _OLDEST_GIT:
        raise SourceFault(
            "The git of this Replay is older than 2.37 and cannot be used. Tell an administrator of this hub."
        )


async def run_remote(
    command: Sequence[str],
    address: str,
    rules: OutgoingRules,
    *,
    folder: Path | None = None,
    max_output: int = _MAX_MESSAGES,
) -> str:
    """What a command that asks the server at ``address`` prints; ``max_output`` in bytes.

    ``command`` begins with the `connection_options` for that address; ``folder`` is the repository that it works in.

    Raises `Moved` and `NotBySha` for whoever can ask otherwise, and `RepositoryNotFound`, `RefNotFound`, `Refused` (too
    much output, or a server without git's smart protocol) and `SourceFault`.
    """
    # Without a repository of its own, git must not take up one (and its configuration) from where this process stands.
    environment = _environment(rules) | ({"GIT_DIR": os.devnull} if folder is None else {})
    async with _running(command, environment, folder or Path("/")) as process:
        output, messages, whole = await _read(process, max_output)
    if not whole:
        raise too_many_refs(address, max_output)
    if process.returncode == 0:
        return output
    logger.info("git failed for %s: %r", address, messages[-2000:])
    raise _failure(messages, address)


async def run_local(folder: Path, *command: str) -> str | None:
    """What a command that asks nobody prints; ``None`` where it fails. Raises `Refused` where memory was not enough."""
    async with _running(command, _environment(None), folder) as process:
        output, messages, whole = await _read(process, _MAX_MESSAGES)
    if process.returncode == 0 and whole:
        return output
    _log_local_failure(command, messages)
    return None


async def count_local(folder: Path, *command: str, max_records: int, max_output: int) -> Count | None:
    """How many records, each with a NUL at its end, a command prints that asks nobody; ``None`` where it fails.

    Nothing of them is kept, and the command is ended where there are more records, or bytes, than these. Raises
    `Refused` where memory was not enough.
    """
    records, size = 0, 0

    def take(part: bytes) -> bool:
        nonlocal records, size
        records += part.count(0)
        size += len(part)
        return records <= max_records and size <= max_output

    async with _running(command, _environment(None), folder) as process:
        messages, whole = await _hand_over(process, take)
    if process.returncode == 0 or not whole:
        return Count(records, size)
    _log_local_failure(command, messages)
    return None


def _log_local_failure(command: Sequence[str], messages: str) -> None:
    """Raises `Refused` where it failed for want of memory."""
    logger.info("git %s failed: %r", command[0], messages[-2000:])
    if _OUT_OF_MEMORY.search(messages):
        raise _too_large()


# ---- what git is told


def connection_options(origin: VettedOrigin, rules: OutgoingRules) -> tuple[str, ...]:
    """What keeps git's connections to the addresses that were vetted, or to the proxy that resolves the name."""
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


# ---- what git says

_OUT_OF_MEMORY = re.compile(
    r"^(?:fatal|error): (?!remote error)[^'\n]*(?:out of memory|cannot allocate memory)", re.IGNORECASE | re.MULTILINE
)
"""As git, zlib and the C library say it; not what a server says, and no name of a file."""


def _too_large() -> Refused:
    return Refused(
        f"To unpack the repository takes more than {MAX_MEMORY / 10**9:.3g} GB of memory, which is the limit here. "
        "Keep large data elsewhere, and fetch it from the notebook."
    )


def _failure(messages: str, address: str) -> Exception:
    said = [line for line in messages.splitlines() if line.startswith(("fatal: ", "error: "))]
    text = "\n".join(said)
    name, host = without_scheme(address), Origin.of_url(address).host
    status = re.search(r"The requested URL returned error: (\d{3})", text)
    match status and int(status[1]):
        case 301 | 302 | 303 | 307 | 308:
            return Moved()
        case 401 | 404 | 410:
            return no_repository(address)
        case int(code):
            return improper_answer(address, code)
        case None:
            pass
    if "not our ref" in text or "couldn't find remote ref" in text:
        return RefNotFound(f"The repository {name} has no such commit.")
    if "unadvertised object" in text:
        return NotBySha()
    if _OUT_OF_MEMORY.search(text):
        return _too_large()
    if "dumb http transport" in text:
        return Refused(f"{host} serves {name} as plain files. Replay needs a server that speaks git's smart protocol.")
    if re.search(
        r"could not read Username|Authentication failed|repository '.*' not found|is this a git repository", text
    ):
        return no_repository(address)
    return unanswered(address)


def no_repository(address: str) -> RepositoryNotFound:
    """For a server that says so, or asks who wants to know."""
    return RepositoryNotFound(
        f"There is no public repository at {without_scheme(address)}. It is gone, private or misspelt."
    )


def improper_answer(address: str, status: int) -> SourceFault:
    """For an HTTP status that says nothing of the repository."""
    return SourceFault(
        f"{Origin.of_url(address).host} did not answer properly for {without_scheme(address)} (HTTP {status}). Try again later."
    )


def unanswered(address: str) -> SourceFault:
    """For a server that was not reached, or not heard to the end."""
    return SourceFault(
        f"{Origin.of_url(address).host} could not be asked for {without_scheme(address)}. Try again later."
    )


def too_many_refs(address: str, most: int) -> Refused:
    """For a list of more than ``most`` bytes."""
    return Refused(
        f"{without_scheme(address)} lists more than {most // (1024 * 1024)} MB of branches and tags. Use a full commit SHA instead."
    )


def without_scheme(url: str) -> str:
    """An address as sentences name it: ``example.org/owner/name``."""
    return url.partition("://")[2].removesuffix("/")


# ---- the process


@contextlib.asynccontextmanager
async def _running(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> AsyncGenerator[Process]:
    """A git process in a group of its own; nothing of the group outlives the block, however it is left."""
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _WITH_MEMORY_LIMIT,
            str(_memory_limit() // 1024),
            *_ALWAYS,
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    )
    try:
        # Interrupted as it starts a process, asyncio would end that one alone, and not what it has started already.
        process = await asyncio.shield(starting)
        yield process
        await process.wait()
    finally:
        process = await starting
        if process.returncode is None:
            _end(process)
            await process.communicate()


def _memory_limit() -> int:
    """Bytes. A limit that this process has itself stays: nobody may raise that, and the shell would not go on."""
    own, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return MAX_MEMORY if own == resource.RLIM_INFINITY else min(MAX_MEMORY, own)


def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
        os.killpg(process.pid, signal.SIGKILL)


async def _read(process: Process, max_output: int) -> tuple[str, str, bool]:
    """What it prints and what it complains, and whether that is all: a process that prints more is ended."""
    output = bytearray()

    def take(part: bytes) -> bool:
        output.extend(part)
        return len(output) <= max_output

    messages, whole = await _hand_over(process, take)
    return output.decode(errors="replace") if whole else "", messages, whole


async def _hand_over(process: Process, take: Callable[[bytes], bool]) -> tuple[str, bool]:
    """What it complains, and whether all that it prints was taken: a process is ended where ``take`` says False."""
    if process.stdout is None or process.stderr is None:
        raise ValueError("The process was started without pipes.")
    messages = bytearray()

    async def read_messages(stream: asyncio.StreamReader) -> None:
        while part := await stream.read(65536):
            messages.extend(part)
            del messages[:-_MAX_MESSAGES]

    whole = True
    async with asyncio.TaskGroup() as readers:
        readers.create_task(read_messages(process.stderr))
        while part := await process.stdout.read(65536):
            if whole and not take(part):
                whole = False
                _end(process)  # and what is in the pipe is read and dropped
    return messages.decode(errors="replace"), whole
