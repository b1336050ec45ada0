"""Memberships while servers run, on a real hub: who loses the last VO has no access within the bound, and nobody else is hurt."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint, Failing
from demo.people import ADA, CHIARA, DMITRI, Person
from tests.login_fixtures import Hub, Visitor, provider_and_hub
from tests.site import ORDINARY_SERVERS, Site

pytestmark = pytest.mark.needs("proxy")

PERMITTED = {"vo.notebooks.egi.eu": "", "vo.access.egi.eu": ""}
BOUND = 8.0
"""Seconds after which a lost membership has ended access."""

SETTINGS = f"""
c.EGICheckinAuthenticator.membership_seconds = {BOUND}
c.EGICheckinAuthenticator.auth_refresh_age = 1
c.JupyterHub.allow_named_servers = True
c.EGICheckinAuthenticator.admin_users = {{{CHIARA.voperson_id!r}}}
c.JupyterHub.load_roles.append({{"name": "more", "services": ["tester"], "scopes": ["tokens"]}})
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CheckinStandIn, Hub]]:
    with provider_and_hub(tmp_path_factory.mktemp("hub")) as (checkin, hub):
        checkin.start()
        hub.start(PERMITTED, SETTINGS)
        yield checkin, hub


@pytest.fixture
def checkin(running: tuple[CheckinStandIn, Hub]) -> Iterator[CheckinStandIn]:
    yield running[0]
    running[0].recover()
    running[0].controls.reset()


@pytest.fixture
def hub(running: tuple[CheckinStandIn, Hub]) -> Iterator[Hub]:
    hub = running[1]
    yield hub
    for person in (ADA, DMITRI):
        for path in ("server", "servers/beside"):
            hub.api("DELETE", f"/users/{person.voperson_id}/{path}")
    until(lambda: not servers(hub), 30)


@pytest.fixture
def visitor(hub: Hub) -> Iterator[Visitor]:
    with Visitor(hub) as somebody:
        yield somebody


