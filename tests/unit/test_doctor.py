"""What the doctor makes of a login's provider and of a hub that are not as they should be, and how it tells all it finds.

Servers are real ones that answer what a test tells them to. Whole deployments are in ``tests/integration/test_doctor.py``.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from replay_auth import EGICheckinAuthenticator as Authenticator
from replay_build_service.doctor import Deployment, examination
from replay_build_service.doctor.access import HubAccess, NoAccess
from replay_build_service.doctor.examination import Check, Finding, as_json, as_lines, findings, has_failed
from replay_build_service.doctor.hub import NEEDED_SCOPES, check_culler, check_hub
from replay_build_service.doctor.login import DEFAULT_SCOPES, check_login
from replay_build_service.doctor.verdicts import State, Verdict, failed, not_known, ok
from tests.registry_server import Asked, Reply, ScriptedServer
from tests.unit.doctor_cases import SECRET, as_document, deployment, nowhere, told, with_section

# ---- the login


def test_it_looks_for_the_scopes_that_the_authenticator_asks_for() -> None:
    """Neither package may import the other, so both have the list."""
    assert list(DEFAULT_SCOPES) == Authenticator(config=Config()).scope


SCOPES = ["openid", "profile", "email", "voperson_id", "entitlements", "offline_access", "aarc"]


def provider(url: str, **changes: object) -> dict[str, object]:
    document: dict[str, object] = {
        "issuer": url,
        "authorization_endpoint": f"{url}/auth",
        "token_endpoint": f"{url}/token",
        "userinfo_endpoint": f"{url}/userinfo",
        "jwks_uri": f"{url}/certs",
        "scopes_supported": SCOPES,
    }
    return {name: value for name, value in (document | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "settings", "state", "words"),
    [
        ({}, {}, State.OK, "has the endpoints and scopes"),
        ({"scopes_supported": None}, {}, State.OK, "does not say which scopes"),
        ({"issuer": "https://other.example.org"}, {}, State.FAILED, "'https://other.example.org', and not of"),
        ({"token_endpoint": None}, {}, State.FAILED, "None as token_endpoint"),
        ({"token_endpoint": None}, {"token_url": "https://there.example.org"}, State.OK, "endpoints and scopes"),
        ({"userinfo_endpoint": "http://["}, {}, State.FAILED, "'http://[' as userinfo_endpoint"),
        ({"userinfo_endpoint": "ftp://there"}, {}, State.FAILED, "'ftp://there' as userinfo_endpoint"),
        ({"jwks_uri": None}, {}, State.FAILED, "None as jwks_uri"),
        ({"jwks_uri": None}, {"jwks_url": "https://there.example.org"}, State.OK, "endpoints and scopes"),
        ({"scopes_supported": ["openid", "entitlements"]}, {}, State.FAILED, "voperson_id, offline_access"),
        ({"scopes_supported": ["openid"]}, {}, State.FAILED, "eduperson_entitlement, entitlements"),
        ({"scopes_supported": ["openid"]}, {"scope": ["openid"]}, State.OK, "endpoints and scopes"),
    ],
)  # fmt: skip
async def test_the_providers_document_is_judged_as_the_authenticator_reads_it(
    tmp_path: Path, changes: dict[str, object], settings: dict[str, object], state: State, words: str
) -> None:
    async with ScriptedServer(lambda _: as_document(provider(server.url, **changes))) as server:
        config = with_section("EGICheckinAuthenticator", issuer=server.url, **settings)
        verdict = await check_login(deployment(tmp_path, config))
        assert (verdict.state, words in verdict.message) == (state, True), told(verdict)
        assert [asked.target for asked in server.asked] == ["/.well-known/openid-configuration"]


async def test_an_issuer_that_is_spelt_otherwise_is_told_how_the_provider_spells_it(tmp_path: Path) -> None:
    async with ScriptedServer(lambda _: as_document(provider(server.url))) as server:
        verdict = await check_login(
            deployment(tmp_path, with_section("EGICheckinAuthenticator", issuer=f"{server.url}/"))
        )
    assert verdict.state is State.FAILED
    assert "to the last slash" in verdict.remedy


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(404, {}, b"no such realm"), "answers 404"),
        (Reply(200, {"Content-Type": "text/html"}, b"<html>"), "not with a provider's configuration"),
        (Reply(200, {}, b"[]"), "not with a provider's configuration"),
        (Reply(302, {"Location": "http://127.0.0.1:9/"}), "answers 302"),
        (Reply(200, {}, b"x" * 1024 * 1024), "far too long"),
    ],
)
async def test_what_is_no_providers_document_fails(tmp_path: Path, reply: Reply, words: str) -> None:
    async with ScriptedServer(lambda _: reply) as server:
        verdict = await check_login(deployment(tmp_path, with_section("EGICheckinAuthenticator", issuer=server.url)))
    assert verdict.state is State.FAILED
    assert words in verdict.message


class EGICheckinAuthenticator:
    """Of the name that counts."""


class Mine(EGICheckinAuthenticator):
    """A site's own."""


