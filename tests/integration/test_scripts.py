"""Scripts that buy a token of the hub's with one of Check-in's, on a real hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint, Failing
from demo.people import ADA, BORIS, CHIARA, DMITRI, EVA, FARAH, Person
from tests.login_fixtures import Hub, Visitor, provider_and_hub

pytestmark = pytest.mark.needs("proxy")

ROOT = Path(__file__).resolve().parents[2]
PERMITTED = {"vo.notebooks.egi.eu": "", "vo.access.egi.eu": ""}
SCRIPTS = "my-scripts"
OWN_SERVER = "servers!user"

SETTINGS = f"""
c.JupyterHub.load_roles.append({{"name": "user", "scopes": ["self", "access:services!service=tester"]}})
c.JupyterHub.load_roles.append({{"name": "more", "services": ["tester"], "scopes": ["tokens", "read:tokens"]}})
c.EGICheckinAuthenticator.script_audiences = [{SCRIPTS!r}]
c.EGICheckinAuthenticator.script_scopes = ["access:services!service=tester", {OWN_SERVER!r}, "read:users!user"]
c.EGICheckinAuthenticator.scripts_per_minute_of_address = 1000
c.EGICheckinAuthenticator.scripts_per_minute_of_person = 1000
c.EGICheckinAuthenticator.blocked_users = {{{FARAH.voperson_id!r}}}
c.EGICheckinAuthenticator.membership_seconds = 8
c.EGICheckinAuthenticator.auth_refresh_age = 1
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CheckinStandIn, Hub]]:
    with provider_and_hub(tmp_path_factory.mktemp("hub")) as (checkin, hub):
        checkin.start()
        hub.start(PERMITTED, SETTINGS)
        with Visitor(hub) as visitor:
            visitor.log_in(ADA)
        yield checkin, hub


@pytest.fixture
def checkin(running: tuple[CheckinStandIn, Hub]) -> Iterator[CheckinStandIn]:
    yield running[0]
    running[0].recover()
    running[0].controls.reset()


@pytest.fixture
def hub(running: tuple[CheckinStandIn, Hub]) -> Hub:
    return running[1]


def buy(hub: Hub, token: str | None, body: Any = None, **headers: str) -> httpx.Response:
    sent = headers if token is None else {"Authorization": f"Bearer {token}", **headers}
    content = body if isinstance(body, str) else None if body is None else json.dumps(body)
    return httpx.post(f"{hub.url}/hub/replay/token", headers=sent, content=content, timeout=30)


def bring(checkin: CheckinStandIn, person: Person = ADA, **options: Any) -> str:
    return checkin.give_access_token(person, **{"client_id": SCRIPTS, **options})


def ask(hub: Hub, token: str, path: str = "user", method: str = "GET") -> httpx.Response:
    headers = {"Authorization": f"token {token}"}
    return httpx.request(method, f"{hub.url}/hub/api/{path}", headers=headers, timeout=30)


def auth_state(hub: Hub, person: Person = ADA) -> dict[str, Any]:
    return hub.user(person).json()["auth_state"]


def test_a_token_of_check_in_buys_one_of_the_hub(checkin: CheckinStandIn, hub: Hub) -> None:
    answer = buy(hub, bring(checkin))
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    bought = answer.json()
    assert bought["user"] == ADA.voperson_id
    me = ask(hub, bought["token"])
    assert me.status_code == 200
    assert me.json()["name"] == ADA.voperson_id
    assert any(scope.startswith("servers!") or scope.startswith("start:servers!") for scope in me.json()["scopes"])
    assert ask(hub, bought["token"], f"users/{ADA.voperson_id}/tokens").status_code == 403, "no more than its scopes"
    assert ask(hub, bought["token"], f"users/{ADA.voperson_id}/tokens", "POST").status_code == 403
    assert ask(hub, bought["token"], "users").status_code == 403


