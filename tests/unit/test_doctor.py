"""What the doctor makes of what it finds: settings read by name, a hub, a provider, a cluster that are not as they should be.

Servers are real ones that answer what a test tells them to. Whole deployments are in ``tests/integration/test_doctor.py``.
"""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import kmock as kmocks
import pytest
from traitlets.config import Config

from replay_build_service.app import ReplayBuildService
from replay_build_service.db import UnusableDatabase, inspect_database, upgrade
from replay_build_service.doctor import Deployment, DoctorOptions, access, examination, parse_options
from replay_build_service.doctor.access import HubAccess, NoAccess, find_access
from replay_build_service.doctor.addresses import check_badge, check_links
from replay_build_service.doctor.cluster import RIGHTS, check_build_pods, check_engine_pods, check_rights
from replay_build_service.doctor.engine import check_docker_engine
from replay_build_service.doctor.examination import Check, Finding, as_json, as_lines, findings, has_failed
from replay_build_service.doctor.hub import NEEDED_SCOPES, check_culler, check_hub
from replay_build_service.doctor.image_registry import check_registry
from replay_build_service.doctor.login import check_login
from replay_build_service.doctor.service import check_service, check_token
from replay_build_service.doctor.verdicts import State, Verdict, failed, not_known, ok
from replay_build_service.registry import RegistryFault
from replay_build_service.registry.exchange import Answer
from replay_build_service.registry.pushes import check_stored, upload_path
from tests.login_fixtures import free_ports
from tests.registry_server import Asked, Reply, ScriptedServer

pytestmark = pytest.mark.kmock(cls=kmocks.RawHandler)

SECRET = "a-secret-that-nobody-prints"
TOKEN = "0f" * 32


def deployment(
    tmp_path: Path, config: Config | None = None, hub: HubAccess | NoAccess | None = None, **settings: Any
) -> Deployment:
    service = ReplayBuildService(**settings)
    service.update_config(config or Config())
    return Deployment(
        settings=service,
        database_url=f"sqlite:///{tmp_path / 'replay.sqlite'}",
        upgrade_command="replay-build-service upgrade-db",
        token_file=tmp_path / "service_token",
        hub=hub or NoAccess("It is not known where.", "Say where."),
    )


