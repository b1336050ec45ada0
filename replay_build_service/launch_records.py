"""From a wish that is permitted to the launch that goes on record. Pure but for the clock and a number that nobody guesses."""

import secrets
from datetime import UTC, datetime

from replay_build_service.domain import Launch, LaunchId, LaunchState, Person, ResolvedRef, RunnableImage
from replay_build_service.links import safe_urlpath
from replay_build_service.permissions import Permit
from replay_build_service.resolving import Meaning
from replay_build_service.wishes import Wish


def launch_of(
    person: Person,
    wish: Wish,
    meant: Meaning,
    content: ResolvedRef | None,
    permit: Permit,
    state: LaunchState,
    image: RunnableImage | None,
) -> Launch:
    """A new launch. One with a content and nothing else to open opens that content's folder. Raises `BadLink`."""
    return Launch(
        id=LaunchId(secrets.token_hex(16)),
        user=person.name,
        server_name=wish.server_name,
        resolved=meant.resolved,
        image_name=meant.image_name,
        vo=permit.policy.vo,
        urlpath=safe_urlpath(wish.urlpath) or (f"lab/tree/{content.repository.folder_name}" if content else ""),
        state=state,
        created_at=datetime.now(UTC),
        image=image,
        features=permit.features,
        content=content,
    )
