"""The stand-in for Check-in by itself: as strict as Check-in, or the tests of the login would prove little."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.checkin import CheckinStandIn
from demo.people import ADA, CHIARA
from tests.checkin_application import CALLBACK, Application, answer_in
from tests.requirements import ROOT

pytestmark = pytest.mark.hub_independent


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
    tokens = application.log_in(CHIARA, nonce="once")
    userinfo = application.userinfo(tokens["access_token"]).json()
    assert userinfo["eduperson_entitlement"] == list(CHIARA.eduperson_entitlement)
    assert userinfo["entitlements"] == list(CHIARA.entitlements)
    claims = application.verified(tokens["id_token"])
    assert (claims["sub"], claims["nonce"]) == (CHIARA.voperson_id, "once")
    assert not {"eduperson_entitlement", "entitlements"} & claims.keys()
    introspected = application.introspect(tokens["access_token"])
    assert introspected["active"] is True
    assert introspected["entitlements"] == list(CHIARA.entitlements)
    refreshed = application.refresh(tokens["refresh_token"]).json()
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
