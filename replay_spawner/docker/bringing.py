"""`BringingDockerSpawner`: what is brought into a session's container beside its image."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from replay_build_service.schemas import ImageModel, LaunchPlan
from replay_spawner import images
from replay_spawner.docker.engine import AskingDockerSpawner, text_in
from replay_spawner.docker.files import content_of, is_there, put, put_folder
from replay_spawner.features.base import SessionFile
from replay_spawner.sessions import SessionMixin

COPIES_AT_ONCE = 2
"""Contents on their way into containers, of all sessions of this hub."""


class BringingDockerSpawner(SessionMixin, AskingDockerSpawner):  # pyright: ignore[reportIncompatibleMethodOverride] - the mixin hands on what DockerSpawner returns
    """Puts files into containers, before they start and while they run."""

    _copiers: ClassVar[ThreadPoolExecutor] = ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="content")
    """A large folder takes long: threads that ask the engine are not for that."""

    async def bring_content(self, plan: LaunchPlan, image: ImageModel) -> None:
        """Put the plan's content, if there is one, into its folder of a container that was not started yet.

        Refuses one that this session cannot have. Raises as `deliver`, and `OSError`.
        """
        content = plan.content
        if content is None:
            return
        home = images.home_of(image)
        if not home.strip("/"):
            raise self.refusal(
                422, "This environment's image has no home folder of its own that files could be brought into."
            )
        self._refuse_content(content, images.top_level_of(plan.container))
        name, folder, owner = str(self.object_name), f"{home}/{content.name}", await self._owner()
        if await self._in_thread(lambda client: is_there(client, name, folder)):
            # Also where the home is a link to somewhere else, and whatever is there is not the repository's.
            self._refuse_content(content, {content.name})
        self._steps.tell(70, f"Copying {content.repository} into the session")
        has_ended, source = threading.Event(), Path(str(content.folder))
        copying = self._copiers.submit(lambda: put_folder(self.client, name, source, folder, owner, has_ended.is_set))
        try:
            await self._answer(asyncio.wrap_future(copying), None)
        finally:
            has_ended.set()

    async def deliver(self, files: Sequence[SessionFile]) -> None:
        """Into the session's container, whether it runs or not. Raises `EngineSilent`, docker-py's `APIError`."""
        home = self._context.home if self._context else ""
        if files:
            owner = await self._owner()
            await self._in_thread(lambda client: put(client, str(self.object_name), files, home, owner))

    async def read(self, files: Sequence[SessionFile]) -> Mapping[tuple[str, str], bytes]:
        """Raises as `deliver`."""
        found: dict[tuple[str, str], bytes] = {}
        for file in files:
            path = self.path_of(file)
            content = await self._in_thread(lambda client, path=path: content_of(client, str(self.object_name), path))
            if content is not None:
                found[file.folder, file.name] = content
        return found

    async def _owner(self) -> int:
        """The number of whom the session runs as."""
        container = await self._inspect()
        user: str = ((container or {}).get("Config") or {}).get("User") or ""
        passwd = ""
        if images.is_named(user):
            passwd = await self._in_thread(lambda client: text_in(client, str(self.object_name), "/etc/passwd")) or ""
        number = images.number_of(passwd, user)
        if number is None:
            raise LookupError(f"Whom the session runs as is not known: {user!r}")
        return number
