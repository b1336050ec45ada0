"""What an image's own configuration tells against running it, before anybody waits for a server. Pure."""

from __future__ import annotations

import re

from replay_build_service.domain import BuildFailure, FailureReason, ImageConfiguration


def refusal(configuration: ImageConfiguration) -> BuildFailure | None:
    """Why sessions of this image are refused; ``None`` where they may be tried."""
    name = configuration.user.partition(":")[0].strip()
    # What is a number to the engine must be one that an account can have. Names are looked up where a session starts.
    is_number = re.fullmatch(r"[+-]?[0-9]+", name) is not None
    if name in {"", "root"} or (is_number and not (len(name) < 20 and 0 < int(name) < 2**31)):
        return BuildFailure(
            FailureReason.CANNOT_BUILD,
            "The image would run as root, which is not allowed here. End its Dockerfile with a user of its own, such as "
            "“USER 1000”, who owns the folder that the notebook works in.",
        )
    return None
