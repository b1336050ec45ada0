"""The builder of a machine without a container engine: environments of Python packages, made by uv.

It isolates nothing: a build and its sessions run as whoever runs the service. Each build is a detached process with a
folder of its own (`builders.detached`), so this class holds no state that a restart could lose. What the process does is
in `steps`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from replay_build_service.builders.base import RunningBuild, SessionCommand
from replay_build_service.builders.detached.build import (
    DetachedBuild,
    FailedBuild,
    folder_path,
    launch_runner,
    remove_build,
    sweep_folders,
)
from replay_build_service.builders.detached.failures import disk_failure
from replay_build_service.builders.detached.folder import write_whole
from replay_build_service.builders.detached.sources import recipe_parameters
from replay_build_service.builders.venv.folder import REFERENCE_PREFIX, EnvironmentFolder, Instructions
from replay_build_service.builders.venv.session import session_environment
from replay_build_service.domain import BuildFailure, BuildId, BuildJob, BuildRecipe, RunnableImage
from replay_build_service.outgoing import OutgoingRules

_FORMAT = "1"
"""Changes when the same inputs make another environment because this code changed."""

_OUTCOME_SETTINGS = ("UV_EXCLUDE_NEWER", "UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION")
"""Of the administrator's environment, those that decide which versions are installed and are no secret."""

_RUNNER = "replay_build_service.builders.venv.runner"


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
    repository_limit: int = 2_000_000_000
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
        parameters |= recipe_parameters(settings.outgoing)
        self._recipe = BuildRecipe("venv", tuple(sorted(parameters.items())))

    @property
    def recipe(self) -> BuildRecipe:
        return self._recipe

    async def start(self, job: BuildJob, cache_from: Sequence[RunnableImage] = ()) -> RunningBuild:
        """Starts the build, or attaches to it where it was started before; returns once its runner has claimed it.

        Where it cannot be started, the outcome of what is returned says why.
        """
        folder = self._folder(job.build_id)
        if folder.read_process() is None and folder.read_exit() is None:
            try:
                await asyncio.to_thread(self._prepare, folder, job)
                await launch_runner(folder, _RUNNER, self._environment(folder))
            except OSError as error:
                return FailedBuild(disk_failure(error))
        return _VenvBuild(folder, self.settings.time_limit)

    def _folder(self, build_id: BuildId) -> EnvironmentFolder:
        return EnvironmentFolder(folder_path(self.settings.builds_dir, build_id))

    def _prepare(self, folder: EnvironmentFolder, job: BuildJob) -> None:
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
            repository_limit=settings.repository_limit,
            memory_limit=settings.memory_limit,
        )
        write_whole(folder.instructions, instructions.to_json())

    @property
    def _cache_dir(self) -> Path:
        return (self.settings.cache_dir or self.settings.builds_dir / ".uv-cache").resolve()

    @property
    def _pythons_dir(self) -> Path:
        return (self.settings.pythons_dir or self.settings.builds_dir / ".pythons").resolve()

    def _environment(self, folder: EnvironmentFolder) -> dict[str, str]:
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

    async def exists(self, image: RunnableImage, *, thoroughly: bool = False) -> bool:
        """Whether the image is whole and can be run now. Looks at a handful of files."""
        return await asyncio.to_thread(self._exists, image)

    def _exists(self, image: RunnableImage) -> bool:
        folder = EnvironmentFolder(Path(image.location))
        record = folder.read_image()
        return (
            record is not None
            and image.reference == f"{REFERENCE_PREFIX}{record.digest}"
            # Follows the link to the interpreter, which may have been removed from the machine.
            and all(os.access(folder.path / name, os.X_OK) for name in record.executables)
        )

    async def discard(self, job: BuildJob) -> None:
        """Removes all that the build has left. Ends what still runs of it. Raises `OSError`."""
        await asyncio.to_thread(remove_build, self._folder(job.build_id))

    async def tidy(self, job: BuildJob) -> None:
        """The environment stays where it was made, and with it the few files of its build."""

    async def sweep(self, running: Collection[BuildId], kept: Collection[BuildId]) -> list[BuildId]:
        """Removes the folders of builds that nobody knows, and says which. Raises `OSError` where there is no looking.

        A folder that cannot be removed is logged and left for the next time.
        """
        return await asyncio.to_thread(sweep_folders, self.settings.builds_dir, {*running, *kept})

    async def session(self, image: RunnableImage) -> SessionCommand:
        """How a server is started from this image. ``{home}`` in the environment stands for the session's own home."""
        folder = EnvironmentFolder(Path(image.location))
        name = image.reference.removeprefix(REFERENCE_PREFIX)[:12]
        return SessionCommand(
            command=[str(folder.session_start)],
            environment=session_environment(folder.environment, name),
            source=str(folder.source),
        )


@dataclass(frozen=True, slots=True)
class _VenvBuild(DetachedBuild):
    """A build that was started."""

    folder: EnvironmentFolder

    async def outcome(self) -> RunnableImage | BuildFailure:
        digest = await self.digest()
        return digest if isinstance(digest, BuildFailure) else self.folder.runnable(digest)
