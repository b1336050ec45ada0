"""The authenticator by itself: its settings, what it makes of a provider's answers, and whom it lets start a server."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
import stamina
from jupyterhub.auth import Authenticator
from traitlets import TraitError

from replay_auth import EGICheckinAuthenticator
from replay_auth.errors import NotAMember, ProviderFault, SpawnRefused, Told
from replay_auth.notes import Notes
from tests.hub_people import hub_database, hub_user

VO = "vo.notebooks.egi.eu"
MEMBER = f"urn:mace:egi.eu:group:{VO}:role=member#aai.egi.eu"
ENDPOINTS = ("authorize_url", "token_url", "userdata_url", "jwks_url")


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3):
        yield


@dataclass
class Provider:
    """A web server on loopback that answers what the test says, and remembers what it was asked."""

    url: str
    answers: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """For each path, the answers in turn; the last one stays."""
    asked: list[str] = field(default_factory=list)

    def says(self, path: str, *answers: tuple[int, object]) -> None:
        self.answers[path] = [(status, body if isinstance(body, str) else json.dumps(body)) for status, body in answers]

    def describes_itself(self, **changes: object) -> None:
        self.says("/.well-known/openid-configuration", (200, self.document(**changes)))

    def document(self, **changes: object) -> dict[str, object]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/auth",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/certs",
            **changes,
        }


@pytest.fixture
def provider() -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.server.asked.append(f"{self.command} {self.path}")
            answers = provider.answers.get(self.path, [(404, "{}")])
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            if status in {302, 307}:
                self.send_header("Location", body)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider = Provider(f"http://127.0.0.1:{server.server_port}")
        server.asked = provider.asked
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield provider
        server.shutdown()
        thread.join()


def authenticator(**settings: Any) -> EGICheckinAuthenticator:
    settings.setdefault("permitted_vos", {VO: ""})
    return EGICheckinAuthenticator(**settings)


def at(provider: Provider, **settings: Any) -> EGICheckinAuthenticator:
    provider.describes_itself()
    return authenticator(issuer=provider.url, client_id="hub", client_secret="secret", **settings)


@pytest.fixture
def database() -> Iterator[Any]:
    session = hub_database()
    yield session
    session.close()
    session.get_bind().dispose()


def state(*entitlements: str) -> dict[str, Any]:
    return {"oauth_user": {"entitlements": list(entitlements), "name": "Ada", "email": "ada@example.org"}}


def just_now(stored: dict[str, Any]) -> dict[str, Any]:
    """As it is kept where the provider has just said so."""
    return Notes(answered_at=time.time()).into(stored)


# Settings


def test_the_defaults_are_those_of_check_in() -> None:
    ours = authenticator()
    assert ours.issuer == "https://aai.egi.eu/auth/realms/egi"
    assert ours.username_claim == "voperson_id"
    assert {"openid", "voperson_id", "eduperson_entitlement", "entitlements"} <= set(ours.scope)
    assert ours.enable_pkce
    assert ours.manage_groups
    assert ours.enable_auth_state
    assert ours.refresh_pre_spawn
    assert not ours.allow_all
    assert [getattr(ours, name) for name in ENDPOINTS] == [""] * 4, "nothing is asked before the first login"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"issuer": "http://aai.example.org"}, "http is for loopback only"),
        ({"issuer": "http://127.0.0.1.example.org"}, "http is for loopback only"),
        ({"issuer": "ftp://127.0.0.1"}, "no https URL"),
        ({"issuer": "aai.egi.eu"}, "no https URL"),
        ({"issuer": "https://aai.egi.eu/?realm=egi"}, "no https URL"),
        ({"allow_all": True}, "name the VOs"),
        ({"permitted_vos": {VO: "javascript:alert(1)"}}, "no http or https URL"),
        ({"permitted_vos": {" ": ""}}, "empty name"),
        ({"vo_entitlements": {"LAGO-AAI": "urn:x:y:group:LAGO-AAI#z"}}, "not in permitted_vos: LAGO-AAI"),
        ({"vo_entitlements": {VO: "nonsense"}}, "NAMESPACE:group:GROUP"),
        ({"userdata_from_id_token": True}, "hold no memberships"),
        ({"vos_of_subgroups": {"vo.else"}}, "vos_of_subgroups names VOs that are not in permitted_vos: vo.else"),
        ({"vo_managers": {"vo.else": []}}, "vo_managers names VOs that are not in permitted_vos: vo.else"),
        ({"vo_managers": {VO: ["role=manager"]}}, "One person is named as user:NAME"),
        ({"permitted_vos": {VO: "", f"{VO}:managers": ""}, "vo_managers": {VO: []}}, "also in permitted_vos"),
        ({"id_token_algorithms": ["RS256", "none"]}, "none cannot sign ID tokens"),
        ({"id_token_algorithms": ["HS256"]}, "HS256 cannot sign ID tokens"),
    ],
)
def test_settings_that_cannot_be_meant_stop_the_hub_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, TraitError), match=sentence):
        authenticator(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": "http://localhost:1"},
        {"issuer": "http://[::1]:1/realm"},
        {"issuer": "http://127.1.2.3"},
        {"issuer": "http://aai.example.org", "insecure_issuer": True},
    ],
)
def test_http_is_for_loopback_or_for_who_asks_for_it(settings: dict[str, Any]) -> None:
    authenticator(**settings)


def test_settings_that_let_nobody_in_are_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("allow")
    with caplog.at_level(logging.WARNING):
        authenticator(log=log).check_allow_config()
        assert not caplog.records
        authenticator(log=log, allowed_users={"ada@egi.eu"}).check_allow_config()
        assert "allowed_users lets nobody in here" in caplog.text
        caplog.clear()
        authenticator(log=log, permitted_vos={}).check_allow_config()
        assert "No allow config found" in caplog.text


# The provider


async def known(ours: EGICheckinAuthenticator) -> list[str]:
    await ours.know_endpoints()
    return [getattr(ours, name) for name in ENDPOINTS]


@pytest.mark.asyncio
async def test_the_endpoints_are_read_once_for_any_number_of_logins(provider: Provider) -> None:
    ours = at(provider)
    await asyncio.gather(*(ours.know_endpoints() for _ in range(20)))
    assert await known(ours) == [f"{provider.url}/{name}" for name in ("auth", "token", "userinfo", "certs")]
    assert provider.asked == ["GET /.well-known/openid-configuration"]


@pytest.mark.asyncio
async def test_addresses_that_an_administrator_set_win(provider: Provider) -> None:
    ours = at(provider, token_url="https://else.example.org/token")
    own = [f"{provider.url}/{name}" for name in ("auth", "userinfo", "certs")]
    assert await known(ours) == [own[0], "https://else.example.org/token", *own[1:]]
    everything = dict.fromkeys(ENDPOINTS, "https://else.example.org/")
    provider.asked.clear()
    await at(provider, **everything).know_endpoints()
    assert provider.asked == []


@pytest.mark.asyncio
async def test_a_fault_that_passes_is_not_noticed(provider: Provider) -> None:
    ours = at(provider)
    provider.says("/.well-known/openid-configuration", (503, ""), (502, "<html>"), (200, provider.document()))
    assert (await known(ours))[0] == f"{provider.url}/auth"
    assert len(provider.asked) == 3


@pytest.mark.asyncio
async def test_a_fault_that_stays_is_told_and_the_next_login_asks_again(provider: Provider) -> None:
    ours = at(provider)
    provider.says("/.well-known/openid-configuration", (503, ""))
    with pytest.raises(ProviderFault, match="does not answer at the moment") as told:
        await ours.know_endpoints()
    assert told.value.status_code == 503
    assert len(provider.asked) == 3
    provider.describes_itself()
    assert (await known(ours))[0] == f"{provider.url}/auth"


@pytest.mark.parametrize(
    "answer",
    [
        lambda provider: (200, provider.document(issuer=provider.url + "/")),
        lambda provider: (200, provider.document(issuer="https://evil.example")),
        lambda provider: (200, provider.document(token_endpoint=None)),
        lambda provider: (200, provider.document(jwks_uri=None)),
        lambda provider: (200, provider.document(revocation_endpoint="javascript:alert(1)")),
        lambda provider: (200, provider.document(userinfo_endpoint="ftp://127.0.0.1/")),
        lambda provider: (200, "<html>Welcome to the guest network</html>"),
        lambda provider: (200, "[]"),
        lambda provider: (200, ""),
        lambda provider: (404, "{}"),
        lambda provider: (302, provider.url + "/elsewhere"),
    ],
)
@pytest.mark.asyncio
async def test_a_configuration_that_is_not_the_issuers_is_not_used(
    provider: Provider, answer: Callable[[Provider], tuple[int, object]]
) -> None:
    ours = at(provider)
    provider.says("/.well-known/openid-configuration", answer(provider))
    provider.says("/elsewhere", (200, provider.document()))
    with pytest.raises(ProviderFault):
        await ours.know_endpoints()
    assert [getattr(ours, name) for name in ENDPOINTS] == [""] * 4
    assert "GET /elsewhere" not in provider.asked


@pytest.mark.asyncio
async def test_a_code_is_sent_once_even_if_the_answer_is_a_fault(provider: Provider) -> None:
    ours = at(provider)
    provider.says("/token", (503, ""))
    with pytest.raises(ProviderFault):
        await ours.get_token_info(None, {"code": "x"})
    assert provider.asked.count("POST /token") == 1


@pytest.mark.asyncio
async def test_the_secret_does_not_follow_a_redirect(provider: Provider) -> None:
    ours = at(provider)
    provider.says("/token", (307, provider.url + "/elsewhere"))
    with pytest.raises(Exception, match="307"):
        await ours.get_token_info(None, {"code": "x"})
    assert "POST /elsewhere" not in provider.asked


@pytest.mark.asyncio
async def test_nothing_that_listens_is_a_fault() -> None:
    ours = authenticator(issuer="http://127.0.0.1:1")
    with pytest.raises(ProviderFault, match="does not answer"):
        await ours.know_endpoints()


# Read as three parts, signed by nobody: it came over the connection to the token endpoint.
ID_TOKEN = jwt.encode({"sub": "ada"}, "x" * 32, algorithm="HS256")


@pytest.mark.parametrize("claims", [{"sub": "boris"}, {}])
@pytest.mark.asyncio
async def test_userinfo_about_somebody_else_is_refused(provider: Provider, claims: dict[str, str]) -> None:
    ours = at(provider)
    provider.says("/userinfo", (200, claims))
    tokens = {"access_token": "x", "token_type": "Bearer", "id_token": ID_TOKEN}
    with pytest.raises(Told, match="two answers about who you are") as told:
        await ours.token_to_user(tokens)
    assert told.value.status_code == 403


@pytest.mark.asyncio
async def test_what_a_provider_may_leave_out_is_known_where_it_does_not(provider: Provider) -> None:
    ours = at(provider)
    await ours.know_endpoints()
    assert (ours.revocation_url, ours.end_session_url, ours.introspection_url) == ("", "", "")
    ours = at(provider)
    provider.describes_itself(revocation_endpoint=f"{provider.url}/revoke")
    await ours.know_endpoints()
    assert (ours.revocation_url, ours.end_session_url) == (f"{provider.url}/revoke", "")


@pytest.mark.asyncio
async def test_userinfo_is_asked_again_after_a_fault(provider: Provider) -> None:
    ours = at(provider)
    provider.says("/userinfo", (502, ""), (200, {"sub": "ada"}))
    tokens = {"access_token": "x", "token_type": "Bearer", "id_token": ID_TOKEN}
    assert await ours.token_to_user(tokens) == {"sub": "ada"}


@pytest.mark.parametrize(
    "claims", [{}, {"voperson_id": ""}, {"voperson_id": ["a", "b"]}, {"preferred_username": "ada"}]
)
def test_without_an_identifier_nobody_is_anybody(claims: dict[str, Any]) -> None:
    with pytest.raises(Told, match="did not tell this hub your identifier"):
        authenticator().user_info_to_username(claims)


def test_a_refresh_asks_for_the_scope_again() -> None:
    assert "entitlements" in authenticator().build_refresh_token_request_params("x")["scope"].split()


# Membership


@pytest.mark.asyncio
async def test_only_permitted_vos_become_groups() -> None:
    ours = authenticator(permitted_vos={VO: "", "LAGO-AAI": ""}, vo_entitlements={"LAGO-AAI": "urn:x:y:group:L#z"})
    released = state(MEMBER, "urn:x:y:group:L:role=member#z", "urn:mace:egi.eu:group:vo.else#aai.egi.eu")
    assert await ours.get_user_groups(released) == {VO, "LAGO-AAI"}


@pytest.mark.asyncio
async def test_managers_of_a_vo_are_in_a_group_of_its_own() -> None:
    managers = {VO: [f"{VO}:role=manager", "user:ADA@egi.eu"]}
    ours = authenticator(vo_managers=managers)
    manager = state(MEMBER, MEMBER.replace("role=member", "role=manager"))
    assert await ours.get_user_groups(manager) == {VO, f"{VO}:managers"}
    assert await ours.get_user_groups(state(MEMBER)) == {VO}
    named: dict[str, Any] = {"oauth_user": {"voperson_id": "Ada@egi.eu", "entitlements": MEMBER}}
    assert await ours.get_user_groups(named) == {VO, f"{VO}:managers"}
    other: dict[str, Any] = {"oauth_user": {"voperson_id": "ada@egi.eu.evil", "entitlements": MEMBER}}
    assert await ours.get_user_groups(other) == {VO}


async def login(ours: EGICheckinAuthenticator, auth_state: dict[str, object], admin: bool | None = None) -> bool:
    return await ours.check_allowed("ada@egi.eu", {"name": "ada@egi.eu", "admin": admin, "auth_state": auth_state})


@pytest.mark.asyncio
async def test_who_is_refused_is_told_apart_by_name_and_address() -> None:
    with pytest.raises(NotAMember) as refused:
        await login(authenticator(), state())
    account = refused.value.account
    assert (account.identifier, account.name, account.email) == ("ada@egi.eu", "Ada", "ada@example.org")


@pytest.mark.parametrize(
    ("settings", "admin", "entitlements", "may"),
    [
        ({}, False, [MEMBER], True),
        ({}, False, [], False),
        ({}, True, [], False),
        ({}, True, [MEMBER], True),
        ({"exempt_admins": True}, True, [], True),
        ({"exempt_admins": True}, False, [], False),
        ({"allowed_users": {"ada@egi.eu"}}, False, [], False),
        ({"allowed_groups": {VO}}, False, [], False),
        ({"permitted_vos": {}}, False, [MEMBER], False),
        ({"permitted_vos": {"vo.else": ""}}, False, [MEMBER], False),
        ({"trusted_sources": [("urn:mace:egi.eu", "aai-demo.egi.eu")]}, False, [MEMBER], False),
    ],
)
@pytest.mark.asyncio
async def test_membership_decides_at_login_and_where_a_server_starts(
    database: Any, settings: dict[str, Any], admin: bool, entitlements: list[str], may: bool
) -> None:
    ours = authenticator(manage_groups=True, **settings)
    person = await hub_user(database, "ada@egi.eu", just_now(state(*entitlements)), admin=admin)
    if may:
        assert await login(ours, state(*entitlements), admin)
        await ours.pre_spawn_start(person, None)
    else:
        with pytest.raises(NotAMember):
            await login(ours, state(*entitlements), admin)
        with pytest.raises(SpawnRefused, match="may start servers here") as refused:
            await ours.pre_spawn_start(person, None)
        assert refused.value.status_code == 403


@pytest.mark.parametrize("stored", [None, {}, {"oauth_user": None}, {"oauth_user": "x"}, {"access_token": "x"}])
@pytest.mark.asyncio
async def test_no_record_is_no_membership(database: Any, stored: dict[str, Any] | None) -> None:
    person = await hub_user(database, "ada@egi.eu", None if stored is None else just_now(stored))
    with pytest.raises(SpawnRefused, match=r"[Ll]og out|logs out"):
        await authenticator().pre_spawn_start(person, None)


@pytest.mark.asyncio
async def test_the_hubs_own_hook_runs_for_members_only(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    async def opens_a_session(self: Authenticator, user: Any, spawner: object) -> None:
        opened.append(user.name)

    monkeypatch.setattr(Authenticator, "pre_spawn_start", opens_a_session)
    with pytest.raises(SpawnRefused):
        await authenticator().pre_spawn_start(await hub_user(database, "ada@egi.eu", just_now(state())), None)
    assert opened == []
    await authenticator().pre_spawn_start(await hub_user(database, "ada@egi.eu", just_now(state(MEMBER))), None)
    assert opened == ["ada@egi.eu"]


def test_what_cannot_be_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ours = authenticator(log=logging.getLogger("unread"))
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            ours.permitted_vos_of(state("urn:mace:egi.eu:group:%ff#aai.egi.eu", "urn:mace:egi.eu:res:x#aai.egi.eu"))
    assert len([record for record in caplog.records if "count for nothing" in record.message]) == 1
    assert all(text in caplog.text for text in ("%ff", "res:x"))
