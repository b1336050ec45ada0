"""The seam between builds and builders: from a resolved ref to an image.

A builder keeps its own record of what runs, found by the build's id, so that a service that died finds its builds
again. It refuses a second process for the same build. Nothing here knows the database, the web or the hub.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from replay_build_service.domain import BuildFailure, BuildId, BuildJob, BuildRecipe, EventKind, Phase, RunnableImage


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A phase or a line as the builder's own log has it."""

    kind: EventKind
    phase: Phase
    text: str
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Records in order, and where to read on. Stored together, so that neither a gap nor a repeat can come about."""

    records: Sequence[LogRecord]
    position: int
    """An offset that means something to the builder alone; 0 is the start."""


@dataclass(frozen=True, slots=True)
class SessionCommand:
    """How a server is started from an image."""

    command: Sequence[str]
    environment: Mapping[str, str]
    source: str | None
    """A folder whose content becomes the session's own folder; ``None`` where the image brings it."""


class RunningBuild(Protocol):
    """A build that was started, by this process or an earlier one."""

    def follow(self, position: int) -> AsyncIterator[LogChunk]:
        """The log from ``position`` on, as it comes; ends when the build has ended and its log is read to the end."""
        ...

    async def outcome(self) -> RunnableImage | BuildFailure:
        """How it ended. Only after `follow` has ended."""
        ...

    async def cancel(self) -> None:
        """End it, really: every process of it. `follow` then ends and `outcome` is a failure. No error if it has ended."""
        ...


class Builder(Protocol):
    """Makes images and knows how to run them."""

    @property
    def recipe(self) -> BuildRecipe: ...

    async def start(self, job: BuildJob) -> RunningBuild:
        """Start the build, detached from this process, or attach to it where it was started before.

        A repository that cannot be built is a failure of the build, told by its `outcome`. Raises `OSError`.
        """
        ...

    async def sweep(self, known: Collection[BuildId]) -> Sequence[BuildId]:
        """Remove what builds left that nobody knows any more, and say which. Raises `OSError`.

        What cannot be removed is logged and left for the next time.
        """
        ...

    async def exists(self, image: RunnableImage) -> bool:
        """Whether the image is whole and can be run now."""
        ...

    async def discard(self, job: BuildJob) -> None:
        """Remove all that a build which made no image has left. Ends what still runs of it."""
        ...

    def session(self, image: RunnableImage) -> SessionCommand:
        """How a server is started from this image."""
        ...
