"""`BringingDockerSpawner`: what is brought into a session's container beside its image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from replay_build_service.schemas import ImageModel, LaunchPlan
from replay_spawner import images
from replay_spawner.docker.engine import AskingDockerSpawner, text_in
from replay_spawner.docker.files import content_of, put, put_folder
from replay_spawner.features.base import SessionFile
from replay_spawner.sessions import SessionMixin


class BringingDockerSpawner(SessionMixin, AskingDockerSpawner):  # pyright: ignore[reportIncompatibleMethodOverride] - the mixin hands on what DockerSpawner returns
    """Puts files into containers, before they start and while they run."""

    async def bring_content(self, plan: LaunchPlan, image: ImageModel) -> None:
        """Put the plan's content, if there is one, into its folder of a container that was not started yet.

        Refuses one that this session cannot have. Raises as `deliver`, and `OSError`.
        """
        content = plan.content
        if content is None:
            return
        self._refuse_content(content, images.top_level_of(image))
        source, home, owner = Path(str(content.folder)), images.home_of(image), await self._owner()
        self._steps.tell(70, f"Copying {content.repository} into the session")
        await self._in_thread(
            lambda client: put_folder(client, str(self.object_name), source, f"{home}/{content.name}", owner),
        )

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
