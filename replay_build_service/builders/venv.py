"""The builder of a machine without a container engine: environments of Python packages, made by uv.

It isolates nothing: a build and its sessions run as whoever runs the service. Each build is a detached process with a
folder of its own (`build_folder`), so this class holds no state that a restart could lose. What the process does is in
`venv_runner` and `venv_steps`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from replay_build_service.builders.base import LogChunk, RunningBuild, SessionCommand
from replay_build_service.builders.build_folder import REFERENCE_PREFIX, BuildFolder, Instructions, write_whole
from replay_build_service.builders.build_log import read_chunk
from replay_build_service.builders.processes import (
    UNKNOWN_PROCESS,
    end_tree,
    is_running,
    launch_detached,
    reap_children,
    request_end,
    wait_gone,
)
from replay_build_service.builders.tree_digest import remove_tree
from replay_build_service.builders.venv_runner import CANCELLED, KILLED, disk_failure, time_limit_failure
from replay_build_service.builders.venv_session import session_environment
from replay_build_service.domain import BuildFailure, BuildId, BuildJob, BuildRecipe, RunnableImage
from replay_build_service.outgoing import OutgoingRules

log = logging.getLogger(__name__)

_FORMAT = "1"
"""Changes when the same inputs make another environment because this code changed."""

_POLL = 0.05
"""Seconds between two looks at a log that has nothing new."""

_START_TIMEOUT = 30.0
_CANCEL_GRACE = 3.0
_BACKSTOP = 15.0
"""Seconds over its time limit after which a runner that has not ended its build by itself is ended from here."""

_OUTCOME_SETTINGS = ("UV_EXCLUDE_NEWER", "UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION")
"""Of the administrator's environment, those that decide which versions are installed and are no secret."""

_DOOMED = ".removing-"
"""What the name of a folder begins with that is being removed. No build's name does."""

_RUNNER = "replay_build_service.builders.venv_runner"
_ROOT = Path(__file__).resolve().parents[2]
"""Where this package lies, so that the runner is the same code."""


def running_version() -> str:
    """``3.12``: the Python that this process runs on."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class VenvBuilderSettings:
    """What an administrator decides. Times in seconds, sizes in bytes."""

    builds_dir: Path
    """A folder for each build; the environments stay there, as they run where they were made."""
    cache_dir: Path | None = None
    """uv's cache of downloads; ``None``: ``.uv-cache`` in ``builds_dir``."""
    pythons_dir: Path | None = None
    """Where downloaded interpreters go; ``None``: ``.pythons`` in ``builds_dir``."""
    python_downloads: bool = False
    """Whether uv may download an interpreter that is not on the machine."""
    default_python: str = field(default_factory=running_version)
    """``3.12``: the version for a repository that names none."""
    base_requirements: tuple[str, ...] = ("pip", "jupyterlab", "jupyterhub>=5,<7")
    """Installed into every environment, in one resolution with what the repository asks for. pip is for its sessions."""
    time_limit: float = 1800.0
    output_limit: int = 50_000_000
    memory_limit: int | None = None
    """Address space of each single program of a build. Not the memory of a build as a whole."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """For every program of a build, which is a stranger's: proxies, certificates, package indexes. It is no place for secrets."""
    outgoing: OutgoingRules = field(default_factory=OutgoingRules)
    """What may be fetched from where."""
    uv: str = field(default_factory=find_uv_bin)


