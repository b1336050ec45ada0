"""What tests of managing share: managers of two VOs over the real store, and sessions that run there."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from replay_build_service.db import Store
from replay_build_service.domain import (
    BuildRecipe,
    ImageName,
    Launch,
    LaunchId,
    LaunchState,
    ResolvedRef,
    Server,
    ServerStatus,
)
from replay_build_service.managing.admission import Manager
from replay_build_service.managing.decisions import Decisions
from replay_build_service.managing.sessions import Sessions
from replay_build_service.policy_values import RepositoryPattern
from tests.unit.core_fakes import House, a_house, image, ref

VOS = frozenset({"vo.one", "vo.two"})
ONE, TWO = Manager("mia", "vo.one"), Manager("theo", "vo.two")


def spelled(text: str) -> str:
    return RepositoryPattern.parse(text).text


def decisions_over(store: Store) -> Decisions:
    return Decisions(store, spelled)


async def audit(store: Store, vo: str | None = None) -> list[tuple[str, str, str]]:
    """Who did what to what, oldest first."""
    entries = [entry.decision for entry in await store.audit(vo, None, 1000)]
    return [(entry.actor, entry.action, entry.subject) for entry in reversed(entries)]


class Vo:
    """Sessions of one house, and the launches that they are of."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.sessions = Sessions(house.store, house.hub, house.builds, house.feed)

    async def running(self, user: str, vo: str, name: str = "hello") -> Launch:
        """A launch whose server runs."""
        launch = await self.stored(user, vo, LaunchState.RUNNING, name)
        self.house.hub.servers[user, ""] = Server(ServerStatus.READY, f"/user/{user}/", launch.id)
        return launch

    async def stored(
        self, user: str, vo: str, state: LaunchState, name: str = "hello", content: ResolvedRef | None = None
    ) -> Launch:
        resolved = ref(name)
        number = len(await self.house.store.launches_in(set(LaunchState)))
        launch = Launch(
            id=LaunchId(f"{number:032x}"),
            user=user,
            server_name="",
            resolved=resolved,
            image_name=ImageName.of(resolved, BuildRecipe("fake")),
            vo=vo,
            urlpath="",
            state=state,
            created_at=datetime.now(UTC),
            image=image(name),
            content=content,
        )
        return await self.house.store.create_launch(launch)

    async def state_of(self, launch: Launch) -> LaunchState:
        found = await self.house.store.get_launch(launch.id)
        assert found is not None
        return found.state


@asynccontextmanager
async def a_vo(store: Store) -> AsyncGenerator[Vo]:
    """The sessions of a house over that store."""
    async with a_house(store) as house:
        yield Vo(house)