def test_it_lives_no_longer_than_what_bought_it(checkin: CheckinStandIn, hub: Hub) -> None:
    brought = bring(checkin, seconds=90)
    bought = buy(hub, brought).json()
    assert 80 < bought["expires_in"] <= 90
    of_check_in = checkin.memory.of_access_token(brought)
    assert of_check_in
    listed = hub.api("GET", f"/users/{ADA.voperson_id}/tokens").json()["api_tokens"]
    kept = max(listed, key=lambda token: token["created"])
    ends = datetime.fromisoformat(kept["expires_at"]).timestamp()
    assert ends - 1 < datetime.fromisoformat(bought["expires_at"]).timestamp() <= ends
    assert ends <= of_check_in.issued_at + of_check_in.expires_in
    assert SCRIPTS in kept["note"]
    short = buy(hub, bring(checkin, seconds=90), {"expires_in": 5}).json()
    assert short["expires_in"] == 5
    longer = buy(hub, bring(checkin, seconds=90), {"expires_in": 100_000}).json()
    assert longer["expires_in"] <= 90
    assert buy(hub, bring(checkin, seconds=1_000_000)).json()["expires_in"] == 3600


def test_it_really_ends(checkin: CheckinStandIn, hub: Hub) -> None:
    token = buy(hub, bring(checkin), {"expires_in": 2}).json()["token"]
    assert ask(hub, token).status_code == 200
    time.sleep(2.1)
    assert ask(hub, token).status_code == 403


def test_a_clock_ahead_at_the_provider_makes_it_no_longer(checkin: CheckinStandIn, hub: Hub) -> None:
    checkin.settings.clock_skew_seconds = 5000
    assert buy(hub, bring(checkin, seconds=60)).json()["expires_in"] <= 60


def test_a_script_may_ask_for_less(checkin: CheckinStandIn, hub: Hub) -> None:
    token = buy(hub, bring(checkin), {"scopes": ["read:users!user"]}).json()["token"]
    assert ask(hub, token).json()["name"] == ADA.voperson_id
    assert ask(hub, token, f"users/{ADA.voperson_id}/server", "POST").status_code in {403, 404}


REFUSED = {
    "another application's": (lambda checkin: bring(checkin, client_id="other"), "for another application"),
    "another audience": (lambda checkin: bring(checkin, audience=["other"]), "for another application"),
    "the hub's own client": (lambda checkin: bring(checkin, client_id=None), "for another application"),
    "expired": (lambda checkin: bring(checkin, seconds=0), "not active"),
    "invented": (lambda _: "x" * 40, "not active"),
    "suspended account": (lambda checkin: checkin.suspend(ADA, inactive=True) or bring(checkin), "not active"),
    "no token at all": (lambda _: None, "Authorization: Bearer"),
    "too long": (lambda _: "x" * 9000, "Authorization: Bearer"),
}


