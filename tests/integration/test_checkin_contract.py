"""What the login expects of Check-in, of the stand-in and of the real one alike.

The real one is asked with ``REPLAY_TEST_LIVE=1`` and an account there: ``REPLAY_TEST_CHECKIN_CLIENT_ID``,
``REPLAY_TEST_CHECKIN_CLIENT_SECRET``, ``REPLAY_TEST_CHECKIN_REFRESH_TOKEN`` (of a login with all the scopes), and
``REPLAY_TEST_CHECKIN_VO``, a VO of that account; ``REPLAY_TEST_CHECKIN_ISSUER`` where it is not EGI's development instance.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from tornado.httpclient import HTTPClientError

from demo.checkin import CheckinStandIn
from demo.people import ADA
from replay_auth import EGICheckinAuthenticator
from replay_auth.discovery import ENDPOINTS, FURTHER_ENDPOINTS
from tests.checkin_application import CALLBACK, Application

pytestmark = pytest.mark.asyncio

NAMES = ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN", "VO")


@dataclass
class Account:
    """Somebody with a login at a provider."""

    ours: EGICheckinAuthenticator
    refresh_token: str
    vo: str
    tokens: dict[str, Any] | None = None

    async def refreshed(self) -> dict[str, Any]:
        """Once for all tests: the refresh token may work once only."""
        if self.tokens is None:
            params = self.ours.build_refresh_token_request_params(self.refresh_token)
            self.tokens = await self.ours.get_token_info(None, params)
        return self.tokens

    def introspected(self, token: str) -> dict[str, Any]:
        form = {"token": token, "client_id": self.ours.client_id, "client_secret": self.ours.client_secret}
        return httpx.post(self.ours.introspection_url, data=form, timeout=20).json()


@pytest.fixture(scope="module", params=["stand-in", pytest.param("check-in", marks=pytest.mark.live)])
def account(request: pytest.FixtureRequest) -> Iterator[Account]:
    if request.param == "stand-in":
        with CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=[CALLBACK]) as checkin:
            refresh_token = Application(checkin).log_in(ADA)["refresh_token"]
            yield _account(checkin.issuer, "app", "secret", refresh_token, "vo.notebooks.egi.eu")
        return
    given = {name: os.environ.get(f"REPLAY_TEST_CHECKIN_{name}", "") for name in NAMES}
    if missing := [f"REPLAY_TEST_CHECKIN_{name}" for name, value in given.items() if not value]:
        pytest.skip(f"no account at Check-in: set {', '.join(missing)}")
    issuer = os.environ.get("REPLAY_TEST_CHECKIN_ISSUER", "https://aai-dev.egi.eu/auth/realms/egi")
    yield _account(issuer, *given.values())


def _account(issuer: str, client_id: str, client_secret: str, refresh_token: str, vo: str) -> Account:
    sources = [("urn:mace:egi.eu", authority) for authority in ("aai.egi.eu", "aai-demo.egi.eu", "aai-dev.egi.eu")]
    settings: dict[str, Any] = {"issuer": issuer, "client_id": client_id, "client_secret": client_secret}
    ours = EGICheckinAuthenticator(permitted_vos={vo: ""}, trusted_sources=sources, **settings)
    return Account(ours, refresh_token, vo)


async def test_its_configuration_has_all_addresses(account: Account) -> None:
    await account.ours.know_endpoints()
    optional = {"revocation_url"}
    for name in {*ENDPOINTS, *FURTHER_ENDPOINTS} - optional:
        assert getattr(account.ours, name).startswith(account.ours.issuer.partition(":")[0]), name


async def test_a_refresh_gives_an_access_token_and_an_id_token_that_is_believed(account: Account) -> None:
    tokens = await account.refreshed()
    assert tokens["expires_in"] > 0
    assert set(tokens["scope"].split()) & {"entitlements", "eduperson_entitlement"}
    assert tokens["id_token"], "which was verified when it came"
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert not {"entitlements", "eduperson_entitlement"} & claims.keys(), "memberships are elsewhere"


async def test_userinfo_says_who_it_is_and_in_which_vos(account: Account) -> None:
    claims = await account.ours.token_to_user(await account.refreshed())
    assert account.ours.user_info_to_username(claims)
    assert account.vo in " ".join(account.ours.permitted_vos_of({"oauth_user": claims}))


async def test_introspection_says_the_same_and_for_whom_and_how_long(account: Account) -> None:
    token = (await account.refreshed())["access_token"]
    told = account.introspected(token)
    assert told["active"] is True
    assert told["exp"] > time.time()
    assert account.ours.client_id in {told.get("azp"), told.get("client_id")}
    assert told["sub"] == (await account.ours.token_to_user(await account.refreshed()))["sub"]
    assert account.vo in " ".join(account.ours.permitted_vos_of({"oauth_user": told}))


async def test_what_was_invented_is_worth_nothing(account: Account) -> None:
    assert account.introspected("invented") == {"active": False}
    for attempt in (
        account.ours.token_to_user({"access_token": "invented", "token_type": "Bearer"}),
        account.ours.get_token_info(None, account.ours.build_refresh_token_request_params("invented")),
    ):
        with pytest.raises(HTTPClientError) as refused:
            await attempt
        assert refused.value.code in {400, 401}
