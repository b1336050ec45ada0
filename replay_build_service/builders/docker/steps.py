"""The steps of building an image with repo2docker, as its runner goes through them.

The repository is untrusted. repo2docker reads its files on this machine, so none that it reads may be a link that leads
out of the checkout; everything else of it happens inside the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, cast

import stamina

from replay_build_service.builders.detached.commands import BuildCommands, CommandResult
from replay_build_service.builders.detached.failures import Unbuildable, size
from replay_build_service.builders.detached.folder import BuildFolder
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.detached.sources import fetch_sources
from replay_build_service.builders.detached.trees import remove_tree
from replay_build_service.builders.docker.cgroup import GroupClaim
from replay_build_service.builders.docker.engine import Engine, EngineFault
from replay_build_service.builders.docker.instructions import (
    METADATA_FILE,
    Instructions,
    command_line,
    configuration_text,
)
from replay_build_service.builders.docker.messages import (
    DISK_FULL,
    ENGINE_GONE,
    Ending,
    failure_of,
    has_lost_the_end,
)
from replay_build_service.builders.docker.output import Repo2dockerOutput
from replay_build_service.domain import BuildFailure, FailureReason, Phase

_LOOK = 0.5
"""Seconds between two looks at the disk and the engine."""

_MUCH_TEXT = 1024 * 1024
"""Bytes of a file that repo2docker reads whole."""

_CONFIGURATION_FOLDERS = ("", "binder", ".binder")

_GROUP_SECONDS = 10.0
"""How long the engine may take to end what ran in a build that was ended."""

_READ_WHOLE = frozenset(
    {
        "Dockerfile", ".dockerignore", ".containerignore", "apt.txt", "environment.yml", "environment.yaml", "requirements.txt", "requirements3.txt", "Pipfile",
        "Pipfile.lock", "runtime.txt", "install.R", "DESCRIPTION", "Project.toml", "JuliaProject.toml", "REQUIRE",
        "Manifest.toml", "default.nix", "pyproject.toml", "setup.py", "postBuild", "start",
    }
)  # fmt: skip


_CACHE_MOUNT = re.compile(rb"type\s*=\s*cache", re.IGNORECASE)
"""What an attacker hides of his own is no use to him: the steps have to be the same, so the other's spelling decides."""

_FRONTEND = re.compile(r"^\s*(?:#|//)\s*syntax\s*=\s*(\S*)", re.IGNORECASE | re.MULTILINE)
_DOCKERS_OWN = re.compile(r"(?:docker\.io/)?docker/dockerfile(?::1(?:\.(?:[4-9]|[1-9]\d)(?:\.\d+)?)?(?:-labs)?)?")
"""Docker's own frontend, of a version that keeps to what it is told: control groups came with 1.4. Any other is a program
that decides about limits itself, and a digest could name any."""


