"""What handlers answer by themselves: the service's routes over HTTP, with a site of which only what they ask is there."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from replay_build_service.client import PlanRefused, ReplayClient
from replay_build_service.domain import (
    NO_NAMED_SERVERS,
    Event,
    EventKind,
    LaunchId,
    LaunchState,
    Person,
    Phase,
    launch_stream,
)
from replay_build_service.errors import NotPermitted
from replay_build_service.policies import PolicySet
from replay_build_service.policy_values import Resources
from replay_build_service.schemas import LaunchModel, PlanRequest
from replay_build_service.web import encode_event, make_templates
from replay_build_service.web.auth import AtOnce, RateLimit
from replay_build_service.web.base import HubHandler, enrolments_of
from replay_build_service.wishes import Wish
from tests.unit import core_fakes
from tests.unit.core_fakes import House, a_house, a_store, image
from tests.unit.web_server import served

HOME = "/services/replay/"


class FailingStore:
    fails = True

    async def ping(self) -> None:
        if self.fails:
            raise OSError("the disk is gone")


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


TOKEN = "a" * 64


class Asked:
    """Launches that grant nothing and remember who asked."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []
        self.permissions = SimpleNamespace(is_prepared_for=self.is_prepared_for)

        self.prepared: str | None = None

    async def is_prepared_for(self, person: Person, repo: str, content: str | None = None) -> bool:
        return repo == self.prepared and not content

    async def create_now(self, person: Person, wish: Wish) -> None:
        self.wishes.append(wish)
        raise NotPermitted(f"You are not in {wish.vo}.")

    create = create_now


@pytest.fixture
def site(store: FailingStore) -> Any:
    return SimpleNamespace(
        base_url=HOME,
        store=store,
        launches=Asked(),
        internal_token=TOKEN,
        launch_limit=RateLimit(2, 60),
        look_limit=RateLimit(2, 60),
        stream_limit=AtOnce(2),
        templates=make_templates(),
        hub_home_url="/hub/home",
        public_url="",
    )


