"""What goes to the hub's API: no name may lead to another address than its own."""

import httpx
import pytest

from replay_build_service.domain import LaunchId
from replay_build_service.errors import Conflict
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
