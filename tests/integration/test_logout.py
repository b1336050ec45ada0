"""The end of a login, over HTTP: at the hub always, at the provider where that is wanted, whatever the provider does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint, Failing
from demo.people import ADA
from tests.login_fixtures import Hub, Visitor, provider_and_hub

pytestmark = pytest.mark.needs("proxy")

PERMITTED = {"vo.notebooks.egi.eu": ""}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CheckinStandIn, Hub]]:
    with provider_and_hub(tmp_path_factory.mktemp("hub")) as (checkin, hub):
        checkin.start()
        hub.start(PERMITTED)
        yield checkin, hub


@pytest.fixture
def checkin(running: tuple[CheckinStandIn, Hub]) -> Iterator[CheckinStandIn]:
    yield running[0]
    running[0].recover()
    running[0].controls.reset()


@pytest.fixture
def hub(running: tuple[CheckinStandIn, Hub]) -> Hub:
    return running[1]


@pytest.fixture
def visitor(hub: Hub) -> Iterator[Visitor]:
    with Visitor(hub) as somebody:
        yield somebody


def stored_tokens(hub: Hub) -> dict[str, str]:
    state: dict[str, Any] = hub.user(ADA).json()["auth_state"]
    return {kind: state[kind] for kind in ("access_token", "refresh_token")}


def active(checkin: CheckinStandIn, hub: Hub, token: str) -> bool:
    form = {"token": token, "client_id": "hub", "client_secret": hub.client_secret}
    return httpx.post(checkin.url_of(Endpoint.INTROSPECT), data=form).json()["active"]


def is_logged_in(visitor: Visitor) -> bool:
    return visitor.open("/hub/home").url.path == "/hub/home"


def test_a_logout_ends_the_session_and_revokes_the_tokens(checkin: CheckinStandIn, hub: Hub, visitor: Visitor) -> None:
    visitor.log_in(ADA)
    tokens = stored_tokens(hub)
    assert all(active(checkin, hub, token) for token in tokens.values())
    page = visitor.log_out()
    assert page.status_code == 200
    assert urlsplit(str(page.url)).netloc == urlsplit(hub.url).netloc, "the provider is asked only where that is set"
    assert not is_logged_in(visitor)
    hub.wait_for_log("Revoked the tokens of")
    assert not any(active(checkin, hub, token) for token in tokens.values())
    assert "prompt" not in str(visitor.open("/hub/oauth_login?next=/hub/home").url)
    assert is_logged_in(visitor), "the provider still knows who it was, and gives new tokens"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_on_another_site_logs_out_of_the_hub_and_revokes_nothing(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor, site: str
) -> None:
    visitor.log_in(ADA)
    tokens = stored_tokens(hub)
    visitor.log_out(**{"Sec-Fetch-Site": site})
    assert not is_logged_in(visitor)
    visitor.open("/hub/oauth_login?next=/hub/home")  # the provider remembers who it was
    before = hub.log.count("Revoked the tokens of")
    visitor.log_out(**{"Sec-Fetch-Site": "same-origin"})
    hub.wait_for_log("Revoked the tokens of", times=before + 1)
    assert checkin.controls.requests[Endpoint.REVOKE] == 2, "the two of the second logout"
    assert all(active(checkin, hub, token) for token in tokens.values())


@pytest.mark.parametrize("fault", [503, 400, Failing.DISCONNECT, Failing.REFUSE], ids=str)
def test_a_provider_that_does_not_revoke_keeps_nobody_logged_in(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor, fault: int | Failing
) -> None:
    visitor.log_in(ADA)
    checkin.fail(fault, Endpoint.REVOKE)
    before = hub.log.count("could not be revoked")
    assert visitor.log_out().status_code == 200
    assert not is_logged_in(visitor)
    hub.wait_for_log("could not be revoked", times=before + 1)


def test_a_logout_does_not_wait_for_the_provider(checkin: CheckinStandIn, hub: Hub, visitor: Visitor) -> None:
    visitor.log_in(ADA)
    checkin.fail(Failing.HANG, Endpoint.REVOKE)
    visitor.log_out()
    assert not is_logged_in(visitor)
    assert checkin.controls.wait_for_requests(Endpoint.REVOKE, 1), "and it was asked, and is still asked"


def test_who_is_not_logged_in_logs_out_without_asking_the_provider(checkin: CheckinStandIn, visitor: Visitor) -> None:
    assert visitor.log_out().status_code == 200
    assert checkin.controls.requests[Endpoint.REVOKE] == 0


def test_a_logout_leads_to_the_provider_and_back_where_that_is_set(tmp_path: Path) -> None:
    with provider_and_hub(tmp_path / "hub") as (checkin, hub), Visitor(hub) as visitor:
        checkin.start()
        checkin.settings.lists_revocation = False
        hub.start(PERMITTED, "c.EGICheckinAuthenticator.logout_at_provider = True\nc.Authenticator.auto_login = True")
        visitor.log_in(ADA)
        assert "Who are you?" not in visitor.open("/hub/oauth_login?next=/hub/home").text, "the provider remembers"
        page = visitor.log_out()
        assert (page.status_code, page.url.path) == (200, "/hub/logout")
        assert "id_token_hint" not in str(page.url)
        assert checkin.controls.requests[Endpoint.LOGOUT] == 1
        assert checkin.controls.requests[Endpoint.REVOKE] == 0, "the provider lists no address for it"
        assert "Who are you?" in visitor.open("/hub/oauth_login?next=/hub/home").text, "the provider has forgotten"
        # The hub starts anew, and the provider does not answer: it is not known where it logs people out.
        visitor.log_in(ADA)
        hub.stop()
        checkin.fail(Failing.REFUSE)
        hub.start(PERMITTED, "c.EGICheckinAuthenticator.logout_at_provider = True\nc.Authenticator.auto_login = True")
        page = visitor.log_out()
        assert (page.status_code, page.url.path) == (200, "/hub/logout")
        # Who asks for a page now is sent to the provider: the hub itself knows nobody.
        assert visitor.open("/hub/home").url.path == "/hub/oauth_login"
