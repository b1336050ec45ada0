"""Sessions' own access tokens: a real stand-in for Check-in, JupyterHub's own users and database, and no hub."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stamina
from jupyterhub import orm
from jupyterhub.user import User
from traitlets import TraitError

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint, Failing, Fault
from demo.people import ADA
from replay_auth import EGICheckinAuthenticator
from replay_auth.notes import Cause, Claim, Doubt, Logout
from replay_auth.refreshing import Standing
from replay_auth.scripts import KEY as SCRIPT
from replay_auth.session_tokens import SessionToken, SessionTokenUnavailable
from replay_auth.stored import HubAuthStates
from replay_auth.token_answers import UnusableToken, session_token
from tests.checkin_application import Application
from tests.hub_people import (
    authenticator_at,
    checkin_for_applications,
    hub_database,
    hub_user,
    logged_in_state,
    note,
    notes_of,
    state_of,
)

ASKED = ("openid", "voperson_id", "eduperson_entitlement", "entitlements")
BOTH = pytest.mark.parametrize("by", ["exchange", "refresh"])
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    with stamina.set_testing(True, attempts=1):
        yield


@pytest.fixture(scope="module")
def running() -> Iterator[CheckinStandIn]:
    with checkin_for_applications() as checkin:
        yield checkin


@pytest.fixture
def checkin(running: CheckinStandIn) -> Iterator[CheckinStandIn]:
    running.settings.exchanges_tokens = True
    yield running
    running.recover()
    running.controls.reset()


@pytest.fixture
def application(checkin: CheckinStandIn) -> Iterator[Application]:
    asking = Application(checkin)
    yield asking
    asking.http.close()


@pytest.fixture
async def database() -> AsyncIterator[Any]:
    session = hub_database()
    yield session
    session.close()
    session.get_bind().dispose()


@pytest.fixture
async def ada(database: Any, checkin: CheckinStandIn) -> User:
    """Ada, who has just logged in; nothing has been asked since."""
    user = await hub_user(database, ADA.voperson_id, logged_in_state(checkin, authenticator_at(checkin), ADA))
    checkin.controls.requests.clear()
    return user


def by_way(checkin: CheckinStandIn, by: str, **settings: Any) -> EGICheckinAuthenticator:
    ours = authenticator_at(checkin, session_token_by=by, **settings)
    ours.log = logging.getLogger("hub")
    return ours


async def refusal(ours: EGICheckinAuthenticator, user: User) -> SessionTokenUnavailable:
    with pytest.raises(SessionTokenUnavailable) as caught:
        await ours.session_token(user)
    assert str(caught.value).endswith((".", "in."))
    return caught.value


def token_requests(checkin: CheckinStandIn) -> int:
    return checkin.controls.requests[Endpoint.TOKEN]


LOGIN = ("access_token", "refresh_token", "id_token", "scope")


def of_login(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in LOGIN}


# Getting one


@BOTH
async def test_a_session_gets_a_narrower_token_beside_the_login(
    checkin: CheckinStandIn, application: Application, ada: User, by: str
) -> None:
    ours = by_way(checkin, by)
    before = await state_of(ada)
    first, second = [await ours.session_token(ada) for _ in range(2)]
    assert len({first.value, second.value, before["access_token"]}) == 3
    for token in (first, second):
        said = application.introspect(token.value)
        assert set(said["scope"].split()) == set(ASKED) == set(token.scopes)
        assert 3590 < token.expires_at - time.time() <= 3600
        claims = application.userinfo(token.value).json()
        assert claims["voperson_id"] == ADA.voperson_id
        assert {"name", "email"}.isdisjoint(claims)
        assert claims["eduperson_entitlement"], "services can see the VOs"
    assert await state_of(ada) == before, "the login is as it was, where refresh tokens do not rotate"
    assert repr(first) == f"SessionToken(expires_at={first.expires_at}, scopes={first.scopes})"


@pytest.mark.parametrize(("exchanges", "audience"), [(True, "onezone"), (False, "app")])
async def test_tokens_are_exchanged_where_the_provider_lists_that_and_come_by_a_refresh_elsewhere(
    checkin: CheckinStandIn, application: Application, ada: User, exchanges: bool, audience: str
) -> None:
    checkin.settings.exchanges_tokens = exchanges
    ours = by_way(checkin, "auto", session_token_audience="onezone" if exchanges else "")
    token = await ours.session_token(ada)
    assert application.introspect(token.value)["aud"] == audience


async def test_where_exchange_is_listed_and_refused_a_refresh_does_and_nobody_asks_again_at_once(
    checkin: CheckinStandIn, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    ours = by_way(checkin, "auto")
    assert await ours.lists_token_exchange()
    checkin.settings.exchanges_tokens = False
    assert set((await ours.session_token(ada)).scopes) == set(ASKED)
    assert token_requests(checkin) == 2
    await ours.session_token(ada)
    assert token_requests(checkin) == 3
    assert caplog.text.count("refuses it to this hub (unauthorized_client)") == 1


async def test_no_other_way_is_taken_where_the_audience_needs_the_exchange(checkin: CheckinStandIn, ada: User) -> None:
    checkin.settings.exchanges_tokens = False
    told = await refusal(by_way(checkin, "auto", session_token_audience="onezone"), ada)
    assert told.is_final
    assert "allow token exchange" in str(told)


@BOTH
async def test_the_login_goes_on_where_refresh_tokens_rotate(
    checkin: CheckinStandIn, application: Application, ada: User, by: str
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    ours = by_way(checkin, by)
    before = await state_of(ada)
    tokens = [await ours.session_token(ada) for _ in range(3)]
    after = await state_of(ada)
    assert (after["refresh_token"] != before["refresh_token"]) is (by == "refresh")
    assert after["token_response"]["refresh_token"] == after["refresh_token"]
    changed = dict.fromkeys(("refresh_token", "token_response"))
    assert {**after, **changed} == {**before, **changed}
    # Renewed by what was kept, with all of its scopes; the sessions' tokens are as good as before.
    await note(ada, renew_at=time.time() - 2, expires_at=time.time() - 1)
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER
    renewed = (await state_of(ada))["access_token"]
    assert "email" in application.introspect(renewed)["scope"].split()
    assert all(application.introspect(token.value)["active"] for token in tokens)


@BOTH
async def test_one_person_is_asked_about_once_at_a_time_in_two_processes_as_well(
    checkin: CheckinStandIn, tmp_path: Path, by: str
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    hubs = [by_way(checkin, by) for _ in range(2)]
    sessions = [hub_database(tmp_path / "hub.sqlite") for _ in hubs]
    first = await hub_user(sessions[0], ADA.voperson_id, logged_in_state(checkin, hubs[0], ADA))
    second = User(orm.User.find(sessions[1], ADA.voperson_id), {}, sessions[1])
    try:
        asking = [hub.session_token(user) for hub, user in zip(hubs, (first, second), strict=True) for _ in range(3)]
        tokens = await asyncio.gather(*asking, hubs[0].refresher.refresh(first))
        values = {token.value for token in tokens if isinstance(token, SessionToken)}
        assert len(values) == 6
        # Of a rotated token that came twice, all of the login would have ended.
        await note(first, renew_at=time.time() - 2, expires_at=time.time() - 1)
        assert (await hubs[1].refresher.refresh(second)).standing is Standing.MEMBER
    finally:
        for session in sessions:
            session.close()
            session.get_bind().dispose()


async def test_the_logins_own_token_is_renewed_before_it_is_exchanged(checkin: CheckinStandIn, ada: User) -> None:
    ours = by_way(checkin, "exchange")
    before = await state_of(ada)
    await note(ada, renew_at=time.time() - 2, expires_at=time.time() - 1)
    await ours.session_token(ada)
    assert token_requests(checkin) == 2
    assert (await state_of(ada))["access_token"] != before["access_token"]
    # One that the provider takes no more before its time is renewed, too.
    checkin.memory.revoke((await state_of(ada))["access_token"])
    await ours.session_token(ada)
    assert token_requests(checkin) == 5


async def test_a_login_meanwhile_is_the_one_whose_token_is_given(
    checkin: CheckinStandIn, application: Application, ada: User
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    ours = by_way(checkin, "refresh")
    new_login = logged_in_state(checkin, ours, ADA)
    checkin.controls.requests.clear()
    checkin.fail(Failing.HANG, Endpoint.TOKEN)
    asking = asyncio.create_task(ours.session_token(ada))
    while not token_requests(checkin):  # noqa: ASYNC110 - counted by another thread
        await asyncio.sleep(0.01)
    await hub_user(ada.db, ada.name, new_login)
    checkin.recover(Endpoint.TOKEN)
    token = await asking
    after = await state_of(ada)
    assert after["access_token"] == new_login["access_token"]
    assert application.introspect(token.value)["active"]
    assert application.refresh(after["refresh_token"]).status_code == 200


# Who gets none


def _doubt(cause: Cause) -> dict[str, Any]:
    return {"doubt": Doubt(time.time() - 10, cause)}


@pytest.mark.parametrize(
    ("changes", "is_final", "sentence"),
    [
        ({"is_lost": True}, True, "none of the VOs"),
        (_doubt(Cause.LOGIN_NEEDED), True, "log in again"),
        (_doubt(Cause.FAULT), False, "cannot look up whether you are still a member"),
        ({"logout": Logout.DONE}, True, "log in again"),
    ],
    ids=["lost", "login needed", "fault", "logged out"],
)
async def test_nothing_is_asked_for_somebody_who_is_lost_or_in_doubt(
    checkin: CheckinStandIn, ada: User, changes: dict[str, Any], is_final: bool, sentence: str
) -> None:
    await note(ada, **changes)
    told = await refusal(by_way(checkin, "auto"), ada)
    assert sentence in str(told)
    assert told.is_final is is_final
    assert token_requests(checkin) == 0


async def test_nothing_is_asked_without_a_vo_or_a_record_of_a_login(checkin: CheckinStandIn, ada: User) -> None:
    elsewhere = by_way(checkin, "auto", permitted_vos={"vo.other.eu": ""})
    assert "none of the VOs" in str(await refusal(elsewhere, ada))
    await ada.save_auth_state(None)
    assert "log in again" in str(await refusal(by_way(checkin, "auto"), ada))
    assert token_requests(checkin) == 0


async def test_an_admin_without_a_vo_gets_one_where_admins_are_exempt(checkin: CheckinStandIn, ada: User) -> None:
    ours = by_way(checkin, "auto", permitted_vos={"vo.other.eu": ""}, exempt_admins=True)
    await refusal(ours, ada)
    ada.admin = True
    assert (await ours.session_token(ada)).value


async def test_a_membership_that_was_proved_long_ago_is_looked_at_first(checkin: CheckinStandIn, ada: User) -> None:
    ours = by_way(checkin, "auto")
    await note(ada, answered_at=time.time() - 4000)
    checkin.set_entitlements(ADA)
    assert "none of the VOs" in str(await refusal(ours, ada))
    assert token_requests(checkin) == 0
    assert (await notes_of(ada)).is_lost


async def test_a_login_that_left_a_session_running_goes_on_giving_it_tokens(checkin: CheckinStandIn, ada: User) -> None:
    await note(ada, logout=Logout.PENDING)
    assert (await by_way(checkin, "auto").session_token(ada)).value


# What comes instead of a token


@BOTH
async def test_a_fault_is_no_refusal_and_changes_nothing(checkin: CheckinStandIn, ada: User, by: str) -> None:
    ours = by_way(checkin, by)
    before = await state_of(ada)
    # 403 as of something in between: it is not OAuth's.
    for fault in (Failing.PAGE, 500, 429, 403, Failing.DISCONNECT):
        checkin.fail(fault, Endpoint.TOKEN)
        told = await refusal(ours, ada)
        assert not told.is_final
        assert "tried again" in str(told)
        assert of_login(await state_of(ada)) == of_login(before)
        checkin.recover()
        assert (await ours.session_token(ada)).value


@BOTH
async def test_no_answer_is_a_fault(checkin: CheckinStandIn, ada: User, by: str) -> None:
    ours = by_way(checkin, by, http_request_kwargs={"request_timeout": 0.3})
    await ours.know_endpoints()
    checkin.fail(Failing.HANG, Endpoint.TOKEN)
    assert (await refusal(ours, ada)).is_final is False
    checkin.recover()
    assert (await notes_of(ada)).claim is None


async def test_where_the_configuration_cannot_be_read_it_is_tried_again(checkin: CheckinStandIn, ada: User) -> None:
    checkin.fail(503, Endpoint.CONFIGURATION)
    ours = by_way(checkin, "auto")
    assert (await refusal(ours, ada)).is_final is False
    checkin.recover()
    assert (await ours.session_token(ada)).value


@BOTH
async def test_a_login_that_has_ended_at_the_provider_has_to_be_made_again(
    checkin: CheckinStandIn, ada: User, by: str
) -> None:
    checkin.end_logins(ADA)
    told = await refusal(by_way(checkin, by), ada)
    assert told.is_final
    assert "log in again" in str(told)
    assert (await notes_of(ada)).doubt is None, "memberships are looked at elsewhere"


async def test_without_a_refresh_token_there_is_a_token_for_as_long_as_the_login_has_one(
    checkin: CheckinStandIn, ada: User
) -> None:
    stored = await HubAuthStates().read(ada)
    await HubAuthStates().change(ada, stored, lambda state: {**state, "refresh_token": None})
    assert "log in again" in str(await refusal(by_way(checkin, "refresh"), ada))
    ours = by_way(checkin, "exchange")
    assert (await ours.session_token(ada)).value
    await note(ada, renew_at=time.time() - 2, expires_at=time.time() - 1)
    assert "log in again" in str(await refusal(ours, ada))


async def test_scopes_that_the_login_has_not_are_refused_with_what_to_do(checkin: CheckinStandIn, ada: User) -> None:
    ours = by_way(checkin, "refresh", scope=["openid", "offline_access", *ASKED, "aarc"])
    ours.session_token_scopes = ["openid", "aarc"]
    told = await refusal(ours, ada)
    assert told.is_final
    assert "invalid_scope" in str(told)
    assert "session_token_scopes" in str(told)


async def test_an_exchange_that_is_not_allowed_is_told_with_what_to_do(checkin: CheckinStandIn, ada: User) -> None:
    checkin.settings.exchanges_tokens = False
    told = await refusal(by_way(checkin, "exchange"), ada)
    assert told.is_final
    assert "administrators" in str(told)
    assert "allow token exchange" in str(told)


@BOTH
async def test_a_token_that_is_good_for_more_is_given_back(
    checkin: CheckinStandIn, application: Application, ada: User, by: str
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    ours = by_way(checkin, by)
    other = application.log_in(ADA)["access_token"]
    checkin.settings.token_answer = {"scope": " ".join((*ASKED, "email")), "access_token": other}
    told = await refusal(ours, ada)
    assert told.is_final
    assert "(email)" in str(told)
    assert application.introspect(other) == {"active": False}
    checkin.settings.token_answer = None
    assert (await ours.session_token(ada)).value, "what rotated was kept"


@BOTH
async def test_the_hubs_own_token_is_never_handed_on_nor_given_back(
    checkin: CheckinStandIn, application: Application, ada: User, by: str
) -> None:
    ours = by_way(checkin, by)
    own = (await state_of(ada))["access_token"]
    checkin.settings.token_answer = {"access_token": own}
    assert "the hub's own" in str(await refusal(ours, ada))
    assert application.introspect(own)["active"]


ANSWER = {"access_token": "abc.DEF-1_2~3+4/5=", "token_type": "bearer", "expires_in": 600}


@pytest.mark.parametrize(
    ("changes", "reason", "is_final"),
    [
        ({"access_token": ""}, "empty", False),
        ({"access_token": 5}, "empty", False),
        ({"access_token": "a" * 900_001}, "longer than 900 KB", True),
        ({"access_token": "a\nb"}, "line breaks", True),
        ({"access_token": "abc\n"}, "line breaks", True),
        ({"access_token": "a b"}, "spaces", True),
        ({"access_token": "schlüssel"}, "ASCII", True),
        ({"access_token": "\ud800"}, "ASCII", True),
        ({"access_token": "the-login's"}, "the hub's own", True),
        ({"issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "another kind", True),
        ({"issued_token_type": None}, "another kind", True),
        ({"token_type": "N_A"}, "bearer", True),
        ({"token_type": "DPoP"}, "bearer", True),
        ({"scope": "openid profile"}, "good for more than was asked for (profile)", True),
        ({"scope": ["openid"]}, "cannot be read", False),
        ({"expires_in": 0}, "expired already", False),
        ({"expires_in": -1}, "expired already", False),
        ({"expires_in": "-1"}, "expired already", False),
    ],
    ids=[
        "empty", "a number", "large", "a line break", "a line break at its end", "a space", "no ASCII", "no text",
        "the hub's", "a refresh token", "of no kind", "no access token", "bound to a key", "wider", "scopes in a list",
        "life of 0", "negative life", "negative text",
    ],
)  # fmt: skip
def test_what_is_no_token_for_a_session_is_not_handed_on(changes: dict[str, Any], reason: str, is_final: bool) -> None:
    with pytest.raises(UnusableToken) as caught:
        session_token({**ANSWER, **changes}, asked=["openid"], asked_at=1000.0, others={"the-login's"})
    assert reason in str(caught.value)
    assert caught.value.is_final is is_final


@pytest.mark.parametrize(
    ("changes", "life", "scopes"),
    [
        ({}, 600, ("openid", "email")),
        ({"expires_in": "600"}, 600, ("openid", "email")),
        ({"expires_in": 0.5}, 0.5, ("openid", "email")),
        ({"expires_in": 10**400}, 300, ("openid", "email")),
        ({"expires_in": 1e300}, 86_400, ("openid", "email")),
        ({"expires_in": float("nan")}, 300, ("openid", "email")),
        ({"expires_in": True}, 300, ("openid", "email")),
        ({"expires_in": "soon"}, 300, ("openid", "email")),
        ({"expires_in": None}, 300, ("openid", "email")),
        ({"scope": "email"}, 600, ("email",)),
        ({"scope": ""}, 600, ()),
        ({"issued_token_type": ACCESS_TOKEN, "token_type": "Bearer"}, 600, ("openid", "email")),
        ({"access_token": "a" * 900_000}, 600, ("openid", "email")),
    ],
    ids=[
        "as it should be", "in a text", "short", "beyond numbers", "huge", "no number", "true", "words", "not told",
        "fewer scopes", "no scopes", "exchanged", "just not too large",
    ],
)  # fmt: skip
def test_a_life_is_believed_within_bounds(changes: dict[str, Any], life: float, scopes: tuple[str, ...]) -> None:
    answer = {**ANSWER, **changes}
    token = session_token(answer, asked=["openid", "email"], asked_at=1000.0, others=())
    assert token == SessionToken(str(answer["access_token"]), 1000.0 + life, scopes)


@BOTH
async def test_a_life_that_is_not_told_is_said_once(
    checkin: CheckinStandIn, ada: User, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = by_way(checkin, by)
    checkin.settings.token_answer = {"expires_in": None, "scope": None}
    for _ in range(2):
        token = await ours.session_token(ada)
        assert 290 < token.expires_at - time.time() <= 300
        assert token.scopes == ASKED
    assert caplog.text.count("300 s are assumed") == 1


@BOTH
@pytest.mark.parametrize("ahead", [86_400, -86_400])
async def test_a_wrong_clock_of_the_provider_does_not_matter(
    checkin: CheckinStandIn, ada: User, by: str, ahead: int
) -> None:
    checkin.settings.clock_skew_seconds = ahead
    token = await by_way(checkin, by).session_token(ada)
    assert 3590 < token.expires_at - time.time() <= 3600


# Giving one back


@BOTH
async def test_the_end_of_a_session_ends_its_token_and_nothing_else(
    checkin: CheckinStandIn, application: Application, ada: User, by: str
) -> None:
    ours = by_way(checkin, by)
    ended, other = [await ours.session_token(ada) for _ in range(2)]
    await ours.end_session_token(ada, ended.value)
    assert application.introspect(ended.value) == {"active": False}
    assert application.introspect(other.value)["active"]
    login = await state_of(ada)
    assert application.userinfo(login["access_token"]).status_code == 200
    assert application.refresh(login["refresh_token"]).status_code == 200
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER


async def test_what_is_in_use_elsewhere_is_not_given_back(
    checkin: CheckinStandIn, application: Application, ada: User
) -> None:
    ours = by_way(checkin, "auto")
    script = checkin.give_access_token(ADA)
    stored = await HubAuthStates().read(ada)
    await HubAuthStates().change(ada, stored, lambda state: {**state, SCRIPT: {"access_token": script}})
    login = await state_of(ada)
    for value in (login["access_token"], login["refresh_token"], login["id_token"], script, ""):
        await ours.end_session_token(ada, value)
    assert checkin.controls.requests[Endpoint.REVOKE] == 0
    assert application.introspect(login["access_token"])["active"]


async def test_a_login_survives_a_provider_that_ends_it_with_any_of_its_tokens_where_that_is_set(
    checkin: CheckinStandIn, application: Application, ada: User
) -> None:
    checkin.settings.revoking_ends_logins = True
    ours = by_way(checkin, "refresh", revoke_session_tokens=False)
    token = await ours.session_token(ada)
    await ours.end_session_token(ada, token.value)
    assert application.introspect((await state_of(ada))["access_token"])["active"]
    # What the setting is for:
    await by_way(checkin, "refresh").end_session_token(ada, token.value)
    assert application.introspect((await state_of(ada))["access_token"]) == {"active": False}


@pytest.mark.parametrize(
    ("fault", "endpoint"),
    [(500, Endpoint.REVOKE), (400, Endpoint.REVOKE), (Failing.DISCONNECT, Endpoint.REVOKE), (503, Endpoint.CONFIGURATION)],
    ids=["500", "400", "cut", "no configuration"],
)  # fmt: skip
async def test_a_token_that_cannot_be_given_back_is_told_of_in_the_log_alone(
    checkin: CheckinStandIn, ada: User, fault: Fault, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    checkin.fail(fault, endpoint)
    await by_way(checkin, "auto").end_session_token(ada, "a-token-of-a-session")
    assert f"of {ADA.voperson_id} was not given back" in caplog.text
    assert "a-token-of-a-session" not in caplog.text


async def test_a_provider_that_takes_none_back_is_not_asked_to(checkin: CheckinStandIn, ada: User) -> None:
    checkin.settings.lists_revocation = False
    await by_way(checkin, "auto").end_session_token(ada, "a-token-of-a-session")
    assert checkin.controls.requests[Endpoint.REVOKE] == 0


async def test_a_database_that_fails_does_not_keep_a_session_from_ending(
    checkin: CheckinStandIn, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    ours = by_way(checkin, "auto")
    ada.db.execute(orm.User.__table__.update().values(encrypted_auth_state=b"unreadable"))
    ada.db.commit()
    await ours.end_session_token(ada, "a-token-of-a-session")
    orm.Base.metadata.drop_all(ada.db.get_bind())
    ada.db.rollback()
    await ours.end_session_token(ada, "a-token-of-a-session")
    assert "was not given back: OperationalError" in caplog.text
    assert "a-token-of-a-session" not in caplog.text


# What never shows a token


@BOTH
async def test_no_log_and_no_error_holds_a_token(
    checkin: CheckinStandIn, ada: User, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ours = by_way(checkin, by)
    secret = "secret-of-a-session"
    shown: list[str] = []
    for answer in (
        {"scope": "openid profile", "access_token": secret},
        {"access_token": f"{secret}\n"},
        {"access_token": None, "token": secret},
        {"access_token": secret, "error_description": "and an error"},
        {"access_token": secret, "expires_in": 0},
    ):
        checkin.settings.token_answer = answer
        told = await refusal(ours, ada)
        shown += traceback.format_exception(told)
    checkin.settings.token_answer = {"access_token": secret}
    token = await ours.session_token(ada)
    shown.append(repr(token))
    await ours.end_session_token(ada, token.value)
    for held in (secret, *(str(value) for value in of_login(await state_of(ada)).values())):
        assert held not in "".join(shown)
        assert held not in caplog.text


# Settings


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"session_token_scopes": ["openid", "offline_access"]}, "offline_access"),
        ({"session_token_scopes": []}, "has to name"),
        ({"session_token_scopes": ["openid profile"]}, "a scope each"),
        ({"session_token_by": "magic"}, "session_token_by"),
        ({"session_token_by": "refresh", "session_token_audience": "onezone"}, "needs an exchange"),
        ({"session_token_by": "refresh", "session_token_scopes": ["openid", "aarc"]}, "aarc"),
    ],
    ids=["offline_access", "none", "two in one", "no such way", "an audience by refresh", "more than the login"],
)
def test_settings_that_cannot_be_meant_end_the_hub_at_its_start(
    checkin: CheckinStandIn, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises((ValueError, TraitError), match=reason):
        authenticator_at(checkin, **settings)


async def test_a_claim_that_a_dead_process_left_is_taken_over(checkin: CheckinStandIn, ada: User) -> None:
    before = await notes_of(ada)
    await note(ada, claim=Claim("a process that died", time.time() - 1))
    assert (await by_way(checkin, "refresh").session_token(ada)).value
    # What the provider answered to the process that died, nobody knows.
    assert await notes_of(ada) == replace(before, claim=None, may_have_ended=True)


async def test_the_end_of_a_session_does_not_wait_for_a_provider_that_hangs(
    checkin: CheckinStandIn, ada: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("replay_auth.token_source.END_SECONDS", 0.3)
    checkin.fail(Failing.HANG, Endpoint.REVOKE)
    await by_way(checkin, "auto").end_session_token(ada, "a-token-of-a-session")
    assert "was not given back: TimeoutError" in caplog.text
