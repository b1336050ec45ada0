"""Why a start went wrong before anything in the container could answer: one sentence for the person, and one for the log."""

from docker.errors import APIError, ImageNotFound

from replay_spawner.answers import safe
from replay_spawner.docker.containers import NotForSessions
from replay_spawner.docker.engine import ENGINE_FAULTS, EngineSilent
from replay_spawner.docker.pull import PullFailed
from replay_spawner.faults import NotStarted, too_late, unexplained


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
            return unexplained(error, launch)


def refused_by_the_engine(said: str) -> str:
    """A sentence for an error that the engine answered with."""
    if "no space left on device" in said:
        return (
            "The disk of the machine that runs sessions is full, so this one could not start. Tell the administrators."
        )
    if "docker-init" in said:
        return "The container engine lacks a part, docker-init, that sessions need. Tell the administrators."
    return f"The container engine refused the session: {safe(said)}. If this comes back, tell the administrators."


def _engine_is_away(error: Exception) -> NotStarted:
    return NotStarted(
        "The container engine does not answer, so the session cannot start. Try again in a few minutes.",
        repr(error),
        is_unexpected=True,
    )
