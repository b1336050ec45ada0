"""The end of a session that nobody uses: what its person is told, and their word that it is to go on."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from replay_build_service.client import ReplayClient, ServiceUnavailable
from replay_build_service.domain import Launch, LaunchId, LaunchState, Person, Phase
from replay_build_service.endings import Endings
from replay_build_service.errors import Conflict
from replay_build_service.records import SessionEnd
from replay_build_service.schemas import ActivityReport
from replay_build_service.starts import phase_event
from replay_build_service.web import make_templates
from replay_build_service.web.auth import RateLimit
from replay_build_service.web.base import HubHandler
from replay_build_service.web.staying import ending_sentence
from tests.unit.core_fakes import House, a_house, a_store
from tests.unit.test_store import a_launch
from tests.unit.web_server import served

pytestmark = pytest.mark.one_hub_version

HOME = "/services/replay/"
TOKEN = "a" * 64
HOUR = timedelta(hours=1)
WARNING = timedelta(minutes=10)
NOW = datetime(2026, 3, 1, 14, 55, 20, tzinfo=UTC)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with a_store(tmp_path) as store, a_house(store) as house:
        yield house


def named(number: int) -> LaunchId:
    return LaunchId(f"{number:032x}")


async def running(house: House, number: int = 1, user: str = "ada") -> Launch:
    launch = a_launch(named(number), user=user)
    await house.store.create_launch(launch)
    await house.store.move_launch(launch.id, {launch.state}, LaunchState.RUNNING)
    stored = await house.store.get_launch(launch.id)
    assert stored is not None
    return stored


def report(launch: Launch, minutes_ago: float) -> ActivityReport:
    return ActivityReport(launch=launch.id, active_ago=60 * minutes_ago, limit=3600, warning=600)


async def test_a_person_is_told_in_the_last_ten_minutes_and_not_before(house: House) -> None:
    endings, launch = house.launches.endings, await running(house)
    assert await endings.near(launch) is None
    assert await endings.used(report(launch, 49)) is None
    assert await endings.near(launch) is None
    await endings.used(report(launch, 51))
    near = await endings.near(launch)
    assert near is not None
    assert near.ends_at is not None
    assert abs(near.ends_at - datetime.now(UTC) - timedelta(minutes=9)) < timedelta(seconds=10)
    await endings.used(report(launch, 0))
    assert await endings.near(launch) is None


async def test_who_stays_is_warned_an_hour_later(house: House) -> None:
    endings, launch = house.launches.endings, await running(house)
    await endings.used(report(launch, 55))
    end = await endings.stay(launch)
    assert end.ends_at is not None
    assert end.ends_at - datetime.now(UTC) > HOUR - timedelta(seconds=10)
    assert await endings.near(launch) is None
    kept_ago = await endings.used(report(launch, 56))
    assert kept_ago is not None
    assert 0 <= kept_ago < 10
    assert await endings.near(launch) is None, "the culler may not have heard of it yet, the page has"


async def test_to_stay_before_the_culler_has_said_anything_counts(house: House) -> None:
    endings, launch = house.launches.endings, await running(house)
    assert (await endings.stay(launch)).ends_at is None
    assert await endings.used(report(launch, 55)) is not None


@pytest.mark.parametrize("state", [LaunchState.ENDED, LaunchState.FAILED])
async def test_what_has_ended_is_forgotten_and_cannot_stay(house: House, state: LaunchState) -> None:
    endings, launch = house.launches.endings, await running(house)
    await endings.used(report(launch, 55))
    await house.store.move_launch(launch.id, {LaunchState.RUNNING}, state)
    assert await house.store.session_end(launch.id) is None
    assert await endings.used(report(launch, 55)) is None, "the culler's word came late"
    assert await house.store.session_end(launch.id) is None
    with pytest.raises(Conflict, match="does not run"):
        await endings.stay(launch)


async def test_a_session_that_another_launch_replaced_is_forgotten(house: House) -> None:
    launch = await running(house)
    await house.launches.endings.used(report(launch, 55))
    other = a_launch(named(2), state=LaunchState.CHOOSING)
    stored = await house.store.create_launch(other)
    assert await house.store.take_server(stored, launch.id, LaunchState.BUILDING, phase_event(Phase.FAILED, "instead"))
    assert await house.store.session_end(launch.id) is None


@pytest.mark.parametrize(
    ("used_ago", "limit", "told"),
    [
        (52, HOUR, "This session ends at 15:03 UTC, in about 8 minutes: 1 hour after it was last used."),
        (58.5, HOUR, "This session ends at 14:56 UTC, in about 1 minute: 1 hour after it was last used."),
        (59.5, HOUR, "This session ends any moment now: it was last used 1 hour ago."),
        (70, HOUR, "This session ends any moment now: it was last used 1 hour ago."),
        (
            25,
            timedelta(minutes=30),
            "This session ends at 15:00 UTC, in about 5 minutes: 30 minutes after it was last used.",
        ),
    ],
)
def test_a_sentence_says_when(used_ago: float, limit: timedelta, told: str) -> None:
    assert ending_sentence(SessionEnd(NOW - timedelta(minutes=used_ago), limit, WARNING), NOW) == told


def test_nothing_is_said_of_what_is_not_known() -> None:
    end = SessionEnd(kept_at=NOW)
    assert (end.ends_at, end.is_near(NOW), ending_sentence(end, NOW)) == (None, False, "")


# ---- over HTTP


@pytest.fixture
async def service(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    async def prepare(handler: HubHandler) -> None:
        handler.person = Person(handler.request.headers.get("Person", "ada"))
        handler.current_user = handler._hub_auth_user_cache = None

    monkeypatch.setattr(HubHandler, "prepare", prepare)
    site: Any = SimpleNamespace(
        base_url=HOME,
        store=house.store,
        launches=house.launches,
        internal_token=TOKEN,
        launch_limit=RateLimit(5, 60),
        look_limit=RateLimit(50, 60),
        templates=make_templates(),
        hub_home_url="/hub/home",
        public_url="",
    )
    async with served(site) as client:
        yield client


async def test_the_culler_tells_with_the_token_that_hub_and_service_share(
    house: House, service: httpx.AsyncClient, tmp_path: Path
) -> None:
    launch = await running(house)
    (tmp_path / "token").write_text(TOKEN)
    client = ReplayClient(str(service.base_url), tmp_path / "token")
    assert (await client.activity(report(launch, 55))).kept_ago is None
    assert (await service.post(f"api/launches/{launch.id}/stay")).status_code == 204
    kept_ago = (await client.activity(report(launch, 55))).kept_ago
    assert kept_ago is not None
    (tmp_path / "token").write_text("another")
    with pytest.raises(ServiceUnavailable, match="401"):
        await client.activity(report(launch, 55))
    await client._client.aclose()


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        '{"launch": "a"}',
        '{"launch": "a", "active_ago": -1, "limit": 1, "warning": 1}',
        '{"launch": "a", "active_ago": 1e300, "limit": 1, "warning": 1}',
        '{"launch": "a", "active_ago": NaN, "limit": 1, "warning": 1}',
        '{"launch": "a", "active_ago": 1, "limit": 0, "warning": 1}',
    ],
)
async def test_nonsense_at_the_door_is_refused(service: httpx.AsyncClient, said: str) -> None:
    answer = await service.post("internal/activity", content=said, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 400


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", "token " + TOKEN])
async def test_nobody_else_may_tell(service: httpx.AsyncClient, token: str) -> None:
    answer = await service.post("internal/activity", content="{}", headers={"Authorization": token})
    assert answer.status_code == 401


async def test_a_page_that_stays_open_is_told(house: House, service: httpx.AsyncClient) -> None:
    assert (await service.get("api/session")).json() == {"launch": None, "ends_at": None, "sentence": ""}
    launch = await running(house)
    assert (await service.get("api/session")).json() == {"launch": launch.id, "ends_at": None, "sentence": ""}
    await house.launches.endings.used(report(launch, 55))
    told = (await service.get("api/session")).json()
    assert told["launch"] == launch.id
    assert told["ends_at"] is not None
    assert told["sentence"].startswith("This session ends at ")
    another = (await service.get("api/session", headers={"Person": "boris"})).json()
    assert another["launch"] is None


async def test_only_its_person_keeps_a_session_and_not_too_often(house: House, service: httpx.AsyncClient) -> None:
    launch = await running(house)
    as_boris = await service.post(f"api/launches/{launch.id}/stay", headers={"Person": "boris"})
    assert as_boris.status_code == 404
    assert await house.store.session_end(launch.id) is None
    back = await service.post(f"launches/{launch.id}/stay")
    assert (back.status_code, back.headers["Location"]) == (303, HOME)
    answers = [(await service.post(f"api/launches/{launch.id}/stay")).status_code for _ in range(5)]
    assert answers == [204] * 4 + [429]


async def test_endings_ask_only_for_what_runs() -> None:
    class NoStore:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

    store: Any = NoStore()
    for launch in (None, a_launch("one", state=LaunchState.BUILDING)):
        assert await Endings(store).near(launch) is None