def servers(hub: Hub) -> list[psutil.Process]:
    """The processes of people's servers, looked at in the machine and not at the hub."""
    assert hub._process
    found = []
    for process in psutil.Process(hub._process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any("the server of" in word for word in process.cmdline()):
                found.append(process)
    return found


def until(holds: Any, seconds: float) -> float:
    """How long it took, in seconds; fails where it takes longer."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, f"not within {seconds} seconds"
        time.sleep(0.05)
    return time.monotonic() - begun


def start_server(hub: Hub, person: Person, name: str = "") -> None:
    path = f"servers/{name}" if name else "server"
    answer = hub.api("POST", f"/users/{person.voperson_id}/{path}")
    assert answer.status_code in {201, 202}, answer.text
    until(lambda: hub.user(person).json()["servers"].get(name, {}).get("ready"), 60)


def token_of(hub: Hub, person: Person) -> str:
    answer = httpx.post(
        f"{hub.url}/hub/api/users/{person.voperson_id}/tokens",
        headers={"Authorization": f"token {hub.api_token}"},
        json={"note": "test"},
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


def ask_with(hub: Hub, token: str, path: str = "/api/user") -> httpx.Response:
    return httpx.get(f"{hub.url}/hub{path}", headers={"Authorization": f"token {token}"}, timeout=30)


def notes(hub: Hub, person: Person) -> dict[str, Any]:
    return hub.user(person).json()["auth_state"]["replay_membership"]


LOSSES = {
    "the entitlement is removed": lambda checkin: checkin.set_entitlements(ADA),
    "suspended": lambda checkin: checkin.suspend(ADA),
    "unknown at the provider": lambda checkin: checkin.suspend(ADA, inactive=True),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_who_loses_the_vo_has_nothing_left_within_the_bound_although_nobody_clicks(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor, loss: Any
) -> None:
    visitor.log_in(ADA)
    token = token_of(hub, ADA)
    start_server(hub, ADA)
    start_server(hub, ADA, "beside")
    assert len(servers(hub)) == 2
    with Visitor(hub) as somebody_else:
        somebody_else.log_in(DMITRI)
        start_server(hub, DMITRI)
    # From here on nobody opens a page or asks the hub's API.
    loss(checkin)
    took = until(lambda: len(servers(hub)) == 1, BOUND)
    assert took < BOUND
    assert hub.user(DMITRI).json()["servers"][""]["ready"], "a member's server goes on"
    until(lambda: hub.user(ADA).json()["servers"] == {}, 10)
    assert hub.user(ADA).json()["groups"] == []
    assert ask_with(hub, token).status_code == 403
    assert visitor.open("/hub/home").url.path == "/hub/login", "the cookie is worth nothing any more"
    refused = hub.api("POST", f"/users/{ADA.voperson_id}/server")
    assert refused.status_code == 403, "nor can anybody start a server in their place"
    assert f"{ADA.voperson_id} is a member no more" in hub.log


def test_a_token_of_the_hub_ends_with_the_membership_without_a_server(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    visitor.log_in(ADA)
    token = token_of(hub, ADA)
    assert ask_with(hub, token).status_code == 200
    checkin.suspend(ADA)
    until(lambda: notes(hub, ADA).get("is_lost"), BOUND)
    assert ask_with(hub, token).status_code == 403


def test_a_request_with_a_token_is_refused_in_the_moment_in_which_the_loss_is_noticed(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    visitor.log_in(ADA)
    token = token_of(hub, ADA)
    ask_with(hub, token)
    checkin.set_entitlements(ADA)
    # auth_refresh_age is a second.
    until(lambda: ask_with(hub, token).status_code == 403, BOUND)
    assert "Traceback" not in ask_with(hub, token).text


def test_who_comes_back_to_the_vo_logs_in_and_starts_a_server_again(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    visitor.log_in(ADA)
    start_server(hub, ADA)
    checkin.suspend(ADA)
    until(lambda: not servers(hub), BOUND)
    # The provider remembers who it is.
    assert visitor.open("/hub/oauth_login?next=/hub/home").status_code == 403
    checkin.restore(ADA)
    assert visitor.open("/hub/oauth_login?next=/hub/home").url.path == "/hub/home"
    start_server(hub, ADA)
    asked = checkin.controls.requests[Endpoint.USERINFO]
    until(lambda: checkin.controls.requests[Endpoint.USERINFO] > asked + 1, 2 * BOUND)
    assert len(servers(hub)) == 1


@pytest.mark.parametrize("fault", [503, Failing.REFUSE, Failing.DISCONNECT], ids=str)
def test_a_fault_of_the_provider_costs_nobody_their_login_or_their_server(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor, fault: int | Failing
) -> None:
    visitor.log_in(ADA)
    start_server(hub, ADA)
    before = hub.log.count("cannot be looked at")
    checkin.fail(fault, Endpoint.USERINFO, Endpoint.TOKEN)
    hub.wait_for_log("cannot be looked at", times=before + 1)
    assert visitor.open("/hub/home").url.path == "/hub/home"
    assert notes(hub, ADA)["doubt"]["cause"] == "fault"
    assert len(servers(hub)) == 1
    time.sleep(max(0.0, notes(hub, ADA)["answered_at"] + BOUND + 0.1 - time.time()))
    refused = hub.api("POST", f"/users/{ADA.voperson_id}/servers/beside")
    assert refused.status_code == 403
    assert "does not answer" in refused.json()["message"], "no server starts by what was proved too long ago"
    checkin.recover()
    until(lambda: "doubt" not in notes(hub, ADA), 2 * BOUND + 10)
    assert len(servers(hub)) == 1


def test_a_login_that_ended_at_the_provider_is_made_again_while_the_server_lives(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    checkin.settings.access_token_seconds = 2
    visitor.log_in(ADA)
    start_server(hub, ADA)
    checkin.end_logins(ADA, refresh_tokens_only=True)
    until(lambda: notes(hub, ADA).get("doubt", {}).get("cause") == "login-needed", BOUND)
    until(lambda: visitor.open("/hub/home").url.path == "/hub/login", BOUND)
    assert len(servers(hub)) == 1
    assert visitor.open("/hub/oauth_login?next=/hub/home").url.path == "/hub/home"
    assert "doubt" not in notes(hub, ADA)


def test_a_server_that_is_left_running_at_a_logout_ends_within_the_bound_of_a_loss_and_not_before(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    visitor.log_in(ADA)
    token = token_of(hub, ADA)
    start_server(hub, ADA)
    asked = checkin.controls.requests[Endpoint.USERINFO]
    visitor.log_out()
    until(lambda: checkin.controls.requests[Endpoint.USERINFO] > asked + 1, 2 * BOUND)
    assert len(servers(hub)) == 1
    assert "doubt" not in notes(hub, ADA)
    assert checkin.controls.requests[Endpoint.REVOKE] == 0
    checkin.set_entitlements(ADA)
    until(lambda: not servers(hub), BOUND)
    assert ask_with(hub, token).status_code == 403


def test_tokens_go_back_after_a_logout_when_all_is_gone_that_was_left(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    visitor.log_in(ADA)
    start_server(hub, ADA)
    visitor.log_out()
    hub.wait_for_log(f"Kept the tokens of {ADA.voperson_id}")
    assert hub.api("DELETE", f"/users/{ADA.voperson_id}/server").status_code in {202, 204}
    assert checkin.controls.wait_for_requests(Endpoint.REVOKE, 2)


def test_tokens_that_live_for_seconds_and_rotate_keep_a_membership_fresh(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    checkin.settings.access_token_seconds = 2
    checkin.settings.rotates_refresh_tokens = True
    visitor.log_in(ADA)
    start_server(hub, ADA)
    asked = checkin.controls.requests[Endpoint.TOKEN]
    for _ in range(5):
        # A page, the watch and a start of a server, all at the same time.
        visitor.open("/hub/home")
        hub.api("POST", f"/users/{ADA.voperson_id}/servers/beside")
        hub.api("DELETE", f"/users/{ADA.voperson_id}/servers/beside")
        until(lambda: time.time() > notes(hub, ADA).get("expires_at", 0), 10)
    assert checkin.controls.requests[Endpoint.TOKEN] >= asked + 4
    assert "doubt" not in notes(hub, ADA)
    assert visitor.open("/hub/home").url.path == "/hub/home"


def test_administrators_see_whose_membership_is_in_doubt_and_nobody_else_does(
    checkin: CheckinStandIn, hub: Hub, visitor: Visitor
) -> None:
    visitor.log_in(ADA)
    start_server(hub, ADA)
    with Visitor(hub) as admin:
        admin.log_in(CHIARA)
        checkin.fail(503, Endpoint.USERINFO)
        until(lambda: notes(hub, ADA).get("doubt"), BOUND + 10)
        told = ask_with(hub, hub.api_token, "/replay/membership").json()
        (ada,) = [person for person in told["people"] if person["name"] == ADA.voperson_id]
        assert (ada["cause"], ada["is_over"]) == ("fault", False)
        assert told["people_watched"] == 1, (
            "an administrator without a server or a token is asked about on their next click"
        )
        assert told["watch_is_failing"] is False
        page = admin.open("/hub/replay/membership")
        assert page.status_code == 200
        assert ADA.voperson_id in page.text
        assert "There is no answer about this membership" in page.text
        assert "script" not in page.text
    assert visitor.open("/hub/replay/membership").status_code == 403
    assert ask_with(hub, token_of(hub, ADA), "/replay/membership").status_code == 403
    assert ask_with(hub, "no-token", "/replay/membership").status_code == 403
    with Visitor(hub) as stranger:
        assert stranger.open("/hub/replay/membership").url.path == "/hub/login"


def test_after_the_grace_servers_stop_and_a_restart_does_not_begin_it_anew(tmp_path: Path) -> None:
    grace = 12.0
    with provider_and_hub(tmp_path / "hub") as (checkin, hub), Visitor(hub) as visitor:
        checkin.start()
        settings = SETTINGS + f"c.EGICheckinAuthenticator.membership_grace = {grace}\n"
        hub.start(PERMITTED, settings)
        visitor.log_in(ADA)
        checkin.fail(503, Endpoint.USERINFO)
        until(lambda: visitor.open("/hub/home").status_code == 200 and notes(hub, ADA).get("doubt"), BOUND + 10)
        since = notes(hub, ADA)["doubt"]["since"]
        hub.stop()
        hub.start(PERMITTED, settings)
        visitor.open("/hub/home")
        assert notes(hub, ADA)["doubt"]["since"] == since
        until(lambda: time.time() > since + grace, grace)
        until(lambda: visitor.open("/hub/home").url.path == "/hub/login", BOUND + 15)
        checkin.recover()
        # Nothing was taken for good: the same cookie does again.
        until(lambda: visitor.open("/hub/home").url.path == "/hub/home", 20)


def test_a_server_stops_after_the_grace_although_nobody_clicks(tmp_path: Path) -> None:
    grace = 6.0
    with provider_and_hub(tmp_path / "hub") as (checkin, hub), Visitor(hub) as visitor:
        checkin.start()
        hub.start(PERMITTED, SETTINGS + f"c.EGICheckinAuthenticator.membership_grace = {grace}\n")
        visitor.log_in(ADA)
        start_server(hub, ADA)
        checkin.fail(503)
        took = until(lambda: not servers(hub), BOUND + grace + BOUND)
        assert took > grace


def test_without_replay_nothing_of_the_watch_stays_in_the_hubs_database(tmp_path: Path) -> None:
    with provider_and_hub(tmp_path / "hub") as (checkin, hub), Visitor(hub) as visitor:
        checkin.start()
        hub.start(PERMITTED, SETTINGS)
        visitor.log_in(ADA)
        start_server(hub, ADA)
        checkin.suspend(ADA)
        until(lambda: not servers(hub), BOUND)
        assert kept_of_the_watch(hub) == {"roles": 1, "services": 1, "api_tokens": 1}
        hub.stop()
        hub.start(PERMITTED, SETTINGS + 'c.JupyterHub.authenticator_class = "dummy"\n')
        assert kept_of_the_watch(hub) == {"roles": 0, "services": 0, "api_tokens": 0}


def kept_of_the_watch(hub: Hub) -> dict[str, int]:
    """How many rows of the hub's database are the watch's, by table."""
    columns = {"roles": "name", "services": "name", "api_tokens": "note"}
    with closing(sqlite3.connect(hub.folder / "hub.sqlite", timeout=10)) as database:
        return {
            table: database.execute(f"SELECT count(*) FROM {table} WHERE {column} = 'replay-membership'").fetchone()[0]
            for table, column in columns.items()
        }


def test_replay_knows_nobody_any_more_whose_membership_is_lost(new_site: Callable[..., Site], tmp_path: Path) -> None:
    cache_seconds = 2
    more = tmp_path / "more"
    more.mkdir()
    # Read by the hub and by the service.
    (more / "cache.py").write_text(f"c.ReplayBuildService.hub_cache_seconds = {cache_seconds}\n")
    site = new_site(
        settings={"MEMBERSHIP_SECONDS": str(BOUND), "EXTRA_CONFIG": str(more)}, extra_config=ORDINARY_SERVERS
    )
    client = site.client(ADA)
    assert client.http.get(f"api/launches/{'0' * 32}").status_code == 404, "known, and asks for a launch that is none"
    assert site.ask_for_server(ADA).status_code in {201, 202}
    until(lambda: (site.server(ADA) or {}).get("ready"), 60)
    server = site.server(ADA)
    assert server
    session = psutil.Process(server["state"]["pid"])
    # From here on nobody opens a page or asks the hub or the service.
    site.checkin.set_entitlements(ADA)
    until(lambda: not session.is_running() or session.status() == psutil.STATUS_ZOMBIE, BOUND)
    until(lambda: client.http.get(f"api/launches/{'0' * 32}").status_code in {401, 403}, cache_seconds + 1)
