"""What goes to the hub's API: no name may lead to another address than its own."""

import re

import httpx
import pytest

from replay_build_service.domain import LaunchId
from replay_build_service.errors import Conflict, Refused, SourceFault
from replay_build_service.hub import HubClient


@pytest.mark.parametrize("name", ["..", ".", "../../users/eve", "a/b", "..\\x"])
async def test_a_name_that_could_lead_elsewhere_is_not_asked_for(name: str) -> None:
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(204)

    async with HubClient("http://hub/hub/api", "token", transport=httpx.MockTransport(answer)) as hub:
        for user, server_name in ((name, ""), ("ada", name)):
            with pytest.raises(Conflict, match="of such a name"):
                await hub.stop(user, server_name)
            with pytest.raises(Conflict):
                await hub.start(user, server_name, LaunchId("0" * 32))
            with pytest.raises(Conflict):
                async for _ in hub.progress(user, server_name):
                    pass
        with pytest.raises(Conflict):
            await hub.server(name, "")
        assert asked == []
        await hub.stop("a?b#c %2e%2e", "")
    assert [url.raw_path for url in asked] == [b"/hub/api/users/a%3Fb%23c%20%252e%252e/server"]


@pytest.mark.parametrize(
    ("told", "groups"),
    [({"groups": ["vo.one"]}, frozenset({"vo.one"})), ({"groups": []}, frozenset[str]()), ({}, None)],
)
async def test_a_server_comes_with_the_groups_of_its_person_where_the_service_may_read_them(
    told: dict[str, list[str]], groups: frozenset[str] | None
) -> None:
    server = {"ready": True, "url": "/user/ada/", "user_options": {"launch": "0" * 32}}
    answer = httpx.Response(200, json={"name": "ada", "servers": {"": server}, **told})
    async with HubClient("http://hub/hub/api", "token", transport=httpx.MockTransport(lambda _: answer)) as hub:
        assert (await hub.server("ada", "")).groups == groups
        assert (await hub.server("ada", "other")).groups == groups


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (httpx.Response(403, json={"message": "no"}), Refused, "access:servers!user"),
        (httpx.Response(404, json={"message": "no"}), Conflict, "Your session has ended"),
        (httpx.Response(400, json={"message": "Why."}), Conflict, "did not open your session for reading: Why."),
        (httpx.Response(200, json={"url": "http://x/"}), SourceFault, "was not understood"),
        (httpx.Response(503), SourceFault, "does not answer just now"),
    ],
    ids=["refused", "gone", "other", "no model", "away"],
)
async def test_why_a_session_cannot_be_read_is_told(answer: httpx.Response, error: type[Exception], told: str) -> None:
    async with HubClient("http://hub/hub/api", "token", transport=httpx.MockTransport(lambda _: answer)) as hub:
        with pytest.raises(error, match=re.escape(told)):
            await hub.reading("ada", LaunchId("0" * 32), "the-persons")


async def test_a_session_is_read_in_its_persons_name_and_not_in_the_services() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"url": "http://10.0.0.1:8888/user/ada/", "token": "way-in", "seconds": 600})

    async with HubClient("http://hub/hub/api", "the-services", transport=httpx.MockTransport(answer)) as hub:
        reading = await hub.reading("ada", LaunchId("0" * 32), "the-persons")
    assert "way-in" not in repr(reading)
    (request,) = asked
    assert request.headers.get_list("Authorization") == ["token the-persons"]
    assert request.url == "http://hub/hub/api/replay/sessions/ada/reading"
