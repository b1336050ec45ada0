"""What a plan says to every spawner that makes containers: marks, variables, whose launch a server was. Pure."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from replay_build_service.schemas import LaunchPlan

LAUNCH_LABEL = "replay.egi.eu/launch"
HUB_LABEL = "replay.egi.eu/hub"
"""Whose launch it is, where several hubs share an engine or a cluster."""
GROUP = "egi.eu/primary_group"
"""For which VO a session runs: accounting reads it."""

MOST_LABEL_CHARACTERS = 63

_LAUNCH = re.compile(r"[0-9a-f]{32}")


def launch_in(options: Mapping[str, Any]) -> str | None:
    """The launch that a server's stored options say it was to be."""
    launch = options.get("launch")
    return launch if isinstance(launch, str) and _LAUNCH.fullmatch(launch) else None


def marks(plan: LaunchPlan) -> dict[str, str]:
    """What accounting and administrators find a session by: labels of a container, annotations of a pod."""
    of_content = plan.content and {
        "replay.egi.eu/content": plan.content.repository,
        "replay.egi.eu/content-commit": plan.content.version,
    }
    return {
        LAUNCH_LABEL: plan.launch,
        "replay.egi.eu/repository": plan.repository,
        "replay.egi.eu/commit": plan.version,
        GROUP: plan.vo,
        **(of_content or {}),
    }


def label_value(text: str) -> str:
    """A text as the value of a Kubernetes label: at most 63 letters, digits, ``-``, ``_`` and ``.``, the ends letters or digits.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/. What has to be changed for that gets a mark of
    the whole at its end, so that two texts never share a value.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", text).strip("._-")[:MOST_LABEL_CHARACTERS].strip("._-")
    if plain == text:
        return plain
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{plain[: MOST_LABEL_CHARACTERS - 9].strip('._-')}-{mark}".lstrip("-")


OUTSIDE_THE_HOME = {"JUPYTER_RUNTIME_DIR": "/tmp/.jupyter-runtime"}  # noqa: S108 - a container has its own
"""For containers, unless the admin says otherwise: Jupyter's server does not start where it cannot write this at all, and an
image's home may be read-only."""


def session_environment(plan: LaunchPlan) -> dict[str, str]:
    """The plan's variables, with the home that the image says."""
    image = plan.container
    home = (image.home or image.working_dir if image else "") or "/"
    return {name: value.replace("{home}", home) for name, value in plan.environment.items()}
