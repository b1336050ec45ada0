"""Each control of the stand-in for Check-in, seen on the wire by an application."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint, Failing, IdTokenFlaw, ReleasedClaims
from demo.people import ADA, BORIS, CHIARA
from tests.checkin_application import CALLBACK, CREDENTIALS, Application

pytestmark = pytest.mark.hub_independent

A_GROUP = "urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu"


@pytest.fixture
def checkin() -> Iterator[CheckinStandIn]:
    with CheckinStandIn(
        client_id="app", client_secret="secret", redirect_uris=[CALLBACK], separate_ports=True
    ) as checkin:
        yield checkin


@pytest.fixture
def application(checkin: CheckinStandIn) -> Iterator[Application]:
    application = Application(checkin)
    with application.http:
        yield application


# People


def test_entitlements_change_for_tokens_that_were_given_before(
    checkin: CheckinStandIn, application: Application
) -> None:
    token = application.log_in(ADA)["access_token"]
    checkin.set_entitlements(ADA, A_GROUP, eduperson_entitlement=["urn:x:y:group:z#w"])
    for told in (application.userinfo(token).json(), application.introspect(token)):
        assert told["entitlements"] == [A_GROUP]
        assert told["eduperson_entitlement"] == ["urn:x:y:group:z#w"]
    checkin.set_entitlements(ADA)
    assert not {"entitlements", "eduperson_entitlement"} & application.userinfo(token).json().keys()


def test_who_is_suspended_in_their_vos_is_still_somebody(checkin: CheckinStandIn, application: Application) -> None:
    tokens = application.log_in(ADA)
    checkin.suspend(ADA)
    told = application.userinfo(tokens["access_token"]).json()
    assert told["voperson_id"] == ADA.voperson_id
    assert not {"entitlements", "eduperson_entitlement"} & told.keys()
    assert application.introspect(tokens["access_token"])["active"] is True
    assert application.refresh(tokens["refresh_token"]).status_code == 200
    checkin.restore(ADA)
    assert application.userinfo(tokens["access_token"]).json()["eduperson_entitlement"]


def test_an_inactive_account_is_nobody_any_more(checkin: CheckinStandIn, application: Application) -> None:
    tokens, others = application.log_in(ADA), application.log_in(CHIARA)
    checkin.suspend(ADA, inactive=True)
    assert application.introspect(tokens["access_token"]) == {"active": False}
    assert application.userinfo(tokens["access_token"]).status_code == 401
    assert application.refresh(tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert application.userinfo(others["access_token"]).status_code == 200


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        (ReleasedClaims.OLD, {"eduperson_entitlement"}),
        (ReleasedClaims.NEW, {"entitlements"}),
        (ReleasedClaims.BOTH, {"eduperson_entitlement", "entitlements"}),
        (ReleasedClaims.NONE, set[str]()),
    ],
)
def test_entitlements_are_released_under_either_name(
    checkin: CheckinStandIn, application: Application, mode: ReleasedClaims, names: set[str]
) -> None:
    checkin.settings.released_claims = mode
    told = application.userinfo(application.log_in(CHIARA)["access_token"]).json()
    assert {"eduperson_entitlement", "entitlements"} & told.keys() == names
    assert all(set(told[name]) == set(CHIARA.entitlements) for name in names)


def test_two_people_share_a_preferred_username(application: Application) -> None:
    first, second = (application.userinfo(application.log_in(person)["access_token"]).json() for person in (ADA, BORIS))
    assert first["preferred_username"] == second["preferred_username"]
    assert first["voperson_id"] != second["voperson_id"]


def test_another_sub_can_be_given_by_userinfo_than_by_the_id_token(
    checkin: CheckinStandIn, application: Application
) -> None:
    checkin.settings.userinfo_subject = BORIS.voperson_id
    tokens = application.log_in(ADA)
    assert application.userinfo(tokens["access_token"]).json()["sub"] == BORIS.voperson_id
    assert application.verified(tokens["id_token"])["sub"] == ADA.voperson_id


# Tokens


def test_access_tokens_expire_when_they_are_said_to(
    checkin: CheckinStandIn, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkin.settings.access_token_seconds = 5
    tokens = application.log_in(ADA)
    assert tokens["expires_in"] == 5
    assert application.introspect(tokens["access_token"])["active"] is True
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6)
    assert application.userinfo(tokens["access_token"]).status_code == 401
    assert application.introspect(tokens["access_token"]) == {"active": False}
    assert application.refresh(tokens["refresh_token"]).json()["expires_in"] == 5


def test_refresh_tokens_stay_unless_they_rotate(application: Application) -> None:
    refresh_token = application.log_in(ADA)["refresh_token"]
    for _ in range(2):
        answer = application.refresh(refresh_token)
        assert (answer.status_code, "refresh_token" in answer.json()) == (200, False)


def test_a_rotated_refresh_token_that_comes_back_ends_the_whole_login(
    checkin: CheckinStandIn, application: Application
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    first, other = application.log_in(ADA), application.log_in(ADA)
    second = application.refresh(first["refresh_token"]).json()
    third = application.refresh(second["refresh_token"]).json()
    assert len({first["refresh_token"], second["refresh_token"], third["refresh_token"]}) == 3
    assert application.userinfo(third["access_token"]).status_code == 200
    assert application.refresh(first["refresh_token"]).json()["error"] == "invalid_grant"
    assert application.refresh(third["refresh_token"]).json()["error"] == "invalid_grant"
    assert application.userinfo(third["access_token"]).status_code == 401
    assert application.refresh(other["refresh_token"]).status_code == 200, "another login of the same person"


def test_of_refreshes_at_once_with_one_rotating_token_one_succeeds(
    checkin: CheckinStandIn, application: Application
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    refresh_token = application.log_in(ADA)["refresh_token"]
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(application.refresh(refresh_token).status_code))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 400, 400, 400, 400]


def test_a_login_that_was_ended_needs_another(checkin: CheckinStandIn, application: Application) -> None:
    tokens, refreshing = application.log_in(ADA), application.log_in(CHIARA)
    checkin.end_logins(ADA)
    assert application.userinfo(tokens["access_token"]).status_code == 401
    assert application.refresh(tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert application.userinfo(application.log_in(ADA)["access_token"]).status_code == 200
    checkin.end_logins(CHIARA, refresh_tokens_only=True)
    assert application.userinfo(refreshing["access_token"]).status_code == 200
    assert application.refresh(refreshing["refresh_token"]).json()["error"] == "invalid_grant"


def test_revoking_an_access_token_ends_it_and_revoking_a_refresh_token_the_login(application: Application) -> None:
    def revoke(token: str, **credentials: str) -> httpx.Response:
        return application.http.post(
            application.known["revocation_endpoint"], data={"token": token, **CREDENTIALS, **credentials}
        )

    tokens = application.log_in(ADA)
    assert revoke(tokens["access_token"], client_secret="guessed").status_code == 401
    assert revoke(tokens["access_token"]).status_code == 200
    assert application.userinfo(tokens["access_token"]).status_code == 401
    refreshed = application.refresh(tokens["refresh_token"]).json()
    assert revoke(tokens["refresh_token"]).status_code == 200
    assert application.userinfo(refreshed["access_token"]).status_code == 401
    assert application.refresh(tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert revoke("invented").status_code == 200


def test_the_configuration_may_name_no_address_to_revoke(checkin: CheckinStandIn) -> None:
    assert "revocation_endpoint" in Application(checkin).known
    checkin.settings.lists_revocation = False
    assert "revocation_endpoint" not in Application(checkin).known


def exchange(application: Application, subject: str, **changes: str) -> httpx.Response:
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": subject,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "onezone",
    }
    return application.token(**{**form, **changes})


def test_tokens_are_exchanged_where_that_is_on(checkin: CheckinStandIn, application: Application) -> None:
    subject = application.log_in(ADA)["access_token"]
    assert exchange(application, subject).json()["error"] == "unauthorized_client"
    checkin.settings.exchanges_tokens = True
    exchanged = exchange(application, subject).json()
    assert exchanged["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert "refresh_token" not in exchanged
    assert application.introspect(exchanged["access_token"])["aud"] == "onezone"
    assert application.userinfo(exchanged["access_token"]).json()["sub"] == ADA.voperson_id
    assert exchange(application, "invented").json()["error"] == "invalid_grant"
    assert exchange(application, subject, subject_token_type="jwt").json()["error"] == "invalid_request"


def test_an_access_token_of_another_application_says_so_when_introspected(
    checkin: CheckinStandIn, application: Application
) -> None:
    own = application.introspect(checkin.give_access_token(ADA, seconds=60))
    assert (own["aud"], own["client_id"], own["exp"] - own["iat"]) == ("app", "app", 60)
    foreign = application.introspect(checkin.give_access_token(ADA, client_id="portal", audience=["a", "b"]))
    assert (foreign["active"], foreign["client_id"], foreign["aud"]) == (True, "portal", ["a", "b"])


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_the_providers_clock_is_wrong(checkin: CheckinStandIn, application: Application, ahead: int) -> None:
    checkin.settings.clock_skew_seconds = ahead
    tokens = application.log_in(ADA)
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert abs(claims["iat"] - time.time() - ahead) < 60
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(application.introspect(tokens["access_token"])["exp"] - time.time() - ahead - 3600) < 60
    assert application.userinfo(tokens["access_token"]).status_code == 200


# What an application has to refuse


@pytest.mark.parametrize(
    ("flaw", "refused"),
    [
        (IdTokenFlaw.UNSIGNED, jwt.InvalidAlgorithmError),
        (IdTokenFlaw.FOREIGN_AUDIENCE, jwt.InvalidAudienceError),
        (IdTokenFlaw.FOREIGN_ISSUER, jwt.InvalidIssuerError),
        (IdTokenFlaw.EXPIRED, jwt.ExpiredSignatureError),
        (IdTokenFlaw.NOT_YET, jwt.ImmatureSignatureError),
        (IdTokenFlaw.BAD_SIGNATURE, jwt.InvalidSignatureError),
        (IdTokenFlaw.HMAC_OF_PUBLIC_KEY, jwt.InvalidAlgorithmError),
    ],
)
def test_an_id_token_can_be_what_no_application_may_take(
    checkin: CheckinStandIn, application: Application, flaw: IdTokenFlaw, refused: type[Exception]
) -> None:
    checkin.settings.id_token_flaw = flaw
    text = application.log_in(ADA, nonce="once")["id_token"]
    keys = jwt.PyJWKSet.from_dict(application.http.get(application.known["jwks_uri"]).json())
    with pytest.raises(refused):
        jwt.decode(text, keys.keys[0], algorithms=["RS256"], audience="app", issuer=application.known["issuer"])


@pytest.mark.parametrize(
    ("flaw", "claims"),
    [
        (IdTokenFlaw.NO_NONCE, {"nonce": None}),
        (IdTokenFlaw.REPLAYED_NONCE, {"nonce": "first"}),
        (IdTokenFlaw.FOREIGN_SUBJECT, {"sub": "somebody-else@egi.eu"}),
        (IdTokenFlaw.MORE_AUDIENCES, {"azp": "another-client", "aud": ["app", "another-client"]}),
    ],
)
def test_an_id_token_can_be_well_signed_and_wrong(
    checkin: CheckinStandIn, application: Application, flaw: IdTokenFlaw, claims: dict[str, object]
) -> None:
    application.log_in(ADA, nonce="first")
    checkin.settings.id_token_flaw = flaw
    found = application.verified(application.log_in(ADA, nonce="second")["id_token"])
    assert {name: found.get(name) for name in claims} == claims


def test_an_id_token_can_be_missing_or_signed_with_a_key_that_is_not_published(
    checkin: CheckinStandIn, application: Application
) -> None:
    checkin.settings.id_token_flaw = IdTokenFlaw.MISSING
    assert "id_token" not in application.log_in(ADA)
    checkin.settings.id_token_flaw = IdTokenFlaw.UNKNOWN_KEY
    with pytest.raises(KeyError):
        application.verified(application.log_in(ADA)["id_token"])


def test_the_key_can_be_exchanged_for_another(checkin: CheckinStandIn, application: Application) -> None:
    before = application.log_in(ADA)["id_token"]
    checkin.rotate_key()
    assert application.verified(application.log_in(ADA)["id_token"])["sub"] == ADA.voperson_id
    with pytest.raises(KeyError):
        application.verified(before)


# Logout


def test_a_logout_leads_back_for_an_application_that_says_whose_it_was(application: Application) -> None:
    def logout(**params: str) -> httpx.Response:
        return application.http.get(application.known["end_session_endpoint"], params=params)

    hint = application.log_in(ADA)["id_token"]
    home = "http://127.0.0.1:1/hub/logged-out"
    answer = logout(id_token_hint=hint, post_logout_redirect_uri=home, state="x")
    assert (answer.status_code, answer.headers["location"]) == (302, f"{home}?state=x")
    assert application.ask().status_code == 200, "who was logged in is forgotten"
    assert logout(client_id="app", post_logout_redirect_uri=home).status_code == 302
    for stays in (
        {"post_logout_redirect_uri": home},
        {"post_logout_redirect_uri": home, "id_token_hint": hint[:-8] + "AAAAAAAA"},
        {"post_logout_redirect_uri": "http://evil.example/", "id_token_hint": hint},
    ):
        assert logout(**stays).status_code == 200


# Faults

ASKED: dict[Endpoint, Callable[[Application, str], httpx.Response]] = {
    Endpoint.TOKEN: lambda application, token: application.refresh("invented"),
    Endpoint.USERINFO: lambda application, token: application.userinfo(token),
    Endpoint.INTROSPECT: lambda application, token: application.http.post(
        application.known["introspection_endpoint"], data={"token": token, **CREDENTIALS}
    ),
    Endpoint.CERTS: lambda application, token: application.http.get(application.known["jwks_uri"]),
    Endpoint.REVOKE: lambda application, token: application.http.post(
        application.known["revocation_endpoint"], data={"token": "invented", **CREDENTIALS}
    ),
}


@pytest.mark.parametrize("endpoint", ASKED, ids=str)
def test_each_address_fails_by_itself_in_each_way(
    checkin: CheckinStandIn, application: Application, endpoint: Endpoint
) -> None:
    token = application.log_in(ADA)["access_token"]
    others = [ask for other, ask in ASKED.items() if other is not endpoint]
    ask = ASKED[endpoint]
    well = ask(application, token).status_code
    checkin.fail(503, endpoint)
    assert ask(application, token).status_code == 503
    assert all(other(application, token).status_code != 503 for other in others)
    checkin.fail(Failing.DISCONNECT, endpoint)
    with pytest.raises(httpx.RemoteProtocolError):
        ask(application, token)
    checkin.fail(Failing.REFUSE, endpoint)
    with pytest.raises(httpx.ConnectError, match="refused"):
        ask(application, token)
    assert all(other(application, token).status_code != 503 for other in others)
    checkin.recover(endpoint)
    assert ask(application, token).status_code == well


def test_a_fault_passes_after_so_many_requests(checkin: CheckinStandIn, application: Application) -> None:
    token = application.log_in(ADA)["access_token"]
    checkin.fail(500, Endpoint.USERINFO, times=2)
    assert [application.userinfo(token).status_code for _ in range(3)] == [500, 500, 200]
    assert checkin.controls.requests[Endpoint.USERINFO] == 3


def test_an_address_hangs_until_the_fault_is_lifted(checkin: CheckinStandIn, application: Application) -> None:
    token = application.log_in(ADA)["access_token"]
    checkin.fail(Failing.HANG, Endpoint.USERINFO)
    application.http.timeout = httpx.Timeout(5, read=0.2)
    with pytest.raises(httpx.ReadTimeout):
        application.userinfo(token)
    answers: list[int] = []
    application.http.timeout = httpx.Timeout(30)
    waiting = threading.Thread(target=lambda: answers.append(application.userinfo(token).status_code))
    waiting.start()
    assert checkin.controls.wait_for_requests(Endpoint.USERINFO, 2)
    checkin.recover(Endpoint.USERINFO)
    waiting.join()
    assert answers == [503]
    assert application.userinfo(token).status_code == 200


def test_an_answer_can_be_lost_after_all_was_done(checkin: CheckinStandIn, application: Application) -> None:
    checkin.settings.rotates_refresh_tokens = True
    refresh_token = application.log_in(ADA)["refresh_token"]
    checkin.fail(Failing.LOSE_ANSWER, Endpoint.TOKEN, times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        application.refresh(refresh_token)
    assert application.refresh(refresh_token).json()["error"] == "invalid_grant", "it was used up"


def test_all_of_it_can_be_gone_and_come_back(checkin: CheckinStandIn, application: Application) -> None:
    token = application.log_in(ADA)["access_token"]
    checkin.fail(Failing.REFUSE)
    for url in (application.known["issuer"], application.known["userinfo_endpoint"]):
        with pytest.raises(httpx.ConnectError, match="refused"):
            application.http.get(url)
    checkin.recover()
    assert application.userinfo(token).status_code == 200


def test_connections_to_a_shared_port_cannot_be_refused_for_one_address() -> None:
    with CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=[CALLBACK]) as checkin:
        with pytest.raises(ValueError, match="ports of their own"):
            checkin.fail(Failing.REFUSE, Endpoint.USERINFO)
        ports = {urlsplit(checkin.url_of(endpoint)).port for endpoint in Endpoint}
        assert ports == {urlsplit(checkin.issuer).port}


# From another process, and in a browser


def test_all_of_it_can_be_changed_by_json(checkin: CheckinStandIn, application: Application) -> None:
    token = application.log_in(ADA)["access_token"]

    def change(**body: object) -> httpx.Response:
        return application.http.post(checkin.controls_url, json=body)

    person = {"entitlements": [A_GROUP], "eduperson_entitlement": [], "standing": "good"}
    settings = {"access_token_seconds": 7, "rotates_refresh_tokens": True, "id_token_flaw": "expired"}
    state = change(people={ADA.voperson_id: person}, settings=settings, faults={"certs": 503, "revoke": "hang"}).json()
    assert state["people"][ADA.voperson_id] == {"name": ADA.name, **person}
    assert state["settings"].items() >= settings.items()
    assert state["faults"] == {"certs": 503, "revoke": "hang"}
    assert state["requests"]["token"] == 1
    assert application.userinfo(token).json()["entitlements"] == [A_GROUP]
    assert application.http.get(application.known["jwks_uri"]).status_code == 503
    change(people={ADA.voperson_id: {"standing": "inactive"}}, faults={"certs": None})
    assert application.introspect(token) == {"active": False}
    assert application.http.get(application.known["jwks_uri"]).status_code == 200
    assert change(reset=True).json()["faults"] == {}
    assert application.userinfo(token).json()["eduperson_entitlement"] == list(ADA.eduperson_entitlement)
    change(people={ADA.voperson_id: {"end_logins": True}}, rotate_key=True)
    assert application.userinfo(token).status_code == 401
    given = application.http.post(
        f"{checkin.controls_url}/access-tokens", json={"person": ADA.voperson_id, "client_id": "portal", "seconds": 9}
    ).json()["access_token"]
    assert application.introspect(given)["client_id"] == "portal"


@pytest.mark.parametrize(
    "body",
    [
        {"people": {"nobody@egi.eu": {"standing": "suspended"}}},
        {"people": {ADA.voperson_id: {"standing": "famous"}}},
        {"settings": {"access_token_seconds": 0}},
        {"settings": {"access_token_seconds": None}},
        {"faults": {"userinfo": 200}},
        {"faults": {"moon": 503}},
        {"fautls": {}},
    ],
)
def test_a_change_that_cannot_be_meant_changes_nothing(checkin: CheckinStandIn, body: dict[str, object]) -> None:
    before = httpx.get(checkin.controls_url, headers={"Accept": "application/json"}).json()
    answer = httpx.post(checkin.controls_url, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert httpx.get(checkin.controls_url, headers={"Accept": "application/json"}).json() == before


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Host": "evil.example"}],
    ids=str,
)
def test_a_page_of_another_site_changes_nothing(checkin: CheckinStandIn, headers: dict[str, str]) -> None:
    assert httpx.post(checkin.controls_url, data={"reset": "yes"}, headers=headers).status_code == 403
    assert httpx.get(checkin.controls_url, headers=headers).status_code == 403


@pytest.mark.needs("browser")
def test_a_person_is_suspended_and_restored_in_a_browser(
    checkin: CheckinStandIn, application: Application, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    from tests.requirements import browser

    token = application.log_in(ADA)["access_token"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        page = chromium.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(checkin.controls_url)
        form = page.locator("form").filter(has=page.get_by_role("button", name=f"Change {ADA.name}"))
        form.get_by_label("Account").select_option("suspended")
        form.get_by_role("button").click()
        expect(form.get_by_label("Account")).to_have_value("suspended")
        page.screenshot(path=tmp_path / "controls.png", full_page=True)
        assert "eduperson_entitlement" not in application.userinfo(token).json()
        form.get_by_label("Account").select_option("good")
        form.get_by_label("entitlements, one a line", exact=True).fill(A_GROUP)
        form.get_by_role("button").click()
        expect(form.get_by_label("entitlements, one a line", exact=True)).to_have_value(A_GROUP)
        assert application.userinfo(token).json()["entitlements"] == [A_GROUP]
        page.get_by_label("userinfo answers").select_option("503")
        page.get_by_role("button", name="Change the behaviour").click()
        expect(page.get_by_label("userinfo answers")).to_have_value("503")
        assert application.userinfo(token).status_code == 503
        page.get_by_role("button", name="All as at the start").click()
        expect(page.get_by_label("userinfo answers")).to_have_value("")
        assert application.userinfo(token).status_code == 200
        assert complaints == []
        chromium.close()


# What sessions' own tokens need of it


@pytest.mark.parametrize("on", [True, False])
def test_the_configuration_says_whether_tokens_are_exchanged(checkin: CheckinStandIn, on: bool) -> None:
    checkin.settings.exchanges_tokens = on
    listed = httpx.get(f"{checkin.issuer}/.well-known/openid-configuration").json()["grant_types_supported"]
    assert ("urn:ietf:params:oauth:grant-type:token-exchange" in listed) is on


@pytest.mark.parametrize("rotates", [True, False])
def test_a_refresh_for_less_leaves_the_refresh_token_good_for_all(
    checkin: CheckinStandIn, application: Application, rotates: bool
) -> None:
    checkin.settings.rotates_refresh_tokens = rotates
    login = application.log_in(ADA)
    less = application.refresh(login["refresh_token"], scope="openid").json()
    assert application.introspect(less["access_token"])["scope"] == "openid"
    more = application.refresh(less.get("refresh_token", login["refresh_token"]), scope="openid email").json()
    assert application.introspect(more["access_token"])["scope"] == "openid email"
    again = application.refresh(more.get("refresh_token", login["refresh_token"]), scope="openid unheard-of")
    assert again.json()["error"] == "invalid_scope"


def test_what_the_token_address_answers_can_be_changed(checkin: CheckinStandIn, application: Application) -> None:
    checkin.settings.token_answer = {"expires_in": None, "scope": "all"}
    answer = application.log_in(ADA)
    assert answer["scope"] == "all"
    assert "expires_in" not in answer
    checkin.fail(Failing.PAGE, Endpoint.TOKEN)
    page = application.token(code="code")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")


def test_an_access_token_that_is_revoked_ends_all_of_its_login_where_that_is_on(
    checkin: CheckinStandIn, application: Application
) -> None:
    checkin.settings.revoking_ends_logins = True
    login = application.log_in(ADA)
    form = {"token": login["access_token"], "client_id": "app", "client_secret": "secret"}
    assert application.http.post(application.known["revocation_endpoint"], data=form).status_code == 200
    assert application.refresh(login["refresh_token"]).json()["error"] == "invalid_grant"
