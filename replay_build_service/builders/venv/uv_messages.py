"""From what uv printed before it gave up to one sentence for the person. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from replay_build_service.builders.detached.failures import size
from replay_build_service.domain import BuildFailure, FailureReason

_LONGEST = 400
"""Characters of uv's own words in a sentence. The log has them all."""

_DISK = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122", "Read-only file system")
_NETWORK = ("error sending request", "Failed to fetch", "operation timed out", "dns error", "Could not connect")
_MEMORY = ("MemoryError", "Cannot allocate memory", "os error 12", "memory allocation of", "out of memory")


def failure_of_install(lines: Sequence[str], memory_limit: int | None) -> BuildFailure:
    """Why ``uv pip install`` failed, from the last lines that it printed."""
    text = "\n".join(lines)
    core = core_of_error(lines)
    if any(sign in text for sign in _DISK):
        return BuildFailure(
            FailureReason.INTERNAL,
            "The environment could not be written: the disk of the build service is full. Tell those who run it.",
        )
    if any(sign in core for sign in _NETWORK):
        return BuildFailure(
            FailureReason.DEPENDENCIES,
            f"Packages could not be downloaded: {core} This may pass: try again, or look at the log.",
        )
    hint = memory_hint(lines, memory_limit)
    return BuildFailure(FailureReason.DEPENDENCIES, f"The requirements cannot be installed: {core}{hint}")


def memory_hint(lines: Sequence[str], memory_limit: int | None) -> str:
    """A sentence to add where a limit on memory may be what ended a program; else empty."""
    if memory_limit is None or not any(sign in line for line in lines for sign in _MEMORY):
        return ""
    return f" Each program of a build may use at most {size(memory_limit)} of memory here."


def core_of_error(lines: Sequence[str]) -> str:
    """uv's error and its causes as one line, without its hints, and cut where it is long."""
    starts = [number for number, line in enumerate(lines) if re.match(r"\s*(error:|[×x✗] )", line)]
    told: list[str] = []
    for line in lines[starts[-1] :] if starts else lines[-1:]:
        words = re.sub(r"^\s*(?:[×╰├│─▶✗▷]+\s*)*(?:error:|cause:|Caused by:)?\s*", "", line).strip()
        if words.startswith("hint:"):
            break
        if words:
            told.append(words)
    # Where the resolver explains itself, the explanation says it all.
    if len(told) > 1 and told[0].startswith("No solution found"):
        del told[0]
    text = " ".join(told).replace("we can conclude that ", "") or "uv gave no reason."
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"
    return text if text.endswith((".", "…", "!")) else f"{text}."
