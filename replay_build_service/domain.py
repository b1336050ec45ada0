"""Frozen values, enums and rules of the house, but for what links mean, which is the business of `links`.

Standard library only: no input, no output, no other room of ours but the links. The words are those of
``docs/architecture.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType, Self

from replay_build_service.links import ResolvedRef as ResolvedRef

BuildId = NewType("BuildId", str)
LaunchId = NewType("LaunchId", str)

NO_NAMED_SERVERS = "Replay starts a person's own server alone: servers with names are not supported yet."


@dataclass(frozen=True, slots=True)
class BuildRecipe:
    """Everything but the ref that changes the image."""

    builder: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over builder and parameters; the order of the parameters does not matter."""
        text = json.dumps([self.builder, sorted(self.parameters)], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageName:
    """Repository and tag of an image. The same ref and recipe always give the same name, whatever the time or machine."""

    repository: str
    tag: str

    @classmethod
    def of(cls, resolved: ResolvedRef, recipe: BuildRecipe) -> Self:
        """A name that a registry accepts: a readable slug plus a hash of the whole, so that no two repositories share one."""
        slug = re.sub(r"[^a-z0-9]+", "-", resolved.repository.short.lower()).strip("-")[:80].strip("-")
        identity = hashlib.sha256(resolved.repository.url.encode()).hexdigest()[:10]
        return cls(f"replay/{slug}-{identity}", f"{resolved.version}-{recipe.digest[:12]}")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse of ``str()``."""
        repository, _, tag = text.rpartition(":")
        return cls(repository, tag)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class RunnableImage:
    """What a server runs: always immutable, named by a digest."""

    reference: str
    """``venv@sha256:…`` (an environment on this machine), later a registry digest or an engine's image id."""
    location: str
    """Where it lies: a folder, or the registry's name of it."""


@dataclass(frozen=True, slots=True)
class ImageConfiguration:
    """What an image says of how it wants to be run (OCI image configuration, ``config``)."""

    user: str = ""
    """Name or number, with or without a group; empty means root."""
    working_dir: str = ""
    home: str | None = None
    """Its ``HOME``, where it sets one."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    """Such as ``8888/tcp``."""
    top_level: tuple[str, ...] | None = None
    """What its repository has at the top level, by names; none where that is not known."""


@dataclass(frozen=True, slots=True)
class InlineCache:
    """What an image tells builds of its own making."""

    chain: tuple[str, ...]
    """A name for each of its layers with all that are below it."""
    reusable: frozenset[str]
    """Those of them that a build can take over from this image."""


class Phase(StrEnum):
    """The phases that a launch goes through, in BinderHub's words."""

    WAITING = "waiting"
    FETCHING = "fetching"
    BUILDING = "building"
    PUSHING = "pushing"
    BUILT = "built"
    LAUNCHING = "launching"
    READY = "ready"
    FAILED = "failed"


def build_stream(build_id: BuildId) -> str:
    """The name of a build's stream of events."""
    return f"build:{build_id}"


def launch_stream(launch_id: LaunchId) -> str:
    """The name of a launch's stream of events."""
    return f"launch:{launch_id}"


class BuildStatus(StrEnum):
    """``QUEUED → RUNNING → SUCCEEDED | FAILED | CANCELLED``; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in {BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.CANCELLED}


class FailureReason(StrEnum):
    """Why a build did not end in an image. A closed set, kept with the build; the sentence beside it is for the person."""

    CANNOT_BUILD = "cannot_build"
    """The repository asks for something that this builder does not do."""
    FETCH = "fetch"
    """The sources could not be fetched."""
    DEPENDENCIES = "dependencies"
    """Its requirements cannot be resolved or installed."""
    PYTHON = "python"
    """The Python it asks for cannot be had."""
    STEP = "step"
    """A step of its own Dockerfile, or one that its files led to, failed."""
    POST_BUILD = "post_build"
    """The repository's own ``postBuild`` failed."""
    TIMEOUT = "timeout"
    """It took longer than the limit."""
    OUTPUT_LIMIT = "output_limit"
    """It printed more than the limit."""
    MEMORY = "memory"
    """It used more memory than the limit."""
    DISK = "disk"
    """It wrote more than the limit, or the disk is full."""
    ENGINE = "engine"
    """The container engine did not answer or went away."""
    REGISTRY = "registry"
    """The registry did not take the image, or no longer has it."""
    KILLED = "killed"
    """Its process was ended from outside, or vanished."""
    CAPACITY = "capacity"
    """No machine had room for it."""
    BUILDER = "builder"
    """The pod that should build could not be started: its own image, a Secret or a volume was not to be had."""
    EVICTED = "evicted"
    """The machine that it ran on put it out, or went away."""
    CANCELLED = "cancelled"
    """Somebody who may do so cancelled it, or the service was told to stop its builds when it ends."""
    INTERNAL = "internal"
    """A fault of Replay's own."""


@dataclass(frozen=True, slots=True)
class BuildFailure:
    reason: FailureReason
    message: str
    """A sentence for the person, with what to do next."""


@dataclass(frozen=True, slots=True)
class BuildJob:
    """What a builder is asked to make."""

    build_id: BuildId
    image_name: ImageName
    resolved: ResolvedRef
    recipe: BuildRecipe


@dataclass(frozen=True, slots=True)
class Build:
    """One attempt to make one image."""

    job: BuildJob
    status: BuildStatus
    requested_by: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    image: RunnableImage | None = None
    failure: BuildFailure | None = None

    @property
    def id(self) -> BuildId:
        return self.job.build_id


class EventKind(StrEnum):
    PHASE = "phase"
    LINE = "line"


@dataclass(frozen=True, slots=True)
class Event:
    """A phase or a line of a log. ``sequence`` counts from 1 within its stream, without a gap."""

    sequence: int
    kind: EventKind
    phase: Phase
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has no sequence number yet: the store gives it one."""

    kind: EventKind
    phase: Phase
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Some events of a stream, in order."""

    events: tuple[Event, ...]
    finished: bool
    """No event will ever follow the last of these."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, as the hub knows them."""

    name: str
    groups: frozenset[str] = frozenset()


class LaunchState(StrEnum):
    """``BUILDING → STARTING → RUNNING → ENDED``; ``CHOOSING`` waits for the person (another server runs); ``FAILED`` is final."""

    BUILDING = "building"
    CHOOSING = "choosing"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in {LaunchState.ENDED, LaunchState.FAILED}


@dataclass(frozen=True, slots=True)
class Launch:
    """One person's single-use wish to run one image."""

    id: LaunchId
    user: str
    server_name: str
    resolved: ResolvedRef
    image_name: ImageName
    vo: str
    urlpath: str
    state: LaunchState
    created_at: datetime
    build_id: BuildId | None = None
    """The build that this launch waits for or waited for; none where the image was there."""
    image: RunnableImage | None = None
    consumed_at: datetime | None = None
    """When the spawner fetched its plan. A launch is used once."""
    failure: str | None = None
    features: tuple[str, ...] = ()
    """Names of what its session gets beside the image."""
    content: ResolvedRef | None = None
    """A second repository or record, whose files its session gets in a folder of their own."""
    maximum_age: timedelta | None = None
    """How long its session may run, by the policy when it was started."""
    running_at: datetime | None = None
    """When its server answered."""
    ended_at: datetime | None = None

    @property
    def ends_by(self) -> datetime | None:
        """When its session is stopped at the latest; none where it may run for as long as it is used."""
        if self.running_at is None or self.maximum_age is None:
            return None
        return self.running_at + self.maximum_age


class ServerStatus(StrEnum):
    """What the hub says of a person's server."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Server:
    """A person's server as the hub has it."""

    status: ServerStatus
    url: str = ""
    """Path on the hub's host, with a slash at the end: ``/user/ada/``. Empty where there is no server."""
    launch_id: LaunchId | None = None
    """Whose launch it became; ``None`` for the hub's ordinary server."""
    last_activity: datetime | None = field(default=None, compare=False)
    """By the hub."""
    groups: frozenset[str] | None = field(default=None, compare=False)
    """The person's, by the same answer; none where there is no such person, or the service may not read them."""


@dataclass(frozen=True, slots=True)
class StartProgress:
    """One event of a server's start."""

    message: str
    ready: bool = False
    failed: bool = False
