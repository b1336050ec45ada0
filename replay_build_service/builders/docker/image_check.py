"""What an image's own configuration tells against running it, before anybody waits for a server. Pure."""

from __future__ import annotations

import re

from replay_build_service.domain import BuildFailure, FailureReason, ImageConfiguration


def refusal(configuration: ImageConfiguration) -> BuildFailure | None:
    """Why sessions of this image are refused; ``None`` where they may be tried."""
    name = configuration.user.strip().partition(":")[0]
    # Signs and leading zeros make the engine no other number. Names of accounts are looked at where a session starts.
    if name in {"", "root"} or re.fullmatch(r"[+-]?0+", name):
        return BuildFailure(
            FailureReason.CANNOT_BUILD,
            "The image would run as root, which is not allowed here. End its Dockerfile with a user of its own, such as "
            "“USER 1000”, who owns the folder that the notebook works in.",
        )
    return None