@pytest.mark.parametrize(
    ("chosen", "section", "state"),
    [
        (None, None, State.NOT_KNOWN),
        ("github", None, State.NOT_USED),
        (str, None, State.NOT_USED),
        (str, "EGICheckinAuthenticator", State.NOT_USED),
        ("egi-checkin", "EGICheckinAuthenticator", State.FAILED),
        ("replay_auth.EGICheckinAuthenticator", "EGICheckinAuthenticator", State.FAILED),
        ("mine.Mine", "EGICheckinAuthenticator", State.FAILED),
        (Mine, "Mine", State.FAILED),
        (None, "EGICheckinAuthenticator", State.FAILED),
    ],
)
async def test_whose_login_it_is_is_read_by_name(
    tmp_path: Path, chosen: object, section: str | None, state: State
) -> None:
    config = Config()
    if chosen is not None:
        config.JupyterHub.authenticator_class = chosen
    if section is not None:
        config[section].issuer = nowhere()  # Asked for where it counts, and it does not answer.
    verdict = await check_login(deployment(tmp_path, config))
    assert verdict.state is state, told(verdict)
    assert state is not State.FAILED or "connection refused" in verdict.message


async def test_addresses_that_are_set_by_hand_need_no_document(tmp_path: Path) -> None:
    config = with_section("EGICheckinAuthenticator", authorize_url="a", token_url="b", userdata_url="c", jwks_url="d")
    assert (await check_login(deployment(tmp_path, config))).state is State.NOT_USED


# ---- the hub


def access_to(url: str, **more: Any) -> HubAccess:
    return HubAccess(f"{url}/hub/api/", SECRET, **more)


def identity(*scopes: str) -> dict[str, object]:
    return {"kind": "service", "name": "replay", "scopes": list(scopes)}


@pytest.mark.parametrize(
    ("reply", "state", "words"),
    [
        (as_document(identity(*NEEDED_SCOPES, "delete:servers")), State.OK, "the service “replay”, with the scopes"),
        (
            as_document(identity("read:servers", "read:users:name", "read:users:groups")),
            State.FAILED,
            "lacks the scope servers",
        ),
        (
            as_document(identity()),
            State.FAILED,
            "lacks the scope servers, read:servers, read:users:name, read:users:groups",
        ),
        (
            as_document(identity("servers", "read:servers", "read:users:name")),
            State.FAILED,
            "lacks the scope read:users:groups",
        ),
        (
            as_document(identity("servers!group=vo", "read:servers", "read:users:name", "read:users:groups")),
            State.NOT_KNOWN,
            "scope servers holds for some people only",
        ),
        (as_document({"message": "no"}, 403), State.FAILED, "does not know the service's token"),
        (Reply(200, {"Content-Type": "text/html"}, b"<html>"), State.FAILED, "not as a hub does"),
        (Reply(503), State.FAILED, "answers 503"),
    ],
)
async def test_the_hub_says_who_the_token_is(tmp_path: Path, reply: Reply, state: State, words: str) -> None:
    async with ScriptedServer(lambda _: reply) as server:
        verdict = await check_hub(deployment(tmp_path, hub=access_to(server.url)))
        assert (server.asked[0].target, server.asked[0].authorization) == ("/hub/api/user", f"token {SECRET}")
    assert verdict.state is state, told(verdict)
    assert words in verdict.message
    assert SECRET not in told(verdict)
    if "lacks" in words:
        assert '"scopes": ["servers", "read:servers", "read:users:name", "read:users:groups"]' in verdict.remedy


async def test_a_hub_that_is_not_there_or_not_named_is_told_apart(tmp_path: Path) -> None:
    away = await check_hub(deployment(tmp_path, hub=access_to(nowhere())))
    assert away.state is State.FAILED
    assert "connection refused" in away.message
    assert (await check_hub(deployment(tmp_path))).state is State.NOT_KNOWN
    wrong = NoAccess("The file cannot be read.", "Name another.", is_fault=True)
    assert (await check_hub(deployment(tmp_path, hub=wrong))).state is State.FAILED


def culler(**changes: object) -> dict[str, object]:
    return {"name": "idle-culler", "command": ["python", "-m", "jupyterhub_idle_culler"], "pid": 2**30} | changes


CULLER_SCOPE = "read:services!service=idle-culler"


