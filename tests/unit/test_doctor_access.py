"""As whom the doctor asks the hub, and what it makes of a service and the token that this shares with the spawner."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from traitlets.config import Config

from replay_build_service.doctor import DoctorOptions, access, parse_options
from replay_build_service.doctor.access import HubAccess, NoAccess, find_access
from replay_build_service.doctor.service import check_service, check_token
from replay_build_service.doctor.verdicts import State
from tests.registry_server import Reply, ScriptedServer
from tests.unit.doctor_cases import SECRET, TOKEN, deployment, nowhere, told, with_section

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
    managed = HubAccess("http://hub/hub/api/", SECRET, f"{nowhere()}/services/replay/")
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
