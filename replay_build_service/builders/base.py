"""The seam between builds and builders: from a resolved ref to an image.

A builder keeps its own record of what runs, found by the build's id, so that a service that died finds its builds
again. It refuses a second process for the same build. Nothing here knows the database, the web or the hub.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    BuildRecipe,
    EventKind,
    ImageConfiguration,
    Phase,
    RunnableImage,
)

SESSION_COMMAND = ("jupyterhub-singleuser",)
"""What runs in an image that is a whole system."""

IMAGE_GONE = "The image of this launch cannot be found any more. Open the repository's link again."


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
    configuration: ImageConfiguration | None = None
    """What the image itself says of how it wants to be run; ``None`` where it is no container image."""


class RunningBuild(Protocol):
    """A build that was started, by this process or an earlier one."""

    def follow(self, position: int) -> AsyncIterator[LogChunk]:
        """The log from ``position`` on, as it comes; ends when the build has ended and its log is read to the end."""
        ...

    async def outcome(self) -> RunnableImage | BuildFailure:
        """How it ended. Only after `follow` has ended. Raises `SourceFault` where that cannot be known now."""
        ...

    async def cancel(self) -> None:
        """End it, really: every process of it. `follow` then ends and `outcome` is a failure. No error if it has ended."""
        ...


class Builder(Protocol):
    """Makes images and knows how to run them."""

    @property
    def recipe(self) -> BuildRecipe: ...

    async def start(self, job: BuildJob, cache_from: Sequence[RunnableImage] = ()) -> RunningBuild:
        """Start the build, detached from this process, or attach to it where it was started before.

        ``cache_from`` are earlier images of the same repository, newest first, whose parts may be used again. A repository
        that cannot be built is a failure of the build, told by its `outcome`. Raises `OSError`.
        """
        ...

    async def sweep(self, running: Collection[BuildId], kept: Collection[BuildId]) -> Sequence[BuildId]:
        """Remove what builds left of which nothing is wanted any more, and say which. Raises `OSError`.

        ``running`` have not ended; of ``kept`` the image is kept. What cannot be removed is logged and left for the next
        time.
        """
        ...

    async def exists(self, image: RunnableImage, *, thoroughly: bool = False) -> bool:
        """Whether the image is whole and can be run now. ``thoroughly`` looks at all its parts, which takes longer.

        Raises `SourceFault` where that cannot be known now.
        """
        ...

    async def tidy(self, job: BuildJob) -> None:
        """Remove what a build that made its image needs no more. The image stays. Raises `OSError`."""
        ...

    async def discard(self, job: BuildJob) -> None:
        """Remove all that a build which made no image has left. Ends what still runs of it."""
        ...

    async def session(self, image: RunnableImage) -> SessionCommand:
        """How a server is started from this image. Raises `SourceFault` where that cannot be known now."""
        ...
