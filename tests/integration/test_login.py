"""The login over HTTP: a real hub, a real provider, and nobody's browser to be lenient."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest

from demo.checkin import CheckinStandIn
from demo.people import ADA, BORIS, CHIARA, DMITRI, EVA, Person
from tests.login_fixtures import ROOT, Hub, Visitor, free_ports, provider_and_hub

pytestmark = pytest.mark.needs("proxy")

NOTEBOOKS = "vo.notebooks.egi.eu"
ACCESS = "vo.access.egi.eu"
ENROLMENT = "https://enrol.example.org/notebooks?from=replay&to=<vo>"
PERMITTED = {NOTEBOOKS: ENROLMENT, ACCESS: "", "vo.lovely & strange": "https://enrol.example.org/strange"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CheckinStandIn, Hub]]:
    with provider_and_hub(tmp_path_factory.mktemp("hub")) as (checkin, hub):
        checkin.start()
        hub.start(PERMITTED)
        yield checkin, hub


@pytest.fixture
def hub(running: tuple[CheckinStandIn, Hub]) -> Hub:
    return running[1]


@pytest.fixture
def visitor(hub: Hub) -> Iterator[Visitor]:
    with Visitor(hub) as somebody:
        yield somebody


@pytest.mark.parametrize(
    ("person", "groups"),
    [(ADA, [NOTEBOOKS]), (CHIARA, [ACCESS, NOTEBOOKS]), (DMITRI, [NOTEBOOKS])],
    ids=lambda value: value.name if isinstance(value, Person) else "",
)
def test_a_member_gets_in_as_their_voperson_id_with_their_vos_as_groups(
    hub: Hub, visitor: Visitor, person: Person, groups: list[str]
) -> None:
    page = visitor.log_in(person, "/hub/token")
    assert (page.status_code, page.url.path) == (200, "/hub/token")
    user = hub.user(person).json()
    assert user["name"] == person.voperson_id
    assert sorted(user["groups"]) == groups


def test_the_login_page_leads_to_the_provider_and_back_to_the_wanted_page(visitor: Visitor) -> None:
    page = visitor.open("/hub/token")
    assert page.url.path == "/hub/login"
    provider = visitor.follow(page, "Sign in with EGI Check-in")
    asked = parse_qs(urlsplit(str(provider.url)).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert "prompt" not in asked
    assert set(asked["scope"][0].split()) >= {"openid", "voperson_id", "eduperson_entitlement", "entitlements"}
    assert visitor.choose(provider, ADA).url.path == "/hub/token"


def test_a_member_starts_a_server(hub: Hub, visitor: Visitor) -> None:
    visitor.log_in(ADA)
    visitor.start_server()
    assert hub.user(ADA).json()["servers"][""]["ready"] or hub.user(ADA).json()["servers"][""]["pending"] == "spawn"
    assert hub.api("DELETE", f"/users/{ADA.voperson_id}/server").status_code in {202, 204}


@pytest.mark.parametrize("person", [BORIS, EVA], ids=lambda person: person.name)
def test_who_is_in_no_permitted_vo_is_told_which_account_it_was_and_what_would_help(
    hub: Hub, visitor: Visitor, person: Person
) -> None:
    page = visitor.log_in(person)
    assert page.status_code == 403
    for text in (person.name, person.email, person.voperson_id, NOTEBOOKS, ACCESS, "vo.lovely &amp; strange"):
        assert text in page.text
    assert 'href="https://enrol.example.org/notebooks?from=replay&amp;to=&lt;vo&gt;"' in page.text
    assert "Traceback" not in page.text
    assert "script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert hub.user(person).status_code == 404
    assert visitor.open("/hub/home").url.path == "/hub/login"
    assert person.email not in hub.log


def test_another_account_can_be_used_for_the_same_page_although_the_provider_remembers_the_first(
    visitor: Visitor,
) -> None:
    refused = visitor.log_in(BORIS, "/hub/token")
    remembered = visitor.open("/hub/oauth_login?next=/hub/token")
    assert remembered.status_code == 403, "the provider answers for the remembered account without asking"
    asked_again = visitor.follow(refused, "Log in with another account")
    assert parse_qs(urlsplit(str(asked_again.url)).query)["prompt"] == ["login"]
    page = visitor.choose(asked_again, ADA)
    assert (page.status_code, page.url.path) == (200, "/hub/token")


@pytest.mark.parametrize("prompt", ["none", "consent", "login consent", "login&prompt=none"])
def test_only_a_prompt_for_login_is_passed_on_to_the_provider(visitor: Visitor, prompt: str) -> None:
    page = visitor.open(f"/hub/oauth_login?prompt={prompt}")
    assert "prompt" not in parse_qs(urlsplit(str(page.url)).query)


def test_a_code_that_the_provider_does_not_know_is_a_clear_page(visitor: Visitor) -> None:
    provider = visitor.open("/hub/oauth_login?next=/hub/token")
    state = parse_qs(urlsplit(str(provider.url)).query)["state"][0]
    page = visitor.open(f"/hub/oauth_callback?code=invented&state={state}")
    assert page.status_code == 502
    assert "did not accept this login" in page.text
    assert "Traceback" not in page.text
    again = visitor.follow(page, "Try again")
    assert visitor.choose(again, ADA).url.path == "/hub/token"


def test_a_provider_that_does_not_answer_is_told_and_asked_again_by_the_next_login(tmp_path: Path) -> None:
    with provider_and_hub(tmp_path / "hub") as (checkin, hub), Visitor(hub) as visitor:
        checkin.stop()
        hub.start(PERMITTED)
        page = visitor.open("/hub/oauth_login?next=/hub/token")
        assert page.status_code == 503
        assert page.headers["retry-after"] == "30"
        assert "EGI Check-in does not answer at the moment" in page.text
        assert "Traceback" not in page.text
        with CheckinStandIn(
            port=urlsplit(checkin.issuer).port or 0,
            client_id="hub",
            client_secret=hub.client_secret,
            redirect_uris=[f"{hub.url}/hub/oauth_callback"],
        ):
            provider = visitor.follow(page, "Try again")
            back_to_hub = visitor.choose(provider, ADA, stay=True).headers["location"]
        # It asked again, and found the provider; which is gone once more before the code can be used.
        page = visitor.open(back_to_hub)
        assert (page.status_code, page.url.path) == (503, "/hub/oauth_callback")
        assert "EGI Check-in does not answer at the moment" in page.text
        assert "next=%2Fhub%2Ftoken" in page.text, "a new login leads where the first one was going"


def test_who_lost_the_last_permitted_vo_is_refused_where_a_server_starts(
    hub: Hub, visitor: Visitor, tmp_path: Path
) -> None:
    visitor.log_in(DMITRI)
    # The same hub after a change of its configuration: a copy of its folder, so that the others keep theirs.
    # Not its note of the running proxy, which a hub that starts would end.
    shutil.copytree(hub.folder, tmp_path / "hub", ignore=shutil.ignore_patterns("*.pid"))
    changed = replace(hub, folder=tmp_path / "hub", ports=free_ports(3))
    try:
        changed.start({ACCESS: ""})
        visitor.hub = changed
        assert visitor.open("/hub/home").url.path == "/hub/home", "the login itself is still good"
        page = visitor.start_server()
        assert page.status_code == 403
        assert f"None of the VOs of {DMITRI.voperson_id} may start servers here." in page.text
        assert ACCESS in page.text
        by_service = changed.api("POST", f"/users/{DMITRI.voperson_id}/server")
        assert by_service.status_code == 403
        assert "may start servers here" in by_service.json()["message"]
        assert changed.user(DMITRI).json()["groups"] == []
    finally:
        changed.stop()


def test_somebody_the_hub_knows_only_by_name_gets_no_server_and_an_api_user_is_not_affected(hub: Hub) -> None:
    name = "0000-never-logged-in@egi.eu"
    assert hub.api("POST", f"/users/{name}").status_code == 201
    refused = hub.api("POST", f"/users/{name}/server")
    assert refused.status_code == 403
    # JupyterHub 5.5 refuses a stale login itself, before it asks the authenticator.
    assert any(text in refused.json()["message"] for text in ("no record of the VOs", "auth has expired"))
    assert hub.api("GET", "/users").status_code == 200


# The stand-in is as strict as Check-in, or the tests above would prove little.

CALLBACK = "http://127.0.0.1:1/hub/oauth_callback"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")


class Application:
    """A client of the stand-in, without a hub."""

    def __init__(self, checkin: CheckinStandIn) -> None:
        self.http = httpx.Client()
        self.known = httpx.get(f"{checkin.issuer}/.well-known/openid-configuration").json()

    def ask(self, person: Person | None = None, **changes: str | None) -> httpx.Response:
        """The authorization request; with a person, that person's answer to it."""
        query = {
            "response_type": "code",
            "client_id": "app",
            "redirect_uri": CALLBACK,
            "scope": "openid profile email voperson_id eduperson_entitlement entitlements offline_access",
            "state": "state",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changes,
        }
        params = {name: value for name, value in query.items() if value is not None}
        url = self.known["authorization_endpoint"]
        if person is None:
            return self.http.get(url, params=params)
        return self.http.post(url, params=params, data={"person": person.voperson_id})

    def code(self, person: Person, **changes: str | None) -> str:
        return answer_in(self.ask(person, **changes))["code"]

    def token(self, **changes: str) -> httpx.Response:
        form = {"client_id": "app", "client_secret": "secret", "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
        return self.http.post(
            self.known["token_endpoint"], data={"grant_type": "authorization_code", **form, **changes}
        )

    def userinfo(self, access_token: str) -> httpx.Response:
        return self.http.get(self.known["userinfo_endpoint"], headers={"Authorization": f"Bearer {access_token}"})


def answer_in(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 302
    return {name: values[0] for name, values in parse_qs(urlsplit(response.headers["location"]).query).items()}


@pytest.fixture
def application() -> Iterator[Application]:
    with CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=[CALLBACK]) as checkin:
        application = Application(checkin)
        with application.http:
            yield application


@pytest.mark.parametrize(
    "changes",
    [{"code_challenge": None}, {"code_challenge_method": None}, {"code_challenge_method": "plain"}],
    ids=["no challenge", "no method", "plain"],
)
def test_the_stand_in_insists_on_pkce(application: Application, changes: dict[str, str | None]) -> None:
    answer = answer_in(application.ask(ADA, **changes))
    assert (answer["error"], answer["state"]) == ("invalid_request", "state")
    assert "code" not in answer


@pytest.mark.parametrize("uri", [CALLBACK + "/", CALLBACK + "?x=1", "http://evil.example/", None])
def test_the_stand_in_sends_nobody_to_another_address(application: Application, uri: str | None) -> None:
    assert application.ask(ADA, redirect_uri=uri).status_code == 400


def test_a_code_of_the_stand_in_works_once_and_for_its_owner_only(application: Application) -> None:
    code = application.code(ADA)
    assert application.token(code=code).status_code == 200
    assert application.token(code=code).json()["error"] == "invalid_grant"
    for wrong in ({"code_verifier": "w" * 43}, {"redirect_uri": CALLBACK + "/"}, {"client_secret": "guessed"}):
        assert application.token(code=application.code(ADA), **wrong).status_code in {400, 401}


def test_memberships_are_in_userinfo_and_never_in_the_id_token(application: Application) -> None:
    tokens = application.token(code=application.code(CHIARA, nonce="once")).json()
    userinfo = application.userinfo(tokens["access_token"]).json()
    assert userinfo["eduperson_entitlement"] == list(CHIARA.eduperson_entitlement)
    assert userinfo["entitlements"] == list(CHIARA.entitlements)
    keys = jwt.PyJWKSet.from_dict(application.http.get(application.known["jwks_uri"]).json())
    key = keys[jwt.get_unverified_header(tokens["id_token"])["kid"]]
    issuer = application.known["issuer"]
    claims = jwt.decode(tokens["id_token"], key, algorithms=["RS256"], audience="app", issuer=issuer)
    assert (claims["sub"], claims["nonce"]) == (CHIARA.voperson_id, "once")
    assert not {"eduperson_entitlement", "entitlements"} & claims.keys()
    introspected = application.http.post(
        application.known["introspection_endpoint"],
        data={"token": tokens["access_token"], "client_id": "app", "client_secret": "secret"},
    ).json()
    assert introspected["active"] is True
    assert introspected["entitlements"] == list(CHIARA.entitlements)
    refreshed = application.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"]).json()
    assert application.userinfo(refreshed["access_token"]).json() == userinfo
    assert application.userinfo("invented").status_code == 401


def test_what_is_not_asked_for_is_not_given(application: Application) -> None:
    tokens = application.token(code=application.code(CHIARA, scope="openid")).json()
    assert "refresh_token" not in tokens
    assert application.userinfo(tokens["access_token"]).json() == {"sub": CHIARA.voperson_id}


def test_the_stand_in_remembers_a_login_until_it_is_asked_not_to(application: Application) -> None:
    assert application.ask().status_code == 200
    application.code(ADA)
    assert "code" in answer_in(application.ask())
    assert application.ask(prompt="login").status_code == 200
    application.http.get(application.known["end_session_endpoint"])
    assert application.ask().status_code == 200


def test_the_stand_in_keeps_to_loopback() -> None:
    with pytest.raises(ValueError, match="no loopback address"):
        CheckinStandIn(host="0.0.0.0", client_id="app", client_secret="secret", redirect_uris=[])


def test_the_stand_in_runs_as_a_command(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    options = ["--client-id", "app", "--client-secret-file", str(secret), "--redirect-uri", CALLBACK]
    with subprocess.Popen(
        [sys.executable, "-m", "demo.checkin", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        issuer = process.stdout.readline().split()[-1]
        assert httpx.get(f"{issuer}/.well-known/openid-configuration").json()["issuer"] == issuer
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
