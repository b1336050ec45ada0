"""The managers' pages over HTTP for tests, on the real store. Who asks is told by a header here; that the hub is asked, and XSRF, is
in tests/integration/test_managers.py."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from replay_build_service.db import Store
from replay_build_service.domain import (
    BuildRecipe,
    ImageName,
    Launch,
    LaunchId,
    LaunchState,
    Person,
    Server,
    ServerStatus,
)
from replay_build_service.managing import Managing
from replay_build_service.managing.decisions import Decisions
from replay_build_service.managing.explaining import Explaining
from replay_build_service.managing.prepared import PreparedEvents
from replay_build_service.managing.sessions import Sessions
from replay_build_service.managing.usage import Usages
from replay_build_service.policies import PolicySet
from replay_build_service.policy_values import RepositoryPattern, Resources, VOPolicy
from replay_build_service.web import make_application, make_templates
from replay_build_service.web.auth import AtOnce, RateLimit
from replay_build_service.web.base import HubHandler
from tests.unit.core_fakes import FakeProvider, House, a_house, a_store, image, ref

HOME = "/services/replay/"
ATTACK = "<img src=x onerror=alert(1)>\"'&amp;"
PATH_LIKE = f"../{ATTACK}/%2F..?a#b"
VOS = ("vo.one", "vo.two", PATH_LIKE)

MIA = {"X-Person": "mia", "X-Groups": "vo.one,vo.one:managers"}
THEO = {"X-Person": "theo", "X-Groups": "vo.one,vo.two,vo.two:managers"}
ADA = {"X-Person": "ada", "X-Groups": "vo.one"}
ROOT = {"X-Person": "root", "X-Groups": "", "X-Admin": "1"}
HOSTILE = {"X-Person": "mallory", "X-Groups": quote(f"{PATH_LIKE}:managers")}

LAUNCH, NUMBER = "1f" * 16, "1f" * 8
ENDS = datetime.now(UTC) + timedelta(days=2)


@dataclass
class Web:
    """The service's pages over one house."""

    http: httpx.AsyncClient
    house: House
    store: Store
    site: Any

    async def get(self, path: str, who: dict[str, str] = MIA) -> httpx.Response:
        return await self.http.get(path.removeprefix(HOME), headers=who)

    async def post(self, path: str, who: dict[str, str] = MIA, **fields: str) -> httpx.Response:
        return await self.http.post(path, headers=who, data=fields)

    async def launched(self, user: str, vo: str, state: LaunchState = LaunchState.RUNNING, **more: Any) -> Launch:
        resolved = more.pop("resolved", None) or ref()
        number = len(await self.store.launches_in(set(LaunchState)))
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
            image=image(),
            **more,
        )
        await self.store.create_launch(launch)
        if state is LaunchState.RUNNING:
            self.house.hub.servers[user, ""] = Server(ServerStatus.READY, f"/user/{user}/", launch.id)
        return launch


@asynccontextmanager
async def open_web(
    folder: Path, monkeypatch: pytest.MonkeyPatch, policies_of_vos: Sequence[VOPolicy] = ()
) -> AsyncGenerator[Web]:
    """The service's pages, over a database in that folder; without other policies, VOs that limit nothing."""

    async def prepare(handler: HubHandler) -> None:
        headers = handler.request.headers
        groups = [httpx.URL(f"http://x/?g={group}").params["g"] for group in headers["X-Groups"].split(",") if group]
        handler.person = Person(headers["X-Person"], frozenset(groups))
        model = {"name": headers["X-Person"], "kind": "user", "admin": "X-Admin" in headers}
        handler.current_user = handler._hub_auth_user_cache = model

    monkeypatch.setattr(HubHandler, "prepare", prepare)
    monkeypatch.setattr(HubHandler, "xsrf_token", b"the-xsrf-token")
    found = policies_of_vos or [VOPolicy(vo, Resources()) for vo in VOS]
    async with a_store(folder) as store, a_house(store, policies=found) as house:
        policies = PolicySet(found)
        explaining = Explaining(store, policies)
        managing = Managing(
            vos=policies.vos,
            store=store,
            decisions=Decisions(store, lambda text: RepositoryPattern.parse(text).text),
            sessions=Sessions(store, house.hub, house.builds, house.feed),
            usages=Usages(store),
            events=PreparedEvents(
                store, {"git": FakeProvider()}, house.builds, explaining.refuse_denied, policies.build_ceiling
            ),
            explaining=explaining,
            accounting_site="SITE",
        )
        site = SimpleNamespace(
            base_url=HOME,
            managing=managing,
            launches=house.launches,
            builds=house.builds,
            store=store,
            internal_token="",
            launch_limit=RateLimit(100, 60),
            look_limit=RateLimit(1000, 60),
            manage_limit=RateLimit(1000, 60),
            stream_limit=AtOnce(2),
            templates=make_templates(),
            hub_home_url="/hub/home",
            public_url="https://hub.example.org",
        )
        server = HTTPServer(make_application(site, b"secret"))  # type: ignore[arg-type]
        socket, port = bind_unused_port()
        server.add_socket(socket)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}{HOME}", trust_env=False) as client:
            yield Web(client, house, store, site)
        server.stop()
        await server.close_all_connections()


FORMS: dict[str, dict[str, str]] = {
    f"sessions/{LAUNCH}/stop": {},
    "rules": {"effect": "deny", "pattern": "github.com/owner/name"},
    f"rules/{NUMBER}/remove": {},
    "blocks": {"person": "ada", "reason": "mining", "stop": "1"},
    "blocks/lift": {"person": "ada"},
    "banner": {"action": "own", "text": "Down on Friday"},
    "terms": {"action": "own", "text": "Be kind."},
    "events": {
        "title": "A course",
        "link": "git/https%3A%2F%2Fgit.example.org%2Fcourse/HEAD",
        "starts": f"{ENDS - timedelta(hours=8):%Y-%m-%dT%H:%M}",
        "ends": f"{ENDS:%Y-%m-%dT%H:%M}",
        "people": "30",
    },
    f"events/{NUMBER}/build": {},
    f"events/{NUMBER}/call-off": {},
}
PAGES = (
    "",
    "launches",
    "builds",
    "usage",
    "usage.csv",
    "usage.apel",
    "usage-gpus.json",
    "rules",
    "explain",
    "events",
    "audit",
)
BY_NUMBER = (f"builds/{NUMBER}", f"events/{NUMBER}")


def below(path: str, vo: str = "vo.one") -> str:
    return f"vo/{quote(vo, safe='')}{path and f'/{path}'}"