class VenvBuilder:
    """Makes environments with uv. Implements `Builder`."""

    def __init__(self, settings: VenvBuilderSettings) -> None:
        """Asks uv for its version, blocking for some milliseconds. Raises `OSError` where there is no uv."""
        self.settings = settings
        asked = subprocess.run([settings.uv, "--version"], capture_output=True, text=True, check=False, timeout=30)
        parameters = {
            "format": _FORMAT,
            "uv": asked.stdout.split("(")[0].strip(),
            "base_requirements": "\n".join(settings.base_requirements),
            "default_python": settings.default_python,
            "python_downloads": str(settings.python_downloads),
            "platform": f"{sys.platform}-{platform.machine()}",
        }
        parameters |= {name: settings.environment[name] for name in _OUTCOME_SETTINGS if name in settings.environment}
        self._recipe = BuildRecipe("venv", tuple(sorted(parameters.items())))

    @property
    def recipe(self) -> BuildRecipe:
        return self._recipe

    async def start(self, job: BuildJob) -> RunningBuild:
        """Starts the build, or attaches to it where it was started before; returns once its runner has claimed it.

        Where it cannot be started, the outcome of what is returned says why.
        """
        folder = self._folder(job.build_id)
        if folder.read_process() is None and folder.read_exit() is None:
            try:
                await asyncio.to_thread(self._prepare, folder, job)
                await self._launch(folder)
            except OSError as error:
                return _FailedBuild(disk_failure(error))
        return _VenvBuild(folder, self.settings.time_limit)

    def _folder(self, build_id: BuildId) -> BuildFolder:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", build_id) is None:
            raise ValueError(f"{build_id!r} cannot be the name of a folder.")
        return BuildFolder(self.settings.builds_dir.resolve() / build_id)

    def _prepare(self, folder: BuildFolder, job: BuildJob) -> None:
        settings = self.settings
        for path in (folder.path, folder.home, folder.temporary, self._cache_dir, self._pythons_dir):
            path.mkdir(parents=True, exist_ok=True)
        instructions = Instructions(
            url=job.resolved.fetch_url,
            version=job.resolved.version,
            outgoing_rules=settings.outgoing.to_json(),
            uv=settings.uv,
            base_requirements=settings.base_requirements,
            default_python=settings.default_python,
            python_downloads=settings.python_downloads,
            time_limit=settings.time_limit,
            output_limit=settings.output_limit,
            memory_limit=settings.memory_limit,
        )
        write_whole(folder.instructions, instructions.to_json())

    @property
    def _cache_dir(self) -> Path:
        return (self.settings.cache_dir or self.settings.builds_dir / ".uv-cache").resolve()

    @property
    def _pythons_dir(self) -> Path:
        return (self.settings.pythons_dir or self.settings.builds_dir / ".pythons").resolve()

    def _environment(self, folder: BuildFolder) -> dict[str, str]:
        """All that the runner and what it starts get to see: nothing of this process but where programs are."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "UV_PYTHON_INSTALL_DIR": str(self._pythons_dir),
            **self.settings.environment,
            "UV_CACHE_DIR": str(self._cache_dir),
            "HOME": str(folder.home),
            "TMPDIR": str(folder.temporary),
        }

    async def _launch(self, folder: BuildFolder) -> None:
        """Raises `OSError` where no runner can be started."""
        command = (sys.executable, "-m", _RUNNER, str(folder.path))
        child = await asyncio.to_thread(
            launch_detached,
            command,
            folder=_ROOT,
            environment=self._environment(folder),
            output=folder.runner_output,
        )
        deadline = time.monotonic() + _START_TIMEOUT
        while folder.read_process() is None and folder.read_exit() is None:
            reap_children()
            if child.returncode is not None or time.monotonic() > deadline:
                raise OSError(0, "its process did not start", str(folder.runner_output))
            await asyncio.sleep(0.01)

    async def exists(self, image: RunnableImage) -> bool:
        """Whether the image is whole and can be run now. Looks at a handful of files."""
        return await asyncio.to_thread(self._exists, image)

    def _exists(self, image: RunnableImage) -> bool:
        folder = BuildFolder(Path(image.location))
        record = folder.read_image()
        return (
            record is not None
            and image.reference == f"{REFERENCE_PREFIX}{record.digest}"
            # Follows the link to the interpreter, which may have been removed from the machine.
            and all(os.access(folder.path / name, os.X_OK) for name in record.executables)
        )

    async def discard(self, job: BuildJob) -> None:
        """Removes all that the build has left. Ends what still runs of it. Raises `OSError`."""
        await asyncio.to_thread(self._remove, self._folder(job.build_id))

    async def sweep(self, known: Collection[BuildId]) -> list[BuildId]:
        """Removes the folders of builds that nobody knows, and says which. Raises `OSError` where there is no looking.

        A folder that cannot be removed is logged and left for the next time.
        """
        return await asyncio.to_thread(self._sweep, frozenset(known))

    def _sweep(self, known: frozenset[BuildId]) -> list[BuildId]:
        if not self.settings.builds_dir.is_dir():
            return []
        removed: list[BuildId] = []
        for path in sorted(self.settings.builds_dir.resolve().iterdir()):
            folder = BuildFolder(path)
            try:
                if path.name.startswith(_DOOMED):
                    remove_tree(path)
                elif path.name not in known and folder.instructions.exists():
                    self._remove(folder)
                else:
                    continue
            except Exception:
                # What a stranger's build left must not keep the others, let alone the service, from going on.
                log.exception("Could not remove %s; the next start tries again", path)
            else:
                removed.append(BuildId(path.name.removeprefix(_DOOMED)))
        return removed

    def _remove(self, folder: BuildFolder) -> None:
        with suppress(FileNotFoundError):
            folder.path.chmod(0o700)  # Its build may have locked it, and then nothing in it could be read.
        _end(folder, CANCELLED, grace=0.0)
        # Out of the way first, and as a whole: a folder that is half removed would look like a build.
        doomed = folder.path.with_name(f"{_DOOMED}{folder.path.name}")
        remove_tree(doomed)
        if folder.path.exists():
            folder.path.rename(doomed)
            remove_tree(doomed)

    def session(self, image: RunnableImage) -> SessionCommand:
        """How a server is started from this image. ``{home}`` in the environment stands for the session's own home."""
        folder = BuildFolder(Path(image.location))
        name = image.reference.removeprefix(REFERENCE_PREFIX)[:12]
        return SessionCommand(
            command=[str(folder.session_start)],
            environment=session_environment(folder.environment, name),
            source=str(folder.source),
        )


