"""Memberships asked about again: a real stand-in for Check-in, JupyterHub's own users and database, and no hub."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import stamina
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper
from jupyterhub.user import User
from tornado import web
from traitlets import TraitError

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint, Failing, Fault
from demo.people import ADA, BORIS, DMITRI
from replay_auth import EGICheckinAuthenticator
from replay_auth.errors import SpawnRefused
from replay_auth.notes import Cause, Claim, Doubt, Logout, Notes
from replay_auth.refreshing import Standing, Verdict
from replay_auth.stored import HubAuthStates
from tests.hub_people import (
    VO,
    authenticator_at,
    checkin_for_applications,
    hub_database,
    hub_user,
    logged_in_state,
    note,
    notes_of,
    state_of,
)

LONG_AGO = 1000.0
ASKED = (Endpoint.TOKEN, Endpoint.USERINFO)


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
    yield running
    running.recover()
    running.controls.reset()


@pytest.fixture
def ours(checkin: CheckinStandIn) -> EGICheckinAuthenticator:
    return authenticator_at(checkin)


@pytest.fixture
async def database() -> AsyncIterator[Any]:
    session = hub_database()
    yield session
    session.close()
    session.get_bind().dispose()


@pytest.fixture
async def ada(database: Any, checkin: CheckinStandIn, ours: EGICheckinAuthenticator) -> User:
    """Ada, who has just logged in; nothing has been asked since."""
    user = await hub_user(database, ADA.voperson_id, logged_in_state(checkin, ours, ADA))
    user.sync_groups([VO])
    checkin.controls.requests.clear()
    return user


def asked(checkin: CheckinStandIn) -> dict[Endpoint, int]:
    return {endpoint: checkin.controls.requests[endpoint] for endpoint in ASKED}


async def expire(user: User) -> None:
    await note(user, renew_at=time.time() - 2, expires_at=time.time() - 1)


async def make_due(user: User) -> None:
    await note(user, renew_at=time.time() - 1, expires_at=time.time() + 60)


def groups(user: User) -> list[str]:
    return sorted(group.name for group in user.orm_user.groups)


# What an answer means


async def test_a_valid_access_token_is_used_and_the_refresh_token_is_not(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    before = await state_of(ada)
    checkin.set_entitlements(ADA, *DMITRI.entitlements)
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER
    assert asked(checkin) == {Endpoint.TOKEN: 0, Endpoint.USERINFO: 1}
    after = await state_of(ada)
    assert after["oauth_user"]["entitlements"] == list(DMITRI.entitlements)
    assert {name: after[name] for name in ("access_token", "refresh_token", "id_token")} == {
        name: before[name] for name in ("access_token", "refresh_token", "id_token")
    }


async def test_groups_follow_the_answer(checkin: CheckinStandIn, database: Any) -> None:
    ours = authenticator_at(checkin, vo_managers={VO: [f"{VO}:role=manager"]})
    user = await hub_user(database, ADA.voperson_id, logged_in_state(checkin, ours, ADA))
    checkin.set_entitlements(ADA, *DMITRI.entitlements)
    assert await ours.refresh_user(user) is True
    assert groups(user) == [VO, f"{VO}:managers"]
    checkin.set_entitlements(ADA, DMITRI.entitlements[0])
    assert await ours.refresh_user(user) is True
    assert groups(user) == [VO]


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda checkin: checkin.set_entitlements(ADA), "none of the permitted VOs"),
        (lambda checkin: checkin.suspend(ADA), "none of the permitted VOs"),
        (lambda checkin: checkin.suspend(ADA, inactive=True), "does not know the login any more"),
        (
            lambda checkin: checkin.set_entitlements(ADA, f"urn:mace:egi.eu:group:{VO}.evil.example#aai.egi.eu"),
            "none of the permitted VOs",
        ),
    ],
    ids=["entitlement removed", "suspended", "inactive", "a near miss instead"],
)
async def test_a_loss_takes_groups_tokens_and_cookies(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User, loss: Any, reason: str
) -> None:
    ada.new_api_token(note="mine")
    cookie = ada.orm_user.cookie_id
    loss(checkin)
    verdict = await ours.refresher.refresh(ada)
    assert verdict.standing is Standing.LOST
    assert reason in verdict.reason
    assert groups(ada) == []
    assert ada.db.query(orm.APIToken).filter_by(user_id=ada.id).count() == 0
    assert ada.orm_user.cookie_id != cookie
    assert await ours.refresh_user(ada) is False
    with pytest.raises(SpawnRefused, match="may start servers here"):
        await ours.pre_spawn_start(ada, None)


async def test_a_new_access_token_that_is_not_accepted_is_a_loss(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    checkin.fail(401, Endpoint.USERINFO)
    assert (await ours.refresher.refresh(ada)).standing is Standing.LOST
    assert asked(checkin) == {Endpoint.TOKEN: 1, Endpoint.USERINFO: 2}


FAULTS: list[tuple[Fault, Endpoint]] = [
    (503, Endpoint.USERINFO),
    (500, Endpoint.USERINFO),
    (429, Endpoint.USERINFO),
    (403, Endpoint.USERINFO),
    (404, Endpoint.USERINFO),
    (400, Endpoint.USERINFO),
    (Failing.DISCONNECT, Endpoint.USERINFO),
    (Failing.REFUSE, Endpoint.USERINFO),
    (Failing.HANG, Endpoint.USERINFO),
    (503, Endpoint.TOKEN),
    (403, Endpoint.TOKEN),
    (404, Endpoint.TOKEN),
    (Failing.DISCONNECT, Endpoint.TOKEN),
    (Failing.REFUSE, Endpoint.TOKEN),
    (Failing.HANG, Endpoint.TOKEN),
]


@pytest.mark.parametrize(("fault", "endpoint"), FAULTS, ids=str)
async def test_a_fault_is_borne_for_the_grace_and_no_longer(
    checkin: CheckinStandIn, database: Any, fault: Fault, endpoint: Endpoint
) -> None:
    ours = authenticator_at(checkin, http_request_kwargs={"request_timeout": 0.3})
    user = await hub_user(database, ADA.voperson_id, logged_in_state(checkin, ours, ADA))
    user.sync_groups([VO])
    if endpoint is Endpoint.TOKEN:
        await expire(user)
    checkin.fail(fault, endpoint)
    verdict = await ours.refresher.refresh(user)
    assert verdict.standing is Standing.IN_DOUBT
    assert verdict.doubt
    assert verdict.doubt.cause is Cause.FAULT
    assert await ours.refresh_user(user) is True, "nobody has to log in because of it"
    assert groups(user) == [VO]
    assert (await notes_of(user)).doubt == verdict.doubt, "kept, so that a restart does not begin it anew"

    await note(user, doubt=Doubt(time.time() - ours.membership_grace - 1, Cause.FAULT))
    token = user.new_api_token()
    assert (await ours.refresher.refresh(user)).standing is Standing.DOUBTED_TOO_LONG
    assert await ours.refresh_user(user) is False
    assert orm.APIToken.find(database, token), "a fault takes nothing for good"

    checkin.recover()
    await note(user, claim=None)
    another_hub = authenticator_at(checkin)
    assert (await another_hub.refresher.refresh(user)).standing is Standing.MEMBER
    assert (await notes_of(user)).doubt is None


async def test_a_doubt_survives_a_restart(checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User) -> None:
    checkin.fail(503, Endpoint.USERINFO)
    first = await ours.refresher.refresh(ada)
    again = await authenticator_at(checkin).refresher.refresh(ada)
    assert again.doubt == first.doubt


async def test_a_login_that_cannot_be_renewed_has_to_be_made_again_within_the_grace(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    checkin.end_logins(ADA, refresh_tokens_only=True)
    await expire(ada)
    verdict = await ours.refresher.refresh(ada)
    assert verdict.standing is Standing.IN_DOUBT
    assert verdict.doubt
    assert verdict.doubt.cause is Cause.LOGIN_NEEDED
    assert await ours.refresh_user(ada) is False
    await note(ada, doubt=Doubt(LONG_AGO, Cause.LOGIN_NEEDED))
    assert (await ours.refresher.refresh(ada)).standing is Standing.DOUBTED_TOO_LONG
    await hub_user(ada.db, ada.name, logged_in_state(checkin, ours, ADA))
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER


async def test_an_access_token_that_still_works_is_enough_where_renewing_does_not(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    await make_due(ada)
    checkin.end_logins(ADA, refresh_tokens_only=True)
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER
    checkin.fail(503, Endpoint.TOKEN)
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER


async def test_without_a_refresh_token_the_access_token_is_used_while_it_lives(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, database: Any
) -> None:
    state = {**logged_in_state(checkin, ours, ADA), "refresh_token": None}
    user = await hub_user(database, ADA.voperson_id, state)
    assert (await ours.refresher.refresh(user)).standing is Standing.MEMBER
    await expire(user)
    verdict = await ours.refresher.refresh(user)
    assert verdict.doubt
    assert verdict.doubt.cause is Cause.LOGIN_NEEDED
    assert checkin.controls.requests[Endpoint.INTROSPECT] == 0, "an expired token is inactive in any case"


async def test_who_logged_out_is_not_taken_for_somebody_the_provider_knows_no_more(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    assert await ours.logged_out(ada) is True
    checkin.end_logins(ADA)
    verdict = await ours.refresher.refresh(ada)
    assert verdict.standing is Standing.IN_DOUBT
    assert verdict.doubt
    assert verdict.doubt.cause is Cause.LOGIN_NEEDED


async def test_who_logged_out_is_believed_no_longer_than_a_proof_may_be_old(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    answered_at = (await notes_of(ada)).answered_at
    await ours.logged_out(ada)
    checkin.end_logins(ADA)
    verdict = await ours.refresher.refresh(ada)
    assert (verdict.standing, verdict.until) == (Standing.IN_DOUBT, answered_at + 0.6 * ours.membership_seconds)
    await note(ada, answered_at=time.time() - 0.6 * ours.membership_seconds - 1)
    assert (await ours.refresher.refresh(ada)).standing is Standing.DOUBTED_TOO_LONG, "and not for the grace"


async def test_the_tokens_of_who_logged_out_stay_while_something_is_looked_at_by_them(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    token = ada.new_api_token(note="left")
    assert await ours.logged_out(ada) is False
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER
    await ours._give_back_if_logged_out(ada)
    assert checkin.controls.requests[Endpoint.REVOKE] == 0
    ada.db.delete(orm.APIToken.find(ada.db, token))
    ada.db.commit()
    await ours._give_back_if_logged_out(ada)
    assert checkin.controls.requests[Endpoint.REVOKE] == 2
    await ours._give_back_if_logged_out(ada)
    assert checkin.controls.requests[Endpoint.REVOKE] == 2, "once"


async def test_what_a_verdict_has_ended_holds_until_something_changes(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    assert not await ours.refresher.has_ended(ada)
    checkin.suspend(ADA)
    await ours.refresher.refresh(ada)
    before = asked(checkin)
    assert await ours.refresher.has_ended(ada)
    assert asked(checkin) == before
    await hub_user(ada.db, ada.name, logged_in_state_after_restore(checkin, ours))
    assert not await ours.refresher.has_ended(ada), "a login came"


async def test_a_loss_is_not_forgotten_because_of_a_fault_after_it(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    checkin.suspend(ADA, inactive=True)
    assert (await ours.refresher.refresh(ada)).standing is Standing.LOST
    checkin.fail(503, *ASKED)
    assert (await authenticator_at(checkin).refresher.refresh(ada)).standing is Standing.LOST
    await expire(ada)
    checkin.recover()
    assert (await authenticator_at(checkin).refresher.refresh(ada)).standing is Standing.LOST
    await hub_user(ada.db, ada.name, logged_in_state_after_restore(checkin, ours))
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER, "until the next login"


def logged_in_state_after_restore(checkin: CheckinStandIn, ours: EGICheckinAuthenticator) -> dict[str, Any]:
    checkin.restore(ADA)
    return logged_in_state(checkin, ours, ADA)


@pytest.mark.parametrize(
    "answer",
    [
        lambda checkin: setattr(checkin.settings, "userinfo_subject", BORIS.voperson_id),
        lambda checkin: setattr(checkin.settings, "userinfo_subject", ""),
    ],
)
async def test_userinfo_about_somebody_else_proves_nothing(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User, answer: Any
) -> None:
    answer(checkin)
    verdict = await ours.refresher.refresh(ada)
    assert verdict.standing is Standing.IN_DOUBT
    assert "different subjects" in verdict.reason


async def test_a_state_of_another_person_proves_nothing(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, database: Any
) -> None:
    user = await hub_user(database, BORIS.voperson_id, logged_in_state(checkin, ours, ADA))
    verdict = await ours.refresher.refresh(user)
    assert verdict.standing is Standing.IN_DOUBT
    assert "somebody else" in verdict.reason
    assert groups(user) == []


@pytest.mark.parametrize("ahead", [-7200, 7200])
async def test_a_providers_clock_may_be_wrong(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, database: Any, ahead: int
) -> None:
    checkin.settings.clock_skew_seconds = ahead
    user = await hub_user(database, ADA.voperson_id, logged_in_state(checkin, ours, ADA))
    checkin.controls.requests.clear()
    assert (await ours.refresher.refresh(user)).standing is Standing.MEMBER
    assert asked(checkin) == {Endpoint.TOKEN: 0, Endpoint.USERINFO: 1}


# Renewing


@pytest.mark.parametrize("rotates", [False, True])
async def test_a_token_near_its_end_is_renewed_before_it_is_used(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User, rotates: bool
) -> None:
    checkin.settings.rotates_refresh_tokens = rotates
    before = await state_of(ada)
    for _ in range(3):
        await make_due(ada)
        assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER
    assert asked(checkin) == {Endpoint.TOKEN: 3, Endpoint.USERINFO: 3}
    after = await state_of(ada)
    assert after["access_token"] != before["access_token"]
    assert after["refresh_token"], "one that the provider leaves out stays"
    assert (after["refresh_token"] != before["refresh_token"]) is rotates
    assert after["token_response"]["access_token"] == after["access_token"]
    notes = Notes.of(after)
    assert notes.claim is None
    assert notes.expires_at
    assert 3500 < notes.expires_at - time.time() <= 3600


async def test_a_rotated_token_is_kept_although_all_else_fails(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    checkin.fail(503, Endpoint.USERINFO, Endpoint.CERTS)
    before = await state_of(ada)
    await expire(ada)
    assert (await ours.refresher.refresh(ada)).standing is Standing.IN_DOUBT
    after = await state_of(ada)
    assert after["refresh_token"] != before["refresh_token"]
    assert after["id_token"] == before["id_token"], "one that could not be verified is not kept"
    checkin.recover()
    await expire(ada)
    assert (await authenticator_at(checkin).refresher.refresh(ada)).standing is Standing.MEMBER


async def test_a_rotated_token_whose_answer_was_lost_is_no_loss(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    checkin.fail(Failing.LOSE_ANSWER, Endpoint.TOKEN, times=1)
    await expire(ada)
    assert (await ours.refresher.refresh(ada)).standing is Standing.IN_DOUBT
    # The provider takes what comes now for a stolen token, and ends the login.
    verdict = await authenticator_at(checkin).refresher.refresh(ada)
    assert verdict.standing is Standing.IN_DOUBT
    assert verdict.doubt
    assert verdict.doubt.cause is Cause.LOGIN_NEEDED
    await note(ada, renew_at=time.time() + 100, expires_at=time.time() + 200)
    assert (await authenticator_at(checkin).refresher.refresh(ada)).standing is Standing.IN_DOUBT


async def test_two_hubs_with_one_database_do_not_use_the_same_refresh_token(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, tmp_path: Path
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    sessions = [hub_database(tmp_path / "hub.sqlite") for _ in range(2)]
    first = await hub_user(sessions[0], ADA.voperson_id, logged_in_state(checkin, ours, ADA))
    second = User(orm.User.find(sessions[1], ADA.voperson_id), {}, sessions[1])
    successor = authenticator_at(checkin)
    try:
        for turn in range(1, 6):
            await expire(first)
            verdicts = await asyncio.gather(ours.refresher.refresh(first), successor.refresher.refresh(second))
            assert [verdict.standing for verdict in verdicts] == [Standing.MEMBER] * 2
            assert checkin.controls.requests[Endpoint.TOKEN] == 1 + turn, "the login, and one renewal each time"
    finally:
        for session in sessions:
            session.close()
            session.get_bind().dispose()


async def test_the_claim_of_a_process_that_died_is_taken_over(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    await expire(ada)
    await note(ada, claim=Claim("a process that died", time.time() + 0.5))
    begun = time.monotonic()
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER
    assert time.monotonic() - begun > 0.4
    assert (await notes_of(ada)).claim is None


async def test_a_login_meanwhile_is_not_overwritten(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    checkin.settings.rotates_refresh_tokens = True
    new_login = logged_in_state(checkin, ours, ADA)
    for endpoint in ASKED:
        checkin.controls.requests.clear()
        await hub_user(ada.db, ada.name, logged_in_state(checkin, ours, ADA))
        await make_due(ada)
        checkin.fail(Failing.HANG, endpoint)
        before = checkin.controls.requests[endpoint]
        refreshing = asyncio.create_task(ours.refresher.refresh(ada))
        while checkin.controls.requests[endpoint] == before:  # noqa: ASYNC110 - counted by another thread
            await asyncio.sleep(0.01)
        new_login = Notes.of_login({"expires_in": 3600}, time.time()).into(new_login)
        await hub_user(ada.db, ada.name, new_login)
        checkin.recover(endpoint)
        assert (await refreshing).standing is Standing.MEMBER
        after = await state_of(ada)
        kept = ("access_token", "refresh_token", "id_token")
        assert [after[name] for name in kept] == [new_login[name] for name in kept]
        assert Notes.of(after).doubt is None


async def test_what_has_come_is_kept_although_the_hub_ends(ada: User) -> None:
    # As JupyterHub ends: every task is cancelled, whatever it waits for.
    may_go_on = threading.Event()
    keeper = CryptKeeper.instance()
    stored = await HubAuthStates().read(ada)
    for _ in range(keeper.n_threads):
        keeper.executor.submit(may_go_on.wait, 10)  # so that encrypting takes a while
    writing = asyncio.create_task(
        HubAuthStates().change(ada, stored, lambda state: {**state, "refresh_token": "the new one"})
    )
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.sleep(0.05)
    writing.cancel()
    may_go_on.set()
    with suppress(asyncio.CancelledError):
        await writing
    assert writing.cancelled()
    assert (await state_of(ada))["refresh_token"] == "the new one"


async def test_a_change_of_what_is_another_by_now_is_applied_to_that_or_not_at_all(ada: User) -> None:
    states = HubAuthStates()
    stored = await states.read(ada)
    await ada.save_auth_state({"access_token": "another", "count": 1})
    changed = await states.change(ada, stored, lambda state: {**state, "seen": True})
    assert changed
    assert await state_of(ada) == {"access_token": "another", "count": 1, "seen": True}
    refused = await states.change(ada, stored, lambda state: None if "seen" in state else {"seen": False})
    assert refused is None
    assert (await state_of(ada))["seen"] is True


# Who asks, and how often


async def test_many_who_ask_at_once_share_one_question(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    await expire(ada)
    verdicts = await asyncio.gather(*(ours.refresher.refresh(ada) for _ in range(20)))
    assert {verdict.standing for verdict in verdicts} == {Standing.MEMBER}
    assert asked(checkin) == {Endpoint.TOKEN: 1, Endpoint.USERINFO: 1}
    await ours.refresher.refresh(ada)
    assert checkin.controls.requests[Endpoint.USERINFO] == 2, "who asks later asks anew"


async def test_a_bad_answer_is_not_asked_for_again_at_once(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    checkin.fail(503, Endpoint.USERINFO)
    for _ in range(5):
        await ours.refresher.refresh(ada)
    assert checkin.controls.requests[Endpoint.USERINFO] == 1


async def test_somebody_without_a_record_has_to_log_in(ours: EGICheckinAuthenticator, database: Any) -> None:
    user = await hub_user(database, "made-by-an-administrator", None)
    verdict: Verdict = await ours.refresher.refresh(user)
    assert (verdict.standing, verdict.is_on_record) == (Standing.IN_DOUBT, False)
    assert await ours.refresh_user(user) is False


async def test_a_state_that_cannot_be_read_is_left_as_it_is(ours: EGICheckinAuthenticator, ada: User) -> None:
    encrypted = ada.orm_user.encrypted_auth_state
    keeper = CryptKeeper.instance()
    keeper.keys = [b"x" * 32]
    assert (await ours.refresher.refresh(ada)).is_on_record is False
    keeper.keys = [b"k" * 32]
    assert ada.orm_user.encrypted_auth_state == encrypted
    assert (await ours.refresher.refresh(ada)).standing is Standing.MEMBER


class _Request:
    """As much of a handler as is looked at: whose token the request has."""

    def __init__(self, token: orm.APIToken | None) -> None:
        self.token = token

    def get_token(self) -> orm.APIToken | None:
        return self.token


async def test_a_request_with_ones_own_token_is_refused_after_a_loss_whatever_the_hub_makes_of_false(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    token = orm.APIToken.find(ada.db, ada.new_api_token())
    checkin.suspend(ADA)
    with pytest.raises(web.HTTPError, match="has ended") as refused:
        await ours.refresh_user(ada, _Request(token))
    assert refused.value.status_code == 403
    # Of somebody else's request, such as the one that stops the server, nothing is refused.
    assert await ours.refresh_user(ada, _Request(None)) is False


async def test_admins_are_exempt_where_that_is_set(checkin: CheckinStandIn, database: Any) -> None:
    ours = authenticator_at(checkin, exempt_admins=True, admin_users={ADA.voperson_id})
    user = await hub_user(database, ADA.voperson_id, logged_in_state(checkin, ours, ADA), admin=True)
    checkin.suspend(ADA)
    assert await ours.refresh_user(user) is True
    assert groups(user) == []
    await ours.pre_spawn_start(user, None)


def test_a_hook_may_not_decide_in_place_of_memberships() -> None:
    with pytest.raises((TraitError, ValueError), match="in place of the memberships"):
        EGICheckinAuthenticator(refresh_user_hook=lambda *_: True)


# Where a server starts


async def test_a_server_starts_by_a_membership_that_was_proved_within_three_fifths_of_the_bound(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User
) -> None:
    await ours.pre_spawn_start(ada, None)
    assert asked(checkin)[Endpoint.USERINFO] == 0
    await note(ada, answered_at=time.time() - 0.6 * ours.membership_seconds - 1)
    await ours.pre_spawn_start(ada, None)
    assert asked(checkin)[Endpoint.USERINFO] == 1
    await note(ada, answered_at=time.time() + 1000)
    await ours.pre_spawn_start(ada, None)
    assert asked(checkin)[Endpoint.USERINFO] == 2, "a clock that was set back makes nothing fresh"
    await note(ada, answered_at=LONG_AGO)
    checkin.suspend(ADA)
    with pytest.raises(SpawnRefused, match="may start servers here"):
        await ours.pre_spawn_start(ada, None)


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (lambda checkin: checkin.fail(503, Endpoint.USERINFO), "does not answer"),
        (lambda checkin: checkin.end_logins(ADA, refresh_tokens_only=True), "log in again"),
    ],
)
async def test_no_server_starts_while_a_membership_is_in_doubt(
    checkin: CheckinStandIn, ours: EGICheckinAuthenticator, ada: User, cause: Any, sentence: str
) -> None:
    await note(ada, answered_at=LONG_AGO)
    if sentence == "log in again":
        await expire(ada)
    cause(checkin)
    with pytest.raises(SpawnRefused, match=sentence) as refused:
        await ours.pre_spawn_start(ada, None)
    assert refused.value.status_code == 403, "a 5xx would count towards ending the hub"


# Notes


@pytest.mark.parametrize(
    "kept",
    [
        None,
        {},
        {"replay_membership": None},
        {"replay_membership": "x"},
        {"replay_membership": {"answered_at": "never", "doubt": 3, "claim": {"by": 1}, "is_lost": "yes"}},
        {"replay_membership": {"logout": [], "doubt": {"since": 1, "cause": []}}},
        {"replay_membership": {"renew_at": float("inf"), "expires_at": True, "doubt": {"since": 1, "cause": "moon"}}},
    ],
)
def test_what_is_no_note_counts_as_not_there(kept: Any) -> None:
    assert Notes.of(kept) == Notes()


def test_notes_come_back_as_they_were() -> None:
    doubt, claim = Doubt(4.0, Cause.FAULT), Claim("x", 5.0)
    notes = Notes(1.0, 2.0, 3.0, doubt, claim, may_have_ended=True, is_lost=True, logout=Logout.PENDING)
    assert Notes.of(notes.into({"other": 1})) == notes
    assert notes.into({"other": 1})["other"] == 1


@pytest.mark.parametrize(
    ("lifetime", "margin"), [(3600, 60.0), (300, 60.0), (10, 2.0), ("3600", 60.0), (None, None), (0, None), ("x", None)]
)
def test_how_long_before_its_end_a_token_is_renewed(lifetime: object, margin: float | None) -> None:
    notes = Notes.of_login({"expires_in": lifetime}, 1000.0)
    if margin is None:
        assert (notes.renew_at, notes.expires_at) == (None, None)
    else:
        assert notes.expires_at is not None
        assert notes.renew_at is not None
        assert notes.expires_at - notes.renew_at == margin
