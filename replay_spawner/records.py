"""What a session says of itself in ``~/.replay/launch.json``. Pure."""

from datetime import datetime
from typing import Any

from replay_build_service.schemas import LaunchPlan


def launch_record(plan: LaunchPlan, when: datetime) -> dict[str, Any]:
    """What made the session, for whoever finds its files later; ``when`` is when it started.

    ``content`` is the second repository whose files it was given, null where there was none; ``created_at`` is when the person agreed to it; ``build`` is null where the image was there already.
    """
    content = plan.content
    return {
        "launch": plan.launch,
        "link": plan.link,
        "urlpath": plan.urlpath,
        "repository": plan.repository,
        "commit": plan.version,
        "content": content
        and {"repository": content.repository, "commit": content.version, "link": content.link, "folder": content.name},
        "image": plan.image,
        "build": plan.build,
        "vo": plan.vo,
        "created_at": None if plan.created_at is None else plan.created_at.isoformat(),
        "started_at": when.isoformat(timespec="seconds"),
    }
