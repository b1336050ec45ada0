"""The login over HTTP: a real hub, a real provider, and nobody's browser to be lenient."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from demo.checkin import CheckinStandIn
from demo.people import ADA, BORIS, CHIARA, DMITRI, EVA, Person
from tests.login_fixtures import Hub, Visitor, free_ports, provider_and_hub

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
    server = hub.user(ADA).json()["servers"][""]
    assert server["ready"] or server["pending"] == "spawn"
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
        by_service = changed.api("POST", f"/users/{DMITRI.voperson_id}/server")
        assert by_service.status_code == 403
        # JupyterHub 5.5 refuses a login that is over itself, before it asks the authenticator.
        refusals = (f"None of the VOs of {DMITRI.voperson_id} may start servers here.", "auth has expired")
        assert any(text in by_service.json()["message"] for text in refusals)
        visitor.hub = changed
        page = visitor.start_server()
        # The session has ended with the membership; the login begins anew.
        assert (page.status_code, page.url.path) == (200, "/hub/login")
        assert visitor.open("/hub/home").url.path == "/hub/login"
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
