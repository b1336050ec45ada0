"""From what repo2docker and BuildKit printed before they gave up to one sentence for the person. Pure.

The lines are a stranger's, so what is read from them decides about words alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from replay_build_service.builders.detached.failures import size
from replay_build_service.builders.detached.terminal_text import plain_text
from replay_build_service.domain import BuildFailure, FailureReason

_LONGEST = 300
"""Characters of somebody else's words in a sentence. The log has them all."""

ENGINE_GONE = BuildFailure(
    FailureReason.ENGINE,
    "The container engine of this site went away while it built. Open the link again in a few minutes; what was built "
    "so far may be used again.",
)
DISK_FULL = BuildFailure(
    FailureReason.DISK,
    "The disk on which images are built is full. Tell those who run this site; the link works again when there is room.",
)

_DISK = ("no space left on device", "disk quota exceeded")
_ENGINE = ("Cannot connect to the Docker daemon", "error during connect:", "Container engine initialization error")
_LOST = ("rpc error: code = Unavailable", "error reading from server: EOF", "connection error: desc")
_REFUSED = ("denied", "unauthorized", "authentication required", "no basic auth credentials", "insufficient_scope")


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known when repo2docker has failed."""

    lines: Sequence[str]
    """The last that it printed."""
    error: str | None
    """repo2docker's own reason, where it was not a program's."""
    was_pushing: bool
    engine_answers: bool
    memory_limit: int | None = None
    """Bytes that the build could have, where it wanted more."""
    process_limit: int | None = None
    """Processes that the build could have, where it wanted more."""


def failure_of(ending: Ending) -> BuildFailure:
    """Why the build failed, for the person."""
    text = "\n".join(ending.lines)
    if not ending.engine_answers or any(sign in text for sign in _ENGINE):
        return ENGINE_GONE
    reason = _core(ending.lines)
    if ending.was_pushing:
        return _failure_of_push(reason)
    if any(sign in text.lower() for sign in _DISK):
        return DISK_FULL
    step = re.search(r"process \"(.+?)\" did not complete successfully: (.+)", reason)
    if step is not None and "exit code: 137" in step[2] and ending.memory_limit is not None:
        return BuildFailure(
            FailureReason.MEMORY,
            f"The build needed more than {size(ending.memory_limit)} of memory, which is the limit here, in: {_command(step[1])}.",
        )
    if ending.error is not None:
        # A buildpack knows better what its steps were about.
        return BuildFailure(FailureReason.CANNOT_BUILD, f"{_sentence(ending.error)}{_limits(ending)}")
    if step is not None:
        return _failure_of_step(step[1], step[2], ending)
    if any(sign in text for sign in _LOST):
        return ENGINE_GONE
    if (base := re.search(r"failed to resolve source metadata for (\S+?):? (.*)", reason)) is not None:
        return BuildFailure(
            FailureReason.CANNOT_BUILD,
            f"The image that the build stands on, {_short(base[1])}, cannot be had: {_sentence(base[2])}",
        )
    if "dockerfile parse error" in reason or "failed to read dockerfile" in reason:
        return BuildFailure(FailureReason.CANNOT_BUILD, f"The Dockerfile cannot be read: {_sentence(reason)}")
    return BuildFailure(FailureReason.STEP, f"The image could not be built: {_sentence(reason)}")


def _failure_of_push(reason: str) -> BuildFailure:
    if any(sign in reason for sign in _REFUSED):
        told = "The registry of this site refused the image that was built"
    else:
        told = "The image was built, but could not be sent to the registry of this site"
    return BuildFailure(
        FailureReason.REGISTRY,
        f"{told}: {_sentence(reason)} Tell those who run it. Opening the link again tries again; what was built is kept.",
    )


def _failure_of_step(command: str, ending_words: str, ending: Ending) -> BuildFailure:
    status = re.search(r"exit code: (\d+)", ending_words)
    how = f"failed with status {status[1]}" if status else f"failed: {_sentence(ending_words).rstrip('.')}"
    return BuildFailure(
        FailureReason.STEP,
        f"A step of the build {how}: {_command(command)}. The end of the log shows what it said.{_limits(ending)}",
    )


def _command(text: str) -> str:
    return _short(re.sub(r"^/bin/(?:ba)?sh -c ", "", text.replace('\\"', '"').replace("\\\\", "\\")))


def _limits(ending: Ending) -> str:
    return f" It may run {ending.process_limit} processes at a time here." if ending.process_limit else ""


def _core(lines: Sequence[str]) -> str:
    """The last error that the build's command line told, without its leading words."""
    for line in reversed(lines):
        if line.startswith("ERROR: "):
            words = line.removeprefix("ERROR: ")
            return re.sub(r"^(failed to solve: |failed to build: )+", "", words)
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason was given")


def _short(text: str) -> str:
    words = " ".join(plain_text(text).split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1].rstrip() + "…"


def _sentence(text: str) -> str:
    words = _short(text)
    return words if words.endswith((".", "…", "!", "?")) else f"{words}."


def has_lost_the_end(last_lines: Sequence[str]) -> bool:
    """Whether BuildKit gave up on a build that it had done.

    Its client waits three seconds for what is still to be said after the last step, and then takes its own giving up for a
    failure (moby/buildkit, ``client/solve.go``).
    """
    return any(
        "failed to receive status: rpc error: code = Canceled desc = context canceled" in line
        for line in last_lines[-5:]
    )