def nowhere() -> str:
    """An address at which nothing listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def as_document(value: object, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def told(verdict: Verdict) -> str:
    return f"{verdict.state}: {verdict.message} {verdict.remedy}"


def with_section(name: str, **values: object) -> Config:
    return Config({name: Config(values)})


# ---- the login


SCOPES = ["openid", "profile", "email", "voperson_id", "entitlements", "offline_access", "aarc"]


def provider(url: str, **changes: object) -> dict[str, object]:
    document: dict[str, object] = {
        "issuer": url,
        "authorization_endpoint": f"{url}/auth",
        "token_endpoint": f"{url}/token",
        "userinfo_endpoint": f"{url}/userinfo",
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
    config = with_section("EGICheckinAuthenticator", authorize_url="a", token_url="b", userdata_url="c")
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
        (as_document(identity("read:servers", "read:users:name")), State.FAILED, "lacks the scope servers"),
        (as_document(identity()), State.FAILED, "lacks the scope servers, read:servers, read:users:name"),
        (
            as_document(identity("servers!group=vo", "read:servers", "read:users:name")),
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
        assert '"scopes": ["servers", "read:servers", "read:users:name"]' in verdict.remedy


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


async def test_the_culler_of_zero_to_jupyterhub_has_a_name_of_its_own(tmp_path: Path) -> None:
    async with ScriptedServer(lambda _: as_document(identity(*NEEDED_SCOPES))) as server:
        verdict = await check_culler(deployment(tmp_path, hub=access_to(server.url), builder="kubernetes"))
    assert '"read:services!service=jupyterhub-idle-culler"' in verdict.remedy


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


# ---- how the hub is reached


@pytest.fixture
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("JUPYTERHUB_", "REPLAY_"))]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_service")
class TestAccess:
    def test_nothing_that_is_named_is_no_fault_but_how_to_run_it(self) -> None:
        found = find_access(DoctorOptions(), "")
        assert isinstance(found, NoAccess)
        assert not found.is_fault
        assert "kubectl exec" in found.remedy
        assert "--token-file" in found.remedy

    def test_the_services_environment_is_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "JUPYTERHUB_API_URL": "http://hub:8081/hub/api",
            "JUPYTERHUB_API_TOKEN": SECRET,
            "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:10101",
            "JUPYTERHUB_SERVICE_PREFIX": "/services/replay/",
        }.items():
            monkeypatch.setenv(name, value)
        found = find_access(DoctorOptions(), "")
        assert found == HubAccess("http://hub:8081/hub/api/", SECRET, "http://127.0.0.1:10101/services/replay/")
        assert SECRET not in repr(found)

    def test_options_win(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("JUPYTERHUB_API_URL", "http://hub:8081/hub/api")
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "other")
        (tmp_path / "token").write_text(f"{SECRET}\n")
        options, rest = parse_options(
            ["--api-url", "https://hub/hub/api", "--config", "c.py", f"--token-file={tmp_path / 'token'}", "--json"]
        )
        assert rest == ["--config", "c.py"]
        assert options.as_json
        found = find_access(options, "")
        assert isinstance(found, HubAccess)
        assert (found.api_url, found.token) == ("https://hub/hub/api/", SECRET)

    @pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff\xfe"])
    def test_a_token_that_cannot_be_one_is_a_fault_and_is_not_shown(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        file = tmp_path / "token"
        if content is not None:
            file.write_bytes(content)
        found = find_access(DoctorOptions(api_url="http://hub/hub/api", token_file=str(file)), "")
        assert isinstance(found, NoAccess)
        assert found.is_fault

    def test_the_setting_for_the_token_counts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("JUPYTERHUB_API_URL", "http://hub:8081/hub/api")
        (tmp_path / "token").write_text(SECRET)
        found = find_access(DoctorOptions(), "", str(tmp_path / "token"))
        assert isinstance(found, HubAccess)
        assert found.token == SECRET

    @pytest.mark.needs("linux")
    def test_the_process_of_this_very_service_lends_its_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "c.py").touch()
        monkeypatch.setenv("REPLAY_URL", "http://127.0.0.1:8000")
        named = {"JUPYTERHUB_API_URL": "http://hub:8081/hub/api", "JUPYTERHUB_API_TOKEN": SECRET}

        def service(**more: str) -> "subprocess.Popen[str]":
            code = "import time; print('runs', flush=True); time.sleep(60)"
            process = subprocess.Popen(
                [sys.executable, "-c", code, "replay_build_service.app", "run", "--config", "c.py"],
                cwd=tmp_path,
                env=os.environ | named | more,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout
            assert process.stdout.readline() == "runs\n"
            return process

        started = [service(REPLAY_URL="http://of-another-deployment")]
        try:
            assert isinstance(find_access(DoctorOptions(), str(tmp_path / "c.py")), NoAccess)
            started.append(service())
            found = find_access(DoctorOptions(), str(tmp_path / "c.py"))
            assert isinstance(found, HubAccess)
            assert (found.token, found.hub_is_here) == (SECRET, False)
            assert isinstance(find_access(DoctorOptions(), str(tmp_path / "other.py")), NoAccess)
            monkeypatch.setattr(access.os, "geteuid", lambda: os.getuid() + 1)
            assert isinstance(find_access(DoctorOptions(), str(tmp_path / "c.py")), NoAccess), "another account's"
        finally:
            for process in started:
                process.kill()
                process.communicate()


# ---- the service and its token


def spawner(url: str, **more: object) -> Config:
    return with_section("ReplayMixin", replay_service_url=f"{url}/services/replay", **more)


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [(200, State.OK, "answers at"), (503, State.FAILED, "database"), (404, State.FAILED, "not the build service")],
)
async def test_the_service_says_how_it_is(tmp_path: Path, status: int, state: State, words: str) -> None:
    async with ScriptedServer(lambda _: Reply(status)) as server:
        verdict = await check_service(deployment(tmp_path, spawner(server.url)))
        assert server.asked[0].target == "/services/replay/health"
    assert verdict.state is state
    assert words in verdict.message


async def test_a_service_that_is_down_or_nowhere_named_is_told_apart(tmp_path: Path) -> None:
    down = await check_service(deployment(tmp_path, spawner(nowhere())))
    assert (down.state, "connection refused" in down.message) == (State.FAILED, True)
    assert (await check_service(deployment(tmp_path))).state is State.NOT_KNOWN
    managed = access_to("http://hub", service_url=f"{nowhere()}/services/replay/")
    assert (await check_service(deployment(tmp_path, hub=managed))).state is State.FAILED


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (400, State.OK, "takes the token"),
        (401, State.FAILED, "does not take the token"),
        (405, State.FAILED, "not the build service"),
    ],
)
async def test_the_running_service_says_whether_the_token_is_its_own(
    tmp_path: Path, status: int, state: State, words: str
) -> None:
    file = tmp_path / "service_token"
    file.write_text(TOKEN)
    file.chmod(0o640)
    # The connection ends with the answer: the scripted server reads no request's body.
    async with ScriptedServer(lambda _: Reply(status, {"Connection": "close"})) as server:
        verdict = await check_token(deployment(tmp_path, spawner(server.url)))
        assert (server.asked[0].method, server.asked[0].target) == ("POST", "/services/replay/internal/plan")
        assert server.asked[0].authorization == f"Bearer {TOKEN}"
    assert verdict.state is state, told(verdict)
    assert words in verdict.message
    assert TOKEN not in told(verdict)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (None, 0, "There is no"),
        (TOKEN, 0o644, "Others than the service may read"),
        (TOKEN, 0o660, "mode 660"),
        ("short", 0o600, "does not hold a secret of 64 hexadecimal digits"),
        ("", 0o600, "does not hold a secret"),
    ],
)
async def test_a_token_file_that_is_not_as_it_should_be(
    tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    file = tmp_path / "of_the_spawner"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    verdict = await check_token(deployment(tmp_path, spawner(nowhere(), replay_token_file=str(file))))
    assert verdict.state is State.FAILED
    assert words in verdict.message
    assert str(file) in told(verdict)
    assert TOKEN not in told(verdict)
    assert file.exists() == (content is not None), "the doctor made one"


async def test_a_token_in_a_pods_volume_may_be_readable_as_nobody_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "..made").mkdir()
    (tmp_path / "..made" / "service_token").write_text(TOKEN)
    (tmp_path / "..data").symlink_to("..made")
    (tmp_path / "service_token").symlink_to("..data/service_token")
    async with ScriptedServer(lambda _: Reply(400, {"Connection": "close"})) as server:
        verdict = await check_token(deployment(tmp_path, spawner(server.url)))
    assert verdict.state is State.OK, told(verdict)
    assert f"{tmp_path}/service_token" in verdict.message


async def test_a_folder_is_no_token_and_a_service_that_is_away_no_proof(tmp_path: Path) -> None:
    (tmp_path / "service_token").mkdir()
    assert "is no file" in (await check_token(deployment(tmp_path))).message
    other = tmp_path / "other"
    other.write_text(TOKEN)
    other.chmod(0o600)
    away = await check_token(deployment(tmp_path, spawner(nowhere(), replay_token_file=str(other))))
    assert away.state is State.NOT_KNOWN


def test_a_spawner_of_the_sites_own_wins_over_the_general_setting(tmp_path: Path) -> None:
    config = Config()
    config.ReplayMixin.replay_service_url = "http://general/"
    config.Mine.replay_service_url = "http://special"
    assert deployment(tmp_path, config).service_url == "http://special/"


# ---- the database


async def test_a_database_is_looked_at_and_left_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'replay.sqlite'}"
    with pytest.raises(UnusableDatabase, match="There is no database"):
        await inspect_database(url)
    assert not (tmp_path / "replay.sqlite").exists()
    upgrade(url)
    before = _rows(tmp_path)
    assert await inspect_database(url) == "0001"
    assert _rows(tmp_path) == before


def _rows(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "replay.sqlite")) as database:
        return database.execute("SELECT version_num FROM alembic_version").fetchall()


async def test_a_database_that_is_held_for_writing_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay_build_service.db.inspection._LOCKED_SECONDS", 0)
    url = f"sqlite:///{tmp_path / 'replay.sqlite'}"
    upgrade(url)
    with closing(sqlite3.connect(tmp_path / "replay.sqlite")) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnusableDatabase, match="database is locked"):
            await inspect_database(url)


@pytest.mark.parametrize("content", [b"no database at all", b""])
async def test_what_is_no_database_of_ours_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "replay.sqlite").write_bytes(content)
    with pytest.raises(UnusableDatabase, match=r"not a database|is at revision none"):
        await inspect_database(f"sqlite:///{tmp_path / 'replay.sqlite'}")


async def test_a_database_whose_driver_is_missing_says_so_without_its_password() -> None:
    with pytest.raises(UnusableDatabase) as raised:
        await inspect_database("postgresql+nodriver://replay:secret-word@127.0.0.1:9/replay")
    assert "secret-word" not in str(raised.value)


# ---- the engine


async def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    absent = await check_docker_engine(deployment(tmp_path, docker_host=f"unix://{tmp_path}/docker.sock"))
    assert "no such file" in absent.message
    assert "systemctl start docker" in absent.remedy
    (tmp_path / "file").touch()
    assert (
        "is no socket"
        in (await check_docker_engine(deployment(tmp_path, docker_host=f"unix://{tmp_path}/file"))).message
    )
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(tmp_path / "left.sock"))  # As an engine that was killed leaves it.
        left = await check_docker_engine(deployment(tmp_path, docker_host=f"unix://{tmp_path}/left.sock"))
    wrong = await check_docker_engine(deployment(tmp_path, docker_host="docker.sock"))
    for verdict in (absent, left, wrong):
        assert verdict.state is State.FAILED
        assert verdict.remedy


# ---- addresses


BADGE = Reply(200, {"Content-Type": "image/svg+xml"}, b"<svg><title>launch: Replay</title></svg>")


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (BADGE, State.OK),
        (Reply(200, {"Content-Type": "text/html"}, b"<html>Replay"), State.FAILED),
        (Reply(404, {"Content-Type": "image/svg+xml"}, b"Replay"), State.FAILED),
    ],
)
async def test_the_badge_is_the_services_own(tmp_path: Path, reply: Reply, state: State) -> None:
    async with ScriptedServer(lambda _: reply) as server:
        verdict = await check_badge(deployment(tmp_path, public_url=server.url))
    assert verdict.state is state


LINK = "/v2/gh/EGI-Federation/binder-example/HEAD"


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ({LINK: Reply(302, {"Location": f"/hub{LINK}"}), f"/hub{LINK}": Reply(200, {}, b"EGI-Federation/binder-example")}, State.OK),
        ({LINK: Reply(302, {"Location": "/hub/login"}), "/hub/login": Reply(200, {}, b"EGI-Federation/binder-example")}, State.FAILED),
        ({LINK: Reply(200, {}, b"Welcome to nginx")}, State.FAILED),
        ({LINK: Reply(404)}, State.FAILED),
        ({LINK: Reply(302, {"Location": f"http://127.0.0.1:9{LINK}"})}, State.FAILED),
    ],
)  # fmt: skip
async def test_links_lead_to_replays_page(tmp_path: Path, answers: dict[str, Reply], state: State) -> None:
    async with ScriptedServer(lambda asked: answers[asked.target]) as server:
        verdict = await check_links(deployment(tmp_path, public_url=server.url))
    assert verdict.state is state, told(verdict)


async def test_silence_is_not_taken_for_a_fault_of_the_public_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay_build_service.doctor.asking.ANSWER_SECONDS", 0.2)

    async def never(_: Asked) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with ScriptedServer(never) as server:
        verdict = await check_badge(deployment(tmp_path, public_url=server.url))
    assert verdict.state is State.NOT_KNOWN
    assert (await check_badge(deployment(tmp_path, public_url=nowhere()))).state is State.FAILED
    assert (await check_badge(deployment(tmp_path))).state is State.NOT_KNOWN
    for wrong in ("hub.example.org", "http://[", "https://hub.example.org/path"):
        assert (await check_links(deployment(tmp_path, public_url=wrong))).state is State.FAILED


# ---- the registry: what of it needs none


@pytest.mark.parametrize(
    ("settings", "state"),
    [
        ({}, State.NOT_USED),
        ({"builder": "docker"}, State.NOT_USED),
        ({"builder": "kubernetes"}, State.FAILED),
        ({"builder": "docker", "registry": "registry.example.org"}, State.FAILED),
        ({"builder": "docker", "registry": "https://["}, State.FAILED),
        ({"builder": "docker", "registry": "https://127.0.0.1:9/Prefix"}, State.FAILED),
    ],
)
async def test_a_registry_that_is_not_set(tmp_path: Path, settings: dict[str, str], state: State) -> None:
    assert (await check_registry(deployment(tmp_path, **settings))).state is state


async def test_an_account_that_a_program_keeps_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "desktop"}')
    challenge = Reply(401, {"WWW-Authenticate": 'Basic realm="r"'}, b"{}")
    async with ScriptedServer(lambda _: challenge) as server:
        given = {"builder": "docker", "registry": server.url, "docker_config": str(tmp_path)}
        kept = await check_registry(deployment(tmp_path, **given))
        (tmp_path / "config.json").write_text("{}")
        missing = await check_registry(deployment(tmp_path, **given))
    assert (kept.state, "credsStore" in kept.message) == (State.NOT_KNOWN, True)
    assert (missing.state, "no account" in missing.message) == (State.FAILED, True)


DIGEST = "sha256:" + "a" * 64


def answer(status: int, **headers: str) -> Answer:
    return Answer(status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), b"")


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/v2/a/blobs/uploads/1", f"/v2/a/blobs/uploads/1?digest={DIGEST}"),
        (
            "http://127.0.0.1:5000/v2/a/blobs/uploads/1?_state=x%3D",
            f"/v2/a/blobs/uploads/1?_state=x%3D&digest={DIGEST}",
        ),
    ],
)
def test_a_blob_goes_where_the_registry_says(location: str, path: str) -> None:
    assert upload_path(answer(202, Location=location), "http://127.0.0.1:5000", DIGEST) == path


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://127.0.0.1/v2/a/blobs/uploads/1", "X-Forwarded-Proto"),
        ("https://127.0.0.1:5000/v2/a/blobs/uploads/1", "sends uploads to https://127.0.0.1:5000"),
        ("//elsewhere/v2/x", "sends uploads to http://elsewhere"),
        ("", "makes no sense"),
        ("http://[", "makes no sense"),
        ("/elsewhere", "makes no sense"),
    ],
)
def test_a_blob_and_the_account_go_nowhere_but_to_the_registry(location: str, words: str) -> None:
    with pytest.raises(RegistryFault, match=words):
        upload_path(answer(202, Location=location), "http://127.0.0.1:5000", DIGEST)


@pytest.mark.parametrize(("status", "words"), [(404, "makes none"), (405, "read only"), (200, "no sense")])
def test_a_push_that_was_not_taken_is_a_fault(status: int, words: str) -> None:
    with pytest.raises(RegistryFault, match=words):
        check_stored(answer(status))


# ---- the cluster


REVIEWS = "post /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.fixture
def kubeconfig(kmock: kmocks.RawHandler, tmp_path: Path) -> str:
    file = tmp_path / "kubeconfig"
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": str(kmock.url)}}],
        "users": [{"name": "u", "user": {"token": SECRET}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(json.dumps(told))
    return str(file)


def in_cluster(kubeconfig: str, **more: object) -> ReplayBuildService:
    return ReplayBuildService(builder="kubernetes", kubeconfig=kubeconfig, build_namespace="builds", **more)


def review(without: set[tuple[str, str]]) -> Callable[[Any], dict[str, Any]]:
    def answer(request: Any) -> dict[str, Any]:
        asked = request.data["spec"]["resourceAttributes"]
        assert asked["namespace"] == "builds"
        name = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": request.data["spec"],
            "status": {"allowed": (asked["verb"], name) not in without},
        }

    return answer


async def test_every_right_is_asked_for_and_those_that_lack_are_named(
    kmock: kmocks.RawHandler, kubeconfig: str
) -> None:
    kmock[REVIEWS] << review({("create", "pods/exec"), ("watch", "events")})
    verdict = await check_rights(in_cluster(kubeconfig))
    assert verdict.state is State.FAILED
    assert "create pods/exec, watch events" in verdict.message
    assert "resources: [events, pods/exec], verbs: [create, watch]" in verdict.remedy
    asked = [request.data["spec"]["resourceAttributes"] for request in kmock[REVIEWS]]
    named = {("/".join(filter(None, (one["resource"], one.get("subresource")))), one["verb"]) for one in asked}
    assert named == {(resource, verb) for resource, verbs in RIGHTS.items() for verb in verbs}


async def test_an_account_with_every_right_may_build(kmock: kmocks.RawHandler, kubeconfig: str) -> None:
    kmock[REVIEWS] << review(set())
    verdict = await check_rights(in_cluster(kubeconfig))
    assert (verdict.state, "namespace builds" in verdict.message) == (State.OK, True)


@pytest.mark.parametrize(
    ("answer", "words"), [(401, "401"), (403, "does not say"), (503, "503"), (b"<html>", "makes no sense")]
)
async def test_a_cluster_that_refuses_or_fails_is_told(
    kmock: kmocks.RawHandler, kubeconfig: str, answer: Any, words: str
) -> None:
    kmock[REVIEWS] << answer
    verdict = await check_rights(in_cluster(kubeconfig))
    assert verdict.state is State.FAILED
    assert words in verdict.message
    assert SECRET not in told(verdict)


async def test_a_cluster_that_is_not_there_or_not_named_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    missing = await check_rights(in_cluster(str(tmp_path / "none")))
    assert "nothing says how it is reached" in missing.message
    file = tmp_path / "config"
    file.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": nowhere()}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    away = await check_rights(in_cluster(str(file)))
    file.write_text("{")
    broken = await check_rights(in_cluster(str(file)))
    homeless = await check_rights(ReplayBuildService(builder="kubernetes", kubeconfig=str(file)))
    for verdict in (missing, away, broken, homeless):
        assert verdict.state is State.FAILED
        assert verdict.message.startswith("Kubernetes cannot be asked: ")


SECRETS, MAPS = "get /api/v1/namespaces/builds/secrets/push", "get /api/v1/namespaces/builds/configmaps/authorities"


def secret(kind: str = "kubernetes.io/dockerconfigjson", key: str = ".dockerconfigjson") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "push"}, "type": kind, "data": {key: "e30="}}


@pytest.mark.parametrize(
    ("pushing", "authorities", "state", "words"),
    [
        (secret(), {"ca.crt": "…"}, State.OK, "what their settings name is there"),
        (403, {"ca.crt": "…"}, State.NOT_KNOWN, "may not look at Secret push"),
        (403, 403, State.NOT_KNOWN, "Secret push and ConfigMap authorities"),
        (404, {"ca.crt": "…"}, State.FAILED, "There is no Secret push in the namespace builds"),
        (secret("Opaque", "config.json"), {"ca.crt": "…"}, State.FAILED, "has no .dockerconfigjson"),
        (secret(), {"other": "…"}, State.FAILED, "The ConfigMap authorities has no ca.crt"),
        (secret(), 404, State.FAILED, "There is no ConfigMap authorities"),
    ],
)  # fmt: skip
async def test_what_build_pods_are_made_of_is_looked_at_where_it_may_be(
    kmock: kmocks.RawHandler, kubeconfig: str, pushing: Any, authorities: Any, state: State, words: str
) -> None:
    kmock[SECRETS] << pushing
    kmock[MAPS] << (
        authorities
        if isinstance(authorities, int)
        else {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authorities"}, "data": authorities}
    )
    settings = in_cluster(
        kubeconfig, builder_image="builder@sha256:1", build_push_secret="push", build_ca_config_map="authorities"
    )
    verdict = await check_build_pods(settings)
    assert verdict.state is state, told(verdict)
    assert words in verdict.message
    assert "e30=" not in told(verdict)


async def test_build_pods_without_an_image_cannot_be(kubeconfig: str) -> None:
    assert (await check_build_pods(in_cluster(kubeconfig))).state is State.FAILED
    assert (await check_build_pods(in_cluster(kubeconfig, builder_image="b"))).state is State.OK


def engine_pod(name: str, ready: str, **metadata: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, **metadata},
        "status": {"conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("pods", "state", "words"),
    [
        ([engine_pod("a", "True"), engine_pod("b", "True")], State.OK, "All 2 engines"),
        ([engine_pod("a", "True"), engine_pod("b", "False")], State.OK, "1 of 2 engines are ready; not b"),
        ([engine_pod("a", "False")], State.FAILED, "None of 1 engines"),
        ([engine_pod("a", "True", deletionTimestamp="2026-01-01T00:00:00Z")], State.FAILED, "None of 1"),
        ([{"metadata": {"name": "a"}}], State.FAILED, "None of 1"),
        ([], State.FAILED, "None of 0 engines"),
    ],
)  # fmt: skip
async def test_engines_are_ready_or_builds_wait(
    kmock: kmocks.RawHandler, kubeconfig: str, pods: list[Any], state: State, words: str
) -> None:
    kmock["get /api/v1/namespaces/builds/pods"] << {"apiVersion": "v1", "kind": "PodList", "items": pods}
    verdict = await check_engine_pods(in_cluster(kubeconfig, build_engine_pods="app=engine"))
    assert verdict.state is state, told(verdict)
    assert words in verdict.message
    assert kmock["get /api/v1/namespaces/builds/pods"][0].params["labelSelector"] == "app=engine"


async def test_engines_are_looked_for_where_they_are_named(kmock: kmocks.RawHandler, kubeconfig: str) -> None:
    assert (await check_engine_pods(in_cluster(kubeconfig))).state is State.NOT_USED
    kmock["get /api/v1/namespaces/builds/pods"] << 403
    refused = await check_engine_pods(in_cluster(kubeconfig, build_engine_pods="app=engine"))
    assert (refused.state, "cannot be listed: 403" in refused.message) == (State.FAILED, True)


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