@dataclass(frozen=True, slots=True)
class _FailedBuild:
    """A build that did not even start."""

    failure: BuildFailure

    async def follow(self, position: int) -> AsyncIterator[LogChunk]:
        return
        yield

    async def outcome(self) -> RunnableImage | BuildFailure:
        return self.failure

    async def cancel(self) -> None:
        """It has ended."""


@dataclass(frozen=True, slots=True)
class _VenvBuild:
    """A build that was started, known by its folder alone."""

    folder: BuildFolder
    time_limit: float

    async def follow(self, position: int) -> AsyncIterator[LogChunk]:
        while True:
            # Asked before reading: what was written before the end is then read before this returns.
            has_ended = await asyncio.to_thread(self._has_ended)
            while (chunk := await asyncio.to_thread(read_chunk, self.folder.log, position)).position > position:
                position = chunk.position
                if chunk.records:
                    yield chunk
            if has_ended:
                return
            await asyncio.sleep(_POLL)

    async def outcome(self) -> RunnableImage | BuildFailure:
        return await asyncio.to_thread(_end, self.folder, KILLED, 0.0)

    async def cancel(self) -> None:
        await asyncio.to_thread(_end, self.folder, CANCELLED, _CANCEL_GRACE)

    def _has_ended(self) -> bool:
        """Whether there is an end on record, or nobody left to make one. Ends a runner that is long over its time."""
        identity = self.folder.read_process()
        if identity is None or self.folder.exit.exists() or not is_running(identity):
            return True
        if time.time() - identity.created > self.time_limit + _BACKSTOP:
            _end(self.folder, time_limit_failure(self.time_limit), grace=0.0)
            return True
        return False


def _end(folder: BuildFolder, failure: BuildFailure, grace: float) -> RunnableImage | BuildFailure:
    """How the build ended. One that has not is ended, with everything of it, and that is its end. Blocking.

    With ``grace``, its runner has that many seconds to end it in good order, so that its log says so.
    """
    identity = folder.read_process()
    if folder.read_exit() is None and folder.path.exists():
        if identity is not None:
            if grace and is_running(identity):
                folder.cancel_request.touch()
                request_end(identity)
                wait_gone(identity, grace)
            if folder.read_exit() is None:
                end_tree(identity, folder.path)
        elif folder.process.exists():
            end_tree(UNKNOWN_PROCESS, folder.path)
        folder.write_exit(failure)
    if identity is not None and not wait_gone(identity, _CANCEL_GRACE):
        end_tree(identity, folder.path)
    return folder.read_exit() or failure
