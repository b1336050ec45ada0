"""Sessions' own access tokens on a real hub, at a provider that takes each refresh token once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint
from demo.people import ADA
from tests.login_fixtures import Hub, Visitor, provider_and_hub

pytestmark = [pytest.mark.needs("proxy"), pytest.mark.one_hub_version]

PERMITTED = {"vo.notebooks.egi.eu": ""}
SERVERS = f"/users/{ADA.voperson_id}/servers"

# A spawner that gets its session a token and gives it back, as those of Replay do.
SETTINGS = """
from pathlib import Path
from jupyterhub.spawner import SimpleLocalProcessSpawner

class Giving(SimpleLocalProcessSpawner):
    async def start(self):
        self.given = await self.authenticator.session_token(self.user)
        Path(f"token-{self.name}").write_text(self.given.value)
        return await super().start()

    async def stop(self, now=False):
        await super().stop(now)
        await self.authenticator.end_session_token(self.user, self.given.value)

c.JupyterHub.spawner_class = Giving
c.JupyterHub.allow_named_servers = True
c.JupyterHub.log_level = "DEBUG"
c.EGICheckinAuthenticator.membership_seconds = 5
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CheckinStandIn, Hub]]:
    with provider_and_hub(tmp_path_factory.mktemp("hub")) as (checkin, hub):
        checkin.start()
        hub.start(PERMITTED, SETTINGS)
        yield checkin, hub


def introspected(checkin: CheckinStandIn, hub: Hub, token: str) -> dict[str, Any]:
    form = {"token": token, "client_id": "hub", "client_secret": hub.client_secret}
    return httpx.post(checkin.url_of(Endpoint.INTROSPECT), data=form).json()


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, f"not within {seconds} seconds"
        time.sleep(0.1)


def auth_state(hub: Hub) -> dict[str, Any]:
    return hub.user(ADA).json()["auth_state"]


def token_of_session(folder: Path, name: str) -> str:
    return (folder / f"token-{name}").read_text()


def test_two_sessions_have_tokens_of_their_own_and_the_end_of_one_ends_nothing_else(
    running: tuple[CheckinStandIn, Hub],
) -> None:
    checkin, hub = running
    checkin.settings.rotates_refresh_tokens = True
    with Visitor(hub) as ada:
        ada.log_in(ADA)
        at_login = auth_state(hub)
        with ThreadPoolExecutor(2) as both:
            answers = list(both.map(lambda name: hub.api("POST", f"{SERVERS}/{name}"), ("one", "other")))
        assert {answer.status_code for answer in answers} <= {201, 202}
        until(lambda: all(server["ready"] for server in hub.user(ADA).json()["servers"].values()))
        one, other = (token_of_session(hub.folder, name) for name in ("one", "other"))
        login = auth_state(hub)
        assert len({one, other, login["access_token"]}) == 3
        assert login["access_token"] == at_login["access_token"]
        assert login["refresh_token"] != at_login["refresh_token"]
        scopes = {"openid", "voperson_id", "eduperson_entitlement", "entitlements"}
        for token in (one, other):
            assert set(introspected(checkin, hub, token)["scope"].split()) == scopes

        assert hub.api("DELETE", f"{SERVERS}/one").status_code in {202, 204}
        hub.wait_for_log(f"Gave the token of a session of {ADA.voperson_id} back")
        assert introspected(checkin, hub, one) == {"active": False}
        assert introspected(checkin, hub, other)["active"]
        assert introspected(checkin, hub, login["access_token"])["active"]
        userinfo = checkin.url_of(Endpoint.USERINFO)
        assert httpx.get(userinfo, headers={"Authorization": f"Bearer {other}"}).json()["sub"] == ADA.voperson_id

        # The watch finds the login's access token worth nothing, and gets another by the refresh token that was kept.
        checkin.memory.revoke(login["access_token"])
        until(lambda: auth_state(hub)["access_token"] != login["access_token"])
        until(lambda: "claim" not in auth_state(hub)["replay_membership"])
        renewed = auth_state(hub)
        assert "email" in introspected(checkin, hub, renewed["access_token"])["scope"].split()
        assert "doubt" not in renewed["replay_membership"]
        assert ada.open("/hub/home").url.path == "/hub/home"
        for secret in (one, other, login["access_token"], login["refresh_token"], renewed["refresh_token"]):
            assert secret not in hub.log


def test_a_session_that_gets_no_token_says_why(running: tuple[CheckinStandIn, Hub]) -> None:
    checkin, hub = running
    with Visitor(hub) as ada:
        ada.log_in(ADA)
        checkin.end_logins(ADA, refresh_tokens_only=True)
        hub.api("POST", f"{SERVERS}/third")
        hub.wait_for_log("until you log in again: log out of this hub, and log in.")
