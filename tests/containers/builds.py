"""Real builds of the docker builder: made, followed, and looked at when they have ended."""

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from demo.git_server import GitServer
from replay_build_service.builders.base import LogRecord, RunningBuild
from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.cgroup import PARENT, ROOT
from replay_build_service.builders.docker.engine import Engine
from replay_build_service.builders.docker.recipe import pinned_base_image, recipe_of
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.builders.registry_images import ImageRegistry
from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    EventKind,
    ImageName,
    Phase,
    ResolvedRef,
    RunnableImage,
)
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.registry import Images, Registry
from tests.registry_server import RegistryServer
from tests.site import make_repository

BASE = "replay-test/base:1"


class Maker:
    """Makes builders that live as long as the test."""

    def __init__(self, registry: RegistryServer) -> None:
        self.registry = registry
        self.resources = AsyncExitStack()

    async def __call__(self, settings: DockerBuilderSettings, *, with_registry: bool = True) -> DockerBuilder:
        engine = await self.resources.enter_async_context(Engine(settings.engine))
        base = await pinned_base_image(settings.base_image or BASE, engine)
        registry: ImageRegistry | None = None
        if with_registry:
            known = self.registry.settings()
            registry = Images(await self.resources.enter_async_context(Registry(known)), known.host)
        return DockerBuilder(
            settings,
            recipe_of("docker", base, settings.configuration_file, settings.build_arguments),
            base,
            engine,
            registry,
        )


def processes_of(folder: Path) -> list[str]:
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd(), process.environ().get("HOME", "")]
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(f"{process.pid} {words}")
        except psutil.Error:
            continue
    return found


def groups() -> list[str]:
    folders = [folder / PARENT for folder in (ROOT, *ROOT.iterdir()) if (folder / PARENT).is_dir()]
    return [str(path) for folder in folders for path in folder.iterdir() if path.is_dir()]


def dockerfile(*lines: str) -> str:
    return "\n".join([f"FROM {BASE}", *lines, "USER 1000", ""])


def job_for(forge: GitServer, builder: DockerBuilder, files: Mapping[str, str], name: str = "") -> BuildJob:
    """A build of a new repository with these files."""
    name = name or f"r{secrets.token_hex(4)}"
    made = make_repository(forge, forge.root.parent / f"work-{name}", name, files)
    resolved = ResolvedRef(Repository.of_url(made.url), RepoSpec("git", made.url, "HEAD"), made.url, made.commit)
    identity = BuildId(f"{name}{made.commit[:8]}")
    return BuildJob(identity, ImageName.of(resolved, builder.recipe), resolved, builder.recipe)


async def log_of(build: RunningBuild, position: int = 0) -> list[LogRecord]:
    return [record async for chunk in build.follow(position) for record in chunk.records]


async def built(
    builder: DockerBuilder, job: BuildJob, cache_from: Sequence[RunnableImage] = ()
) -> tuple[RunnableImage, list[LogRecord]]:
    build = await builder.start(job, cache_from)
    log = await log_of(build)
    outcome = await build.outcome()
    assert isinstance(outcome, RunnableImage), (outcome, lines(log)[-30:])
    return outcome, log


async def failed(builder: DockerBuilder, job: BuildJob) -> tuple[BuildFailure, list[LogRecord]]:
    build = await builder.start(job)
    log = await log_of(build)
    outcome = await build.outcome()
    assert isinstance(outcome, BuildFailure), lines(log)[-30:]
    return outcome, log


async def until_line(build: RunningBuild, text: str) -> int:
    """The position after the chunk with a line of a step that says this."""
    async for chunk in build.follow(0):
        if any(record.text.endswith(f" {text}") for record in chunk.records if record.kind is EventKind.LINE):
            return chunk.position
    raise AssertionError(f"The build ended without {text!r}: {await build.outcome()}")


def phases(log: list[LogRecord]) -> list[Phase]:
    return [record.phase for record in log if record.kind is EventKind.PHASE]


def lines(log: list[LogRecord]) -> list[str]:
    return [record.text for record in log if record.kind is EventKind.LINE]
