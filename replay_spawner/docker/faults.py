"""Why a start went wrong before anything in the container could answer: one sentence for the person, and one for the log."""

from dataclasses import dataclass

from docker.errors import APIError, ImageNotFound

from replay_spawner.docker.answers import refused_by_the_engine
from replay_spawner.docker.containers import NotForSessions
from replay_spawner.docker.engine import ENGINE_FAULTS, EngineSilent
from replay_spawner.docker.pull import PullFailed


@dataclass(frozen=True, slots=True)
class NotStarted:
    """What is told of a start that failed."""

    sentence: str
    detail: str
    """For the log."""
    is_unexpected: bool = False
    """Whether the log needs the trace, too."""


def why_not_started(error: Exception, launch: str, seconds: float, *, fetching: bool) -> NotStarted:
    """For whatever was raised; ``seconds`` were the bound, and ``fetching`` says whether the image was on its way."""
    match error:
        case PullFailed():
            return NotStarted(error.sentence, f"its image did not come: {error}")
        case NotForSessions():
            return NotStarted(
                "This hub's configuration would give sessions its machine, so nothing was started. Tell the administrators.",
                str(error),
            )
        case ImageNotFound():
            return NotStarted(
                "The image of this launch is no longer there. Open the repository's link again: it is then built anew "
                "where that is possible.",
                str(error),
            )
        case APIError():
            return NotStarted(refused_by_the_engine(str(error.explanation or error)), repr(error), is_unexpected=True)
        case EngineSilent():
            return _engine_is_away(error)
        case TimeoutError():
            return NotStarted(too_late(seconds, fetching), f"it took more than {seconds:g} seconds")
        case _ if isinstance(error, ENGINE_FAULTS):
            return _engine_is_away(error)
        case _:
            return NotStarted(
                "The session could not be started from this image. If you need help, tell the administrators the "
                f"launch's number, {launch}.",
                repr(error),
                is_unexpected=True,
            )


def _engine_is_away(error: Exception) -> NotStarted:
    return NotStarted(
        "The container engine does not answer, so the session cannot start. Try again in a few minutes.",
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
