"""The steps of making an environment with uv, as its runner goes through them.

Everything that a repository brings is untrusted: uv reads no configuration of it, no step runs in a folder whose
files could change what the step does, and whatever it prints goes through the log's filter.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from replay_build_service.builders.detached.commands import BuildCommands, capture
from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.venv.folder import EnvironmentFolder, ImageRecord, Instructions
from replay_build_service.builders.venv.interpreters import (
    choose_interpreter,
    parse_interpreters,
    refusal,
    requested_of_uv,
)
from replay_build_service.builders.venv.repository_files import (
    EnvironmentRequest,
    PythonRequest,
    check_depth,
    read_checkout,
)
from replay_build_service.builders.detached.sources import fetch_sources
from replay_build_service.builders.detached.trees import protect_tree, remove_tree, tree_digest
from replay_build_service.builders.venv.uv_messages import failure_of_install, memory_hint
from replay_build_service.builders.venv.session import session_start_script
from replay_build_service.domain import FailureReason, Phase


@dataclass(frozen=True, slots=True)
class _ChosenPython:
    for_uv: str
    """A path, or the versions of which uv is to download one."""
    if_it_fails: str
    """The sentence for the person where uv makes no environment with it."""


@dataclass(frozen=True, slots=True)
class EnvironmentSteps:
    """One build of an environment, in its folder."""

    folder: EnvironmentFolder
    instructions: Instructions
    commands: BuildCommands
    environment: Mapping[str, str]
    """The runner's own, which the service has cleaned."""

    @classmethod
    def of(cls, folder: EnvironmentFolder, log: LogWriter) -> Self:
        """The steps that the folder's instructions ask for."""
        job = Instructions.from_json(folder.instructions.read_text(encoding="utf-8"))
        return cls(folder, job, BuildCommands(log, job.output_limit, job.memory_limit), dict(os.environ))

    @property
    def time_limit(self) -> float:
        return self.instructions.time_limit

    def clear(self, *, has_failed: bool) -> None:
        """Of a failed build all goes: it is of no use, and on a full disk in the way of saying so."""
        if not has_failed:
            return
        folder = self.folder
        folder.image.unlink(missing_ok=True)
        for part in (folder.environment, folder.source, folder.home, folder.temporary):
            with suppress(OSError):
                remove_tree(part)

    async def build(self) -> str:
        """All steps, up to ``image.json``. Raises `Unbuildable`, and `OSError` where the disk fails."""
        job = self.instructions
        await fetch_sources(
            job.url, job.version, self.folder.source, job.outgoing_rules, job.repository_limit, self.commands.log
        )
        request = read_checkout(self.folder.source)
        self.commands.log.enter(Phase.BUILDING, _announcement(request))
        python = await self._choose_python(request.python)
        await self._make_environment(python)
        await self._install(request)
        if request.post_build is not None:
            await self._post_build(request.post_build)
        return (await asyncio.to_thread(self._finish)).digest

    async def _choose_python(self, request: PythonRequest | None) -> _ChosenPython:
        job = self.instructions
        status, output = await capture(
            self._uv("python", "list", "--only-installed", "--output-format", "json"),
            self.folder.home,
            self.environment,
        )
        if status != 0:
            raise Unbuildable(FailureReason.INTERNAL, "uv could not list the Pythons of this machine. Try again later.")
        installed = parse_interpreters(output)
        chosen = choose_interpreter(request, installed, job.default_python)
        if chosen is not None:
            wanted = request.wording if request is not None else f"Python {job.default_python}"
            return _ChosenPython(
                chosen.path,
                f"An environment with {wanted} could not be made; the log says why. "
                "Ask for another version in runtime.txt, or try again.",
            )
        cannot_be_had = refusal(request, installed, job.default_python)
        if not job.python_downloads:
            raise Unbuildable(FailureReason.PYTHON, cannot_be_had)
        return _ChosenPython(requested_of_uv(request, job.default_python), f"{cannot_be_had} The log says why.")

    async def _make_environment(self, python: _ChosenPython) -> None:
        command = self._uv("venv", "--no-project", "--python", python.for_uv, str(self.folder.environment))
        result = await self.commands.run(command, self.folder.home, self.environment)
        if result.status != 0:
            raise Unbuildable(FailureReason.PYTHON, python.if_it_fails)

    async def _install(self, request: EnvironmentRequest) -> None:
        """One resolution of what the repository asks for and what a session needs, so that a conflict is told."""
        wanted = [*self.instructions.base_requirements]
        for file in request.requirement_files:
            wanted += ["--requirements", file]
        wanted += [str(self.folder.source / package) for package in request.packages]
        if not wanted:
            return
        command = self._uv(
            "pip", "install", "--python", str(self.folder.environment / "bin" / "python"), "--compile-bytecode",
            "--no-sources", *wanted,
        )  # fmt: skip
        # A copy of its own, or what a session writes into a package reaches every other environment that has it.
        environment = {**self.environment, "UV_LINK_MODE": "copy", "PYC_INVALIDATION_MODE": "TIMESTAMP"}
        # Paths within requirements files are relative to the repository, as with pip.
        result = await self.commands.run(command, self.folder.source, environment)
        if result.status != 0:
            failure = failure_of_install(result.last_lines, self.instructions.memory_limit)
            raise Unbuildable(failure.reason, failure.message)

    async def _post_build(self, name: str) -> None:
        script = self.folder.source / name
        # As repo2docker does: whoever committed it from Windows meant it to run all the same.
        script.chmod(script.stat().st_mode | 0o111)
        self.commands.log.lines([f"Running {name}"])
        bin_folder = self.folder.environment / "bin"
        environment = {
            **self.environment,
            "PATH": f"{bin_folder}{os.pathsep}{self.environment['PATH']}",
            "VIRTUAL_ENV": str(self.folder.environment),
            "REPO_DIR": str(self.folder.source),
        }
        # Through a shell, which also runs a script without an interpreter's line, as repo2docker does.
        result = await self.commands.run(("/bin/sh", "-c", '"$0"', str(script)), self.folder.source, environment)
        if result.status == 0:
            return
        how = f"was ended by signal {-result.status}" if result.status < 0 else f"failed with status {result.status}"
        with script.open("rb") as file:
            if file.readline(200).endswith(b"\r\n"):
                how += "; its lines end as on Windows, so its interpreter is not found: save it with Unix line ends"
        hint = memory_hint(result.last_lines, self.instructions.memory_limit)
        raise Unbuildable(FailureReason.POST_BUILD, f"{name} {how}. The end of the log shows what it said.{hint}")

    def _finish(self) -> ImageRecord:
        folder = self.folder
        check_depth(folder.source)  # Again: what a build ran may have made folders in it.
        python = next((path.name for path in sorted((folder.environment / "lib").glob("python3.*"))), "")
        folder.session_start.write_text(session_start_script(folder.environment, python), encoding="utf-8")
        folder.session_start.chmod(0o755)
        remove_tree(folder.home)
        remove_tree(folder.temporary)
        protect_tree(folder.environment, also_from_owner=True)
        protect_tree(folder.source, also_from_owner=False)
        digest = tree_digest(folder.path, (folder.source.name, folder.environment.name))
        candidates = ("bin/python", "bin/replay-session", "bin/jupyterhub-singleuser")
        present = (f"{folder.environment.name}/{name}" for name in candidates if (folder.environment / name).exists())
        image = ImageRecord(digest, python.removeprefix("python"), tuple(present))
        folder.write_image(image)
        return image

    def _uv(self, *arguments: str) -> tuple[str, ...]:
        downloads = () if self.instructions.python_downloads else ("--no-python-downloads",)
        return (self.instructions.uv, *arguments, "--no-config", "--color", "never", *downloads)


def _announcement(request: EnvironmentRequest) -> str:
    sources = [*request.requirement_files]
    sources += ["the project itself" if package == "." else f"the project in {package}" for package in request.packages]
    if not sources:
        return "Building a plain environment: the repository names no packages."
    return f"Building the environment from {' and '.join(sources)}."
