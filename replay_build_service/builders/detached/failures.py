"""Why a detached build ended without an image, in sentences that hold for every builder."""

from __future__ import annotations

import os
from pathlib import Path

from replay_build_service.domain import BuildFailure, FailureReason


class Unbuildable(Exception):
    """The build cannot go on. ``failure`` has the reason and the sentence."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.failure = BuildFailure(reason, message)


CANCELLED = BuildFailure(FailureReason.CANCELLED, "The build was cancelled. Open the link again to start a new one.")
KILLED = BuildFailure(
    FailureReason.KILLED, "The build was ended from outside before it was done. Open the link again to start a new one."
)
INTERNAL = BuildFailure(
    FailureReason.INTERNAL, "The build service made a mistake. Tell those who run it; its log has the details."
)


def time_limit_failure(seconds: float) -> BuildFailure:
    """The failure of a build that took longer than it may."""
    return BuildFailure(
        FailureReason.TIMEOUT,
        f"The build took longer than {duration(seconds)}, which is the limit here, and was ended.",
    )


def output_limit_failure(limit: int) -> BuildFailure:
    """The failure of a build that printed more bytes than it may."""
    return BuildFailure(
        FailureReason.OUTPUT_LIMIT,
        f"The build printed more than {size(limit)}, which is the limit here. Make its programs say less.",
    )


def disk_failure(error: OSError) -> BuildFailure:
    """The failure of a build whose files could not be read or written."""
    where = f" ({Path(os.fsdecode(error.filename)).name})" if error.filename else ""
    return BuildFailure(
        FailureReason.INTERNAL,
        f"The build service could not work with its files: {error.strerror or 'unknown error'}{where}. "
        "Tell those who run it, and try again later.",
    )


def size(number: int) -> str:
    """Bytes as people say them: ``50 MB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} bytes"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``30 minutes``."""
    return f"{seconds / 60:g} minutes" if seconds >= 120 and seconds % 60 == 0 else f"{seconds:g} s"