@pytest.mark.parametrize(
    ("scopes", "reply", "hub_is_here", "state", "words"),
    [
        ((), None, False, State.NOT_KNOWN, "may not read"),
        (("read:services!service=replay",), None, False, State.NOT_KNOWN, "may not read"),
        ((CULLER_SCOPE,), as_document(culler()), False, State.OK, "not seen from here"),
        (("read:services",), as_document(culler()), False, State.OK, "not seen from here"),
        ((CULLER_SCOPE,), as_document(culler()), True, State.FAILED, "has ended"),
        ((CULLER_SCOPE,), as_document(culler(pid=0)), True, State.FAILED, "was not started"),
        ((CULLER_SCOPE,), as_document(culler(command=[], pid=0)), True, State.NOT_KNOWN, "does not run it itself"),
        ((CULLER_SCOPE,), as_document({"message": "none"}, 404), True, State.FAILED, "No culler is registered"),
        ((CULLER_SCOPE,), Reply(500), True, State.NOT_KNOWN, "cannot be asked"),
        (("read:services!service=our-culler",), as_document(culler(name="our-culler")), False, State.OK, "“our-culler”"),
    ],
)  # fmt: skip
async def test_the_culler_is_judged_by_what_the_token_may_read(
    tmp_path: Path, scopes: tuple[str, ...], reply: Reply | None, hub_is_here: bool, state: State, words: str
) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.target == "/hub/api/user":
            return as_document(identity(*NEEDED_SCOPES, *scopes))
        assert reply is not None, f"{asked.target} was asked for without the scope"
        is_it = asked.target in {"/hub/api/services/idle-culler", "/hub/api/services/our-culler"}
        return reply if is_it else as_document({"message": "none"}, 404)

    async with ScriptedServer(answer) as server:
        verdict = await check_culler(deployment(tmp_path, hub=access_to(server.url, hub_is_here=hub_is_here)))
    assert verdict.state is state, told(verdict)
    assert words in verdict.message
    if not scopes:
        assert f'"{CULLER_SCOPE}"' in verdict.remedy


async def test_the_culler_has_the_same_name_on_zero_to_jupyterhub(tmp_path: Path) -> None:
    async with ScriptedServer(lambda _: as_document(identity(*NEEDED_SCOPES))) as server:
        verdict = await check_culler(deployment(tmp_path, hub=access_to(server.url), builder="kubernetes"))
    assert f'"{CULLER_SCOPE}"' in verdict.remedy


async def test_a_culler_of_another_name_is_found_by_what_the_configuration_says(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "jupyterhub_idle_culler"]
    config = with_section("JupyterHub", services=[{"name": "other"}, {"name": "sweeper", "command": command}])
    with subprocess.Popen(command) as process:
        reply = as_document(culler(name="sweeper", command=command, pid=process.pid))

        def answer(asked: Asked) -> Reply:
            return as_document(identity("read:services")) if asked.target.endswith("/user") else reply

        async with ScriptedServer(answer) as server:
            examined = deployment(tmp_path, config, access_to(server.url, hub_is_here=True))
            runs = await check_culler(examined)
            process.kill()
            process.wait()
            ended = await check_culler(examined)
            assert {asked.target for asked in server.asked} == {"/hub/api/user", "/hub/api/services/sweeper"}
    assert (runs.state, "“sweeper” is registered at the hub and runs" in runs.message) == (State.OK, True)
    assert ended.state is State.FAILED


# ---- all of it


def check(name: str, verdict: Verdict, before: Callable[[], Awaitable[None]] | None = None) -> Check:
    async def run(_: Deployment) -> Verdict:
        if before is not None:
            await before()
        return verdict

    return Check(name, run)


async def test_checks_run_together_and_are_told_in_their_order(tmp_path: Path) -> None:
    here = asyncio.Barrier(2)

    async def meet() -> None:
        await here.wait()

    checks = [check("first", ok("Well."), meet), check("second", failed("Broken.", "Mend it."), meet)]
    found = await findings(deployment(tmp_path), checks=checks)
    assert as_lines(found) == "ok        first      Well.\nfailed    second     Broken. → Mend it."
    assert has_failed(found)
    assert json.loads(as_json(found)) == {
        "ok": False,
        "checks": [
            {"check": "first", "state": "ok", "message": "Well.", "remedy": ""},
            {"check": "second", "state": "failed", "message": "Broken.", "remedy": "Mend it."},
        ],
    }


async def test_a_check_that_does_not_end_fails_in_time_and_keeps_none_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "MOST_SECONDS", 0.05)

    async def never() -> None:
        await asyncio.Event().wait()

    found = await findings(
        deployment(tmp_path), checks=[check("slow", ok("Never said."), never), check("quick", ok("Well."))]
    )
    assert [(one.check, one.verdict.state) for one in found] == [("slow", State.FAILED), ("quick", State.OK)]


def test_what_is_not_known_is_no_failure() -> None:
    found = [Finding("one", ok("Well.")), Finding("other", not_known("Who knows.", "Look."))]
    assert not has_failed(found)
    assert json.loads(as_json(found))["ok"] is True


async def test_a_venv_deployment_uses_neither_registry_nor_cluster(tmp_path: Path) -> None:
    found = {one.check: one.verdict for one in await findings(deployment(tmp_path))}
    for name in ("registry", "engine", "rights", "build pods"):
        assert found[name].state is State.NOT_USED
