"""Why a start went wrong: one sentence for the person, and one for the log. What every spawner of launches shares."""

from dataclasses import dataclass

MARGIN_SECONDS = 3.0
"""Before the hub's own ``start_timeout``, which tells nobody why."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """What is told of a start that failed."""

    sentence: str
    detail: str
    """For the log."""
    is_unexpected: bool = False
    """Whether the log needs the trace, too."""


def unexplained(error: Exception, launch: str) -> NotStarted:
    """For what nobody has foreseen."""
    return NotStarted(
        "The session could not be started from this image. If you need help, tell the administrators the launch's "
        f"number, {launch}.",
        repr(error),
        is_unexpected=True,
    )


def too_late(seconds: float, fetching: bool) -> str:
    """A sentence for a start that the hub would give up; ``fetching`` where its image was still on its way."""
    if fetching:
        return (
            f"The image is not here yet after {seconds:g} seconds. It is still being fetched: open the link again in a few "
            "minutes."
        )
    return (
        f"The session was not ready after {seconds:g} seconds. Try again in a few minutes; if this comes back, tell the "
        "administrators."
    )


def own_timeout(start_timeout: float) -> float:
    """Seconds for a whole start, so that it ends with a reason before the hub ends it without."""
    return max(start_timeout - MARGIN_SECONDS, start_timeout / 2)