@pytest.mark.parametrize(("token", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_token_that_proves_nothing_is_refused_with_a_number(
    checkin: CheckinStandIn, hub: Hub, token: Any, sentence: str
) -> None:
    answer = buy(hub, token(checkin))
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert sentence in answer.json()["message"]
    hub.wait_for_log(f"[{answer.json()['report']}]")
    assert "token" not in answer.json()


def test_a_token_for_several_is_good_where_one_of_them_is_named(checkin: CheckinStandIn, hub: Hub) -> None:
    assert buy(hub, bring(checkin, client_id="other", audience=["x", SCRIPTS])).status_code == 201


@pytest.mark.parametrize("person", [BORIS, EVA], ids=lambda person: person.name)
def test_who_is_in_no_permitted_vo_buys_nothing(checkin: CheckinStandIn, hub: Hub, person: Person) -> None:
    answer = buy(hub, bring(checkin, person))
    assert answer.status_code == 403
    assert "None of the VOs" in answer.json()["message"]
    assert hub.user(person).status_code == 404


def test_who_is_blocked_buys_nothing(checkin: CheckinStandIn, hub: Hub) -> None:
    answer = buy(hub, bring(checkin, FARAH))
    assert (answer.status_code, hub.user(FARAH).status_code) == (403, 404)


def test_who_has_never_logged_in_is_told_to(checkin: CheckinStandIn, hub: Hub) -> None:
    answer = buy(hub, bring(checkin, CHIARA))
    assert answer.status_code == 403
    assert "Log in with a browser once" in answer.json()["message"]
    assert hub.user(CHIARA).status_code == 404


def test_memberships_come_from_userinfo_where_introspection_has_none(checkin: CheckinStandIn, hub: Hub) -> None:
    # A token whose scopes say nothing of memberships proves none.
    assert buy(hub, bring(checkin, scope="openid voperson_id")).status_code == 403
    assert buy(hub, bring(checkin, scope="openid")).status_code == 403
    checkin.controls.requests.clear()
    assert buy(hub, bring(checkin, scope="openid voperson_id eduperson_entitlement")).status_code == 201
    assert checkin.controls.requests[Endpoint.USERINFO] == 0


@pytest.mark.parametrize("fault", [503, Failing.DISCONNECT, Failing.REFUSE, 401, 403], ids=str)
def test_a_fault_is_told_as_one(checkin: CheckinStandIn, hub: Hub, fault: int | Failing) -> None:
    token = bring(checkin)
    checkin.fail(fault, Endpoint.INTROSPECT)
    answer = buy(hub, token)
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    checkin.recover()
    assert buy(hub, token).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        [1],
        {"scopes": "inherit"},
        {"scopes": ["inherit"]},
        {"scopes": ["admin:users"]},
        {"scopes": []},
        {"scopes": [[]]},
        {"expires_in": 0},
        {"expires_in": "3"},
        {"expires_in": True},
        {"user": "somebody"},
        "x" * 20_000,
    ],
    ids=lambda body: str(body)[:20],
)
def test_a_request_of_another_form_is_refused_before_check_in_is_asked(
    checkin: CheckinStandIn, hub: Hub, body: Any
) -> None:
    token = bring(checkin)
    checkin.controls.requests.clear()
    answer = buy(hub, token, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"].endswith(".")
    assert checkin.controls.requests[Endpoint.INTROSPECT] == 0


def test_neither_a_cookie_nor_a_token_of_the_hub_counts(checkin: CheckinStandIn, hub: Hub) -> None:
    bought = buy(hub, bring(checkin)).json()["token"]
    assert buy(hub, bought).status_code == 401, "a token cannot buy its own successor"
    assert buy(hub, hub.api_token).status_code == 401
    with Visitor(hub) as visitor:
        visitor.log_in(ADA)
        assert visitor.open_form("/hub/replay/token", {"_xsrf": visitor.xsrf_of_hub}).status_code in {400, 401}
        assert visitor.open("/hub/replay/token").status_code == 405


def test_a_script_touches_nothing_of_the_login(checkin: CheckinStandIn, hub: Hub) -> None:
    with Visitor(hub) as visitor:
        visitor.log_in(ADA)
        before = auth_state(hub)
        assert buy(hub, bring(checkin, scope="openid voperson_id eduperson_entitlement")).status_code == 201
        after = auth_state(hub)
        kept = ("access_token", "refresh_token", "id_token", "scope", "token_response", "oauth_user")
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert after["oauth_user"]["email"] == ADA.email
        assert visitor.open("/hub/home").url.path == "/hub/home"


def test_a_bought_token_ends_with_the_membership(checkin: CheckinStandIn, hub: Hub) -> None:
    with Visitor(hub) as visitor:
        visitor.log_in(ADA)
    token = buy(hub, bring(checkin)).json()["token"]
    assert ask(hub, token).status_code == 200
    checkin.suspend(ADA)
    deadline = time.monotonic() + 8
    while ask(hub, token).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert buy(hub, bring(checkin)).status_code == 403


def test_a_script_goes_on_where_the_login_needs_to_be_made_again(checkin: CheckinStandIn, hub: Hub) -> None:
    for kept in hub.api("GET", f"/users/{ADA.voperson_id}/tokens").json()["api_tokens"]:
        hub.api("DELETE", f"/users/{ADA.voperson_id}/tokens/{kept['id']}")
    with Visitor(hub) as visitor:
        visitor.log_in(ADA)
        visitor.log_out()
    hub.wait_for_log("Revoked the tokens of")
    token = buy(hub, bring(checkin)).json()["token"]
    time.sleep(1.1)  # auth_refresh_age
    assert ask(hub, token).status_code == 200
    assert "doubt" not in auth_state(hub)["replay_membership"]
    started = ask(hub, token, f"users/{ADA.voperson_id}/server", "POST")
    assert started.status_code in {201, 202}, started.text
    hub.api("DELETE", f"/users/{ADA.voperson_id}/server")


def test_curl_does_what_the_documentation_says(checkin: CheckinStandIn, hub: Hub) -> None:
    (block,) = re.findall(r"test_scripts\.py\. -->\n```sh\n(.*?)```", (ROOT / "docs" / "access.md").read_text(), re.S)
    environment = {**os.environ, "HUB": hub.url, "CHECKIN_TOKEN": bring(checkin)}
    done = subprocess.run(["sh", "-c", block], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    bought = json.loads(done.stdout)
    assert bought["expires_in"] == 600
    assert ask(hub, bought["token"]).status_code == 200


def test_requests_are_limited_by_address_and_by_person_and_users_are_made_where_that_is_set(tmp_path: Path) -> None:
    with provider_and_hub(tmp_path / "hub") as (checkin, hub):
        checkin.start()
        hub.start(
            PERMITTED,
            SETTINGS
            + """
c.EGICheckinAuthenticator.scripts_may_create_users = True
c.EGICheckinAuthenticator.scripts_per_minute_of_person = 2
c.EGICheckinAuthenticator.scripts_per_minute_of_address = 7
""",
        )
        bought = [buy(hub, bring(checkin, CHIARA)) for _ in range(2)]
        assert [answer.status_code for answer in bought] == [201, 201]
        user = hub.user(CHIARA).json()
        assert sorted(user["groups"]) == ["vo.access.egi.eu", "vo.notebooks.egi.eu"]
        assert "refresh_token" not in user["auth_state"]
        started = ask(hub, bought[0].json()["token"], f"users/{CHIARA.voperson_id}/server", "POST")
        assert started.status_code in {201, 202}, started.text
        too_many = buy(hub, bring(checkin, CHIARA))
        assert too_many.status_code == 429
        assert int(too_many.headers["retry-after"]) > 0
        assert buy(hub, bring(checkin, DMITRI)).status_code == 201, "somebody else's script is not held back"
        # Whatever is said about where they come from: the hub's proxy adds who connected to it.
        claims = [{"X-Real-Ip": f"198.51.100.{n}", "X-Forwarded-For": f"203.0.113.{n}, 192.0.2.{n}"} for n in range(4)]
        statuses = [buy(hub, "guessed", **claimed).status_code for claimed in claims]
        assert statuses == [401, 401, 401, 429]
        # The account made by a script loses access as every other.
        checkin.suspend(CHIARA)
        deadline = time.monotonic() + 20
        while hub.user(CHIARA).json()["servers"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_there_is_no_such_address_where_no_client_is_named(tmp_path: Path) -> None:
    with provider_and_hub(tmp_path / "hub") as (checkin, hub):
        checkin.start()
        hub.start(PERMITTED)
        answer = buy(hub, bring(checkin))
        assert answer.status_code in {403, 404}, "JupyterHub's own answer to a POST to nowhere"
        assert "bought" not in hub.log
        assert checkin.controls.requests[Endpoint.INTROSPECT] == 0