@dataclass(frozen=True, slots=True)
class ImageSteps:
    """One build of an image, in its folder."""

    folder: BuildFolder
    instructions: Instructions
    commands: BuildCommands
    environment: Mapping[str, str]
    """The runner's own, which the service has cleaned."""
    claims: list[GroupClaim] = field(default_factory=list[GroupClaim])
    """The control group that this build has, once it has one."""

    @classmethod
    def of(cls, folder: BuildFolder, log: LogWriter) -> Self:
        """The steps that the folder's instructions ask for."""
        job = Instructions.from_json(folder.instructions.read_text(encoding="utf-8"))
        return cls(folder, job, BuildCommands(log, job.output_limit, None), dict(os.environ))

    @property
    def time_limit(self) -> float:
        return self.instructions.time_limit

    @property
    def _metadata(self) -> Path:
        return self.folder.path / METADATA_FILE

    async def build(self) -> str:
        """All steps. The digest of the image's manifest in the registry, or its id in the engine.

        Raises `Unbuildable`, and `OSError` where the disk fails.
        """
        job = self.instructions
        await fetch_sources(
            job.url, job.version, self.folder.source, job.outgoing_rules, job.repository_limit, self.commands.log
        )
        await asyncio.to_thread(check_checkout, self.folder.source)
        self.commands.log.enter(Phase.BUILDING, "Building the image.")
        configuration = self.folder.path / "repo2docker_config.py"
        configuration.write_text(configuration_text(job, str(self._metadata), self._make_group()), encoding="utf-8")
        output = Repo2dockerOutput(self.commands.log)
        steps_of = await asyncio.to_thread(self._whose_steps)
        # Where the files of its own Dockerfile are is that Dockerfile's business.
        top_level = await asyncio.to_thread(os.listdir, self.folder.source) if steps_of is None else None
        source = str(self.folder.source)
        command = command_line(job, str(configuration), source, steps_of=steps_of, top_level=top_level)
        result = await self._watched(self.commands.run(command, self.folder.home, self.environment, output))
        if result.status != 0 and has_lost_the_end(result.last_lines):
            # The steps are done, so this goes quickly and says little.
            self.commands.log.lines(["The end of the output was lost. The engine is asked for the image once more."])
            output = Repo2dockerOutput(self.commands.log)
            result = await self._watched(self.commands.run(command, self.folder.home, self.environment, output))
        if result.status != 0:
            raise _unbuildable(await self._why(result, output))
        return await self._digest()

    def _whose_steps(self) -> str | None:
        """Whose the steps of this build are and no other's; ``None`` for those that buildpacks write, which are everybody's.

        A commit's own where it keeps caches, since a host may serve a fork's commits as the repository's.
        """
        job = self.instructions
        files = [self.folder.source / folder / "Dockerfile" for folder in _CONFIGURATION_FOLDERS]
        texts = [file.read_bytes() for file in files if file.is_file()]
        if any(_CACHE_MOUNT.search(text) for text in texts):
            return f"{job.repository} {job.version}"
        return job.repository if texts else None

    def _make_group(self) -> str | None:
        job = self.instructions
        if job.cgroup_parent is not None:
            return job.cgroup_parent
        if job.memory_limit is None and job.process_limit is None:
            return None
        claim = GroupClaim.first_free()
        self.claims.append(claim)
        claim.group.create(job.memory_limit, job.process_limit)
        return claim.group.engine_name

    async def _watched(self, running: Awaitable[CommandResult]) -> CommandResult:
        """Runs it to its end, or to where the build has filled the disk. Raises `Unbuildable`."""
        job = self.instructions
        task = asyncio.ensure_future(running)
        try:
            before = _free(job.data_root)
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK)
                free = _free(job.data_root)
                if before is None or free is None or task.done():
                    continue
                if free < job.free_disk:
                    raise _unbuildable(DISK_FULL)
                if job.disk_limit is not None and before - free > job.disk_limit:
                    raise Unbuildable(
                        FailureReason.DISK,
                        f"The build wrote more than {size(job.disk_limit)} to the disk, which is the limit here, "
                        "and was ended.",
                    )
            return await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})

    async def _why(self, result: CommandResult, output: Repo2dockerOutput) -> BuildFailure:
        job = self.instructions
        ending = Ending(result.last_lines, output.error, output.is_pushing, await self._engine_answers())
        if any(claim.group.has_hit_memory() for claim in self.claims):
            ending = replace(ending, memory_limit=job.memory_limit)
        if any(claim.group.has_hit_processes() for claim in self.claims):
            ending = replace(ending, process_limit=job.process_limit)
        return failure_of(ending)

    async def _engine_answers(self) -> bool:
        try:
            async with Engine(self.instructions.engine) as engine:
                await engine.info()
        except EngineFault:
            return False
        return True

    async def _digest(self) -> str:
        """What BuildKit says that it made: nobody else's image, whatever was pushed by that name meanwhile."""
        try:
            told = cast("dict[str, object]", json.loads(self._metadata.read_text(encoding="utf-8")))
            manifest = str(told["containerimage.digest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unbuildable(ENGINE_GONE) from error
        if self.instructions.push:
            return manifest
        # An engine knows its images by their configuration, or by their manifest where containerd keeps them.
        configuration = str(told.get("containerimage.config.digest", manifest))
        try:
            async with Engine(self.instructions.engine) as engine:
                async for attempt in stamina.retry_context(on=EngineFault, attempts=3, wait_initial=1.0, timeout=None):
                    with attempt:
                        return configuration if await engine.image(configuration) is not None else manifest
        except EngineFault as error:
            raise _unbuildable(ENGINE_GONE) from error
        raise AssertionError("the attempts end with an answer or an error")

    def clear(self, *, has_failed: bool) -> None:
        """The sources are in the image; what else is here was for the build alone."""
        deadline = time.monotonic() + _GROUP_SECONDS
        while any(claim.group.has_processes() for claim in self.claims) and time.monotonic() < deadline:
            time.sleep(0.02)  # The engine ends them as soon as nobody asks for the build any more, and tells nobody.
        for claim in self.claims:
            claim.group.remove()
            claim.release()
        for part in (self.folder.source, self.folder.home, self.folder.temporary):
            with suppress(OSError):
                remove_tree(part)


def check_checkout(root: Path) -> None:
    """That what repo2docker reads on this machine lies in the checkout and is not enormous. Raises `Unbuildable`."""
    inside = root.resolve()
    for folder in _CONFIGURATION_FOLDERS:
        path = root / folder
        if path.is_symlink() and not _lies_in(path, inside):
            raise _leads_out(folder)
        if not path.is_dir():
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                _check_entry(entry, f"{folder}/{entry.name}" if folder else entry.name, inside)


def _check_entry(entry: os.DirEntry[str], name: str, root: Path) -> None:
    if entry.is_symlink() and not _lies_in(Path(entry.path), root):
        raise _leads_out(name)
    if entry.name in _READ_WHOLE and entry.is_file() and (much := entry.stat().st_size) > _MUCH_TEXT:
        raise Unbuildable(
            FailureReason.CANNOT_BUILD, f"{name} is {much:,} bytes long; at most 1 MB is read of such a file."
        )
    if entry.name == "Dockerfile.rego":
        # buildx runs it by itself, on this machine and without limits.
        raise Unbuildable(
            FailureReason.CANNOT_BUILD,
            f"{name} is a policy for builds, which is not run here. Leave it out of the repository.",
        )
    if entry.name == "Dockerfile" and entry.is_symlink():
        # The engine has another root than we, so the link would lead it to another file than the one looked at here.
        raise Unbuildable(
            FailureReason.CANNOT_BUILD, f"{name} is a link, which is not followed. Put the file itself there."
        )
    if entry.name == "Dockerfile" and entry.is_file():
        _check_frontend(Path(entry.path).read_bytes().decode("utf-8-sig", errors="replace"), name)


def _check_frontend(text: str, name: str) -> None:
    """BuildKit runs whatever image ``# syntax=`` names, outside the limits of a build.

    As it looks for one (its ``parser/directives.go``): behind a first line with ``#!``, in comments, or in JSON.
    """
    if text.startswith("#!"):
        text = text.partition("\n")[2]
    if text.lstrip().startswith("{") or any(not _DOCKERS_OWN.fullmatch(found) for found in _FRONTEND.findall(text)):
        raise Unbuildable(
            FailureReason.CANNOT_BUILD,
            f"{name} asks for a frontend (“syntax=”) that is not run here. Leave that line out, or name "
            "docker/dockerfile:1.",
        )


def _lies_in(path: Path, root: Path) -> bool:
    try:
        with suppress(FileNotFoundError):
            path.stat()
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links, by one or the other in each version of Python
        return False


def _leads_out(name: str) -> Unbuildable:
    return Unbuildable(
        FailureReason.CANNOT_BUILD,
        f"{name} is a link that leads out of the repository, so it is not read. Put the file into the repository.",
    )


def _unbuildable(failure: BuildFailure) -> Unbuildable:
    return Unbuildable(failure.reason, failure.message)


def _free(folder: str | None) -> int | None:
    """Bytes that are free on the disk of a folder; ``None`` where it is not on this machine."""
    if folder is None:
        return None
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