@pytest.fixture
async def service(site: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with served(site) as client:
        yield client


@pytest.fixture
def as_ada(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub says that it is Ada who asks."""

    async def prepare(handler: HubHandler) -> None:
        handler.person = Person("ada", frozenset({"vo.one"}))
        handler.current_user = handler._hub_auth_user_cache = None

    monkeypatch.setattr(HubHandler, "prepare", prepare)


async def ask_for_a_plan(service: httpx.AsyncClient, token: str = TOKEN, **more: Any) -> httpx.Response:
    question = {"user": "ada", "server_name": "", "repo": "gh/o/r/HEAD", **more}
    return await service.post("internal/plan", json=question, headers={"Authorization": f"Bearer {token}".strip()})


async def test_health_blames_the_database_where_it_is_the_database(
    service: httpx.AsyncClient, store: FailingStore
) -> None:
    answer = await service.get("health")
    assert (answer.status_code, answer.json()["message"]) == (503, "The database does not answer.")
    store.fails = False
    assert (await service.get("health")).status_code == 200


def test_who_is_in_no_vo_is_told_where_one_joins_those_that_would_do() -> None:
    vos = {
        "with-a-page": "https://vo.example.org/join?a=b&c=d",
        "without": "",
        "on-a-plain-page": "HTTP://vo.example.org/",
        "with-a-script": "javascript:alert(1)",
        "with-data": "data:text/html,x",
    }
    with pytest.raises(NotPermitted) as refused:
        PolicySet.alike(vos, Resources()).permitted(Person("ada", frozenset({"another"})))
    assert [name for name, _ in refused.value.vos] == sorted(vos)
    assert enrolments_of(refused.value) == [
        ("on-a-plain-page", "HTTP://vo.example.org/"),
        ("with-a-page", "https://vo.example.org/join?a=b&c=d"),
    ]


@pytest.mark.parametrize("error", [None, ValueError("x"), NotPermitted("You are not in vo.one.")])
def test_other_errors_name_no_vos(error: object) -> None:
    assert enrolments_of(error) == []


# the spawner's door


async def test_a_spawn_that_names_a_repository_counts_as_a_launch_of_its_person(
    service: httpx.AsyncClient, site: Any
) -> None:
    statuses = [(await ask_for_a_plan(service)).status_code for _ in range(2)]
    answer = await ask_for_a_plan(service)
    assert [*statuses, answer.status_code] == [403, 403, 429]
    assert answer.json()["message"].startswith("Too many requests from you. Try again in ")
    assert len(site.launches.wishes) == 2
    assert (await ask_for_a_plan(service, user="boris")).status_code == 403, "others are not held up"


async def test_people_of_a_prepared_event_are_not_told_so(service: httpx.AsyncClient, site: Any) -> None:
    site.launches.prepared = "gh/o/r/HEAD"
    answers = [await ask_for_a_plan(service) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {403}
    assert (await ask_for_a_plan(service, repo="gh/o/another/HEAD")).status_code == 429


async def test_the_person_is_told_that_they_ask_too_often(service: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    client = ReplayClient(str(service.base_url), tmp_path / "token")
    request = PlanRequest(user="ada", server_name="", repo="gh/o/r/HEAD")
    for sentence in ("You are not in None.", "You are not in None.", "Too many requests from you"):
        with pytest.raises(PlanRefused, match=sentence) as refused:
            await client.plan(request)
        assert refused.value.kind == "refused"
    await client._client.aclose()


@pytest.mark.parametrize("question", [{"repo": "gh/o/r/HEAD"}, {"repo": None, "launch": "0" * 32}])
async def test_a_named_server_has_no_plan(service: httpx.AsyncClient, question: dict[str, Any]) -> None:
    answer = await ask_for_a_plan(service, server_name="second", **question)
    assert (answer.status_code, answer.json()["message"]) == (403, NO_NAMED_SERVERS)


@pytest.mark.parametrize("token", ["", "Bearer", TOKEN])
async def test_a_service_without_a_token_opens_its_door_to_nobody(
    service: httpx.AsyncClient, site: Any, token: str
) -> None:
    site.internal_token = ""
    assert (await ask_for_a_plan(service, token)).status_code == 401


# what a request may hold


@pytest.mark.usefixtures("as_ada")
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"server_name": "second"}, f"server_name: {NO_NAMED_SERVERS}"),
        ({"server_name": ".."}, f"server_name: {NO_NAMED_SERVERS}"),
        ({"repo": "x" * 2001}, "repo: This is too long: 2001 characters, and at most 2000 are read."),
        ({"urlpath": "x" * 2001}, "urlpath: This is too long: 2001 characters, and at most 2000 are read."),
        ({"vo": "x" * 256}, "vo: This is too long: 256 characters, and at most 255 are read."),
        ({"version": "no version"}, "version: String should match pattern"),
        ({"version": "a" * 40 + "\n"}, "version: String should match pattern"),
    ],
)
async def test_a_request_that_holds_too_much_is_refused(
    service: httpx.AsyncClient, site: Any, more: dict[str, str], sentence: str
) -> None:
    answer = await service.post("api/launches", json={"repo": "gh/o/r/HEAD", **more})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(sentence)
    assert site.launches.wishes == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user", "x" * 256),
        ("server_name", "x" * 256),
        ("launch", "x" * 65),
        ("repo", "x" * 2001),
        ("vo", "x" * 256),
        ("urlpath", "x" * 2001),
        ("groups", ["x" * 256]),
        ("groups", ["x"] * 1001),
    ],
)
async def test_a_spawners_question_is_bounded(service: httpx.AsyncClient, field: str, value: Any) -> None:
    answer = await ask_for_a_plan(service, **{field: value})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(field)


@pytest.mark.usefixtures("as_ada")
async def test_what_ends_something_counts_as_a_launch(service: httpx.AsyncClient, site: Any) -> None:
    site.launch_limit.take("ada")
    site.launch_limit.take("ada")
    id = "0" * 32
    answers = [
        await service.delete(f"api/launches/{id}"),
        await service.post("servers/stop"),
        await service.post(f"launches/{id}/choice", data={"action": "give-up"}),
    ]
    assert [answer.status_code for answer in answers] == [429] * 3


# the log


@pytest.mark.usefixtures("as_ada")
async def test_what_a_stranger_writes_is_no_line_of_the_log(
    service: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    forged = "x\r\nERROR replay: the admin's password is 1234\x1b[2J\u202e"
    assert (await service.post("api/launches", json={"repo": "gh/o/r/HEAD", "vo": forged[:255]})).status_code == 403
    await service.get(f"api/{quote(forged)}{'y' * 1000}")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("replay")]
    assert len(ours) == 4
    for line in ours:
        assert line.isprintable()
        assert len(line) < 800


async def test_the_log_has_no_secrets_of_an_address(
    service: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await service.get("oauth_callback?code=SECRET&state=SECRET")
    await service.get("nowhere?_xsrf=SECRET")
    await service.get("health?_xsrf=SECRET")
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    assert any("503 'GET /services/replay/health' (127.0.0.1)" in line for line in ours)
    assert not [line for line in ours if "SECRET" in line and "oauth state argument" not in line]


async def test_an_address_puts_no_words_into_our_mouth(service: httpx.AsyncClient) -> None:
    answer = await service.get("oauth_callback?error=x&error_description=Call+0900-1234&state=x")
    assert answer.status_code == 400
    assert "The hub did not log you in. Open the link again to log in." in answer.text
    assert "0900" not in answer.text


# streams


@pytest.fixture
async def house(tmp_path: Path, site: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """The core behind the service's routes."""
    monkeypatch.setattr(core_fakes, "encode", encode_event)
    async with a_store(tmp_path) as store, a_house(store) as made:
        site.store, site.launches, site.feed, site.builds = store, made.launches, made.feed, made.builds
        yield made


async def a_launch(house: House, name: str) -> LaunchModel:
    person = Person(name, frozenset({"vo.one"}))
    launch = await house.launches.create(person, Wish("git/https%3A%2F%2Fgit.example.org%2Fhello/HEAD"))
    async for _ in house.feed.follow(launch_stream(launch.id)):
        break
    return LaunchModel.of(launch, "")


@pytest.mark.usefixtures("as_ada")
async def test_a_person_follows_so_many_streams_at_once_and_no_more(
    service: httpx.AsyncClient, house: House, site: Any
) -> None:
    launch = await a_launch(house, "ada")
    for _ in range(3):
        async with service.stream("GET", launch.events_url) as one, service.stream("GET", launch.events_url) as two:
            assert (one.status_code, two.status_code) == (200, 200)
            refused = await service.get(launch.events_url)
            assert (refused.status_code, "Close some of their pages" in refused.json()["message"]) == (429, True)
        async with asyncio.timeout(5):
            while site.stream_limit._held:  # noqa: ASYNC110 - nothing tells of a watcher that has left
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("as_ada")
async def test_a_watcher_is_not_told_of_a_failure_that_was_another_persons_giving_up(
    service: httpx.AsyncClient, house: House
) -> None:
    launch = await a_launch(house, "ada")
    first = await house.builder.next()
    first.say("first")
    lines: list[str] = []
    async with asyncio.timeout(10), service.stream("GET", launch.events_url) as stream:
        async for line in stream.aiter_lines():
            lines.append(line)
            if '"message": "first"' in line:
                await first.cancel()
                second = await house.builder.next(2)
                second.say("second")
                second.end(image())
    told = "\n".join(lines)
    assert '"phase": "failed"' not in told
    assert told.index('"first"') < told.index('"second"') < told.index('"phase": "ready"')
    found = await house.store.get_launch(LaunchId(launch.id))
    assert found is not None
    assert found.state is LaunchState.RUNNING


def test_only_a_launch_says_where_its_session_is() -> None:
    event = Event(1, EventKind.PHASE, Phase.READY, "/user/ada/größe", datetime.fromtimestamp(0, UTC))
    by_launch, by_build = (encode_event(stream, event).decode() for stream in ("launch:1", "build:1"))
    assert '"url": "/user/ada/größe"' in by_launch
    assert '"url"' not in by_build
