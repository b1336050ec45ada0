"""The doctor at whole deployments: one that is well, and ones in which one thing each is not."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from replay_build_service.app import ReplayBuildService
from replay_build_service.doctor import Deployment
from replay_build_service.doctor.access import NoAccess
from replay_build_service.doctor.image_registry import TRIAL_REPOSITORY, check_registry
from replay_build_service.doctor.verdicts import State, Verdict
from tests.registry_server import PASSWORD, USER, Key, Login, RegistryServer, TokenServer
from tests.requirements import ROOT
from tests.site import Site, stopped

HUBS_TERMS = ("JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_SERVICE_URL", "JUPYTERHUB_SERVICE_PREFIX")
DEAD_SERVICES_STAY_DEAD = """
from jupyterhub.services import service as _service
class _LeftAlone(_service._ServiceSpawner):
    poll_interval = 3600
_service._ServiceSpawner = _LeftAlone
"""


@dataclass(frozen=True)
class Examined:
    """What the command said."""

    status: int
    states: Mapping[str, str]
    sentences: Mapping[str, str]
    """Message and remedy of each check."""
    text: str

    @property
    def failed(self) -> set[str]:
        return {name for name, state in self.states.items() if state == "failed"}


def environment_of(site: Site, *, as_service: bool = True, **changes: str) -> dict[str, str]:
    """What the service has of the hub and of the site's settings, or what a shell has: the settings alone."""
    own = site.service_process().environ()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "JUPYTER"))}
    settings = {name: value for name, value in own.items() if name.startswith("REPLAY_")}
    hubs = {name: own[name] for name in HUBS_TERMS} if as_service else {}
    return clean | settings | hubs | changes


def run(
    folder: Path, environment: Mapping[str, str], *arguments: str, config: Path
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "replay_build_service.app", "doctor", "--config", str(config), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def examine(site: Site, environment: Mapping[str, str] | None = None, *, more: str = "") -> Examined:
    """The command with the configuration of the site; ``more`` is what an admin got wrong in it."""
    config = site.folder / "examined_config.py"
    config.write_text(f"load_subconfig({str(site.folder / 'jupyterhub_config.py')!r})\n{more}\n")
    environment = environment or environment_of(site)
    done = run(site.folder, environment, "--json", config=config)
    assert done.stderr == ""
    for secret in (
        site.client_secret,
        site.admin_token,
        environment.get("JUPYTERHUB_API_TOKEN", "none of it"),
        (site.state / "service_token").read_text(),
    ):
        assert secret not in done.stdout
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    for one in told["checks"]:
        assert one["message"].endswith("."), one
        assert bool(one["remedy"]) or one["state"] in {"ok", "not used"}, f"nobody says what to do: {one}"
    checks = {one["check"]: one for one in told["checks"]}
    return Examined(
        done.returncode,
        {name: one["state"] for name, one in checks.items()},
        {name: f"{one['message']} {one['remedy']}" for name, one in checks.items()},
        done.stdout,
    )


def end(process: psutil.Process) -> None:
    """Kill it, and wait until it runs no more; the hub, which is not looking, may leave a zombie."""
    process.kill()
    deadline = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it does not end"
            time.sleep(0.01)


# ---- a hub of processes


@pytest.mark.needs("proxy", "git-server", "linux")
class TestDeployment:
    def test_one_that_is_well(self, site: Site) -> None:
        examined = examine(site)
        assert examined.failed == set(), examined.text
        assert examined.status == 0
        used = {"login", "hub", "culler", "service", "token", "database", "badge", "links"}
        assert {name for name, state in examined.states.items() if state == "ok"} == used
        assert {name for name, state in examined.states.items() if state == "not known"} == set()

    def test_from_a_shell_the_running_service_lends_its_token(self, site: Site) -> None:
        environment = environment_of(site, as_service=False)
        done = run(site.folder, environment, config=ROOT / "jupyterhub_config.py")
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 12
        assert any(
            line.startswith("ok        hub        The hub knows the token as the service “replay”") for line in lines
        )

    def test_elsewhere_it_says_how_it_is_run_and_does_without_the_hub(self, site: Site) -> None:
        environment = environment_of(site, as_service=False)
        # Another file than the service's own: there is no process with it.
        examined = examine(site, environment)
        assert (examined.states["hub"], examined.states["culler"]) == ("not known", "not known")
        assert "kubectl exec" in examined.sentences["hub"]
        assert examined.status == 0, examined.text
        token = site.folder / "named_token"
        token.write_text(site.admin_token)
        named = run(
            site.folder, environment, "--json", f"--api-url={site.url}/hub/api", "--token-file", str(token),
            config=site.folder / "examined_config.py",
        )  # fmt: skip
        hub = next(one for one in json.loads(named.stdout)["checks"] if one["check"] == "hub")
        assert hub["state"] == "ok"
        assert "“tester”" in hub["message"]

    @pytest.mark.parametrize(
        ("change", "fails", "words"),
        [
            ('c.EGICheckinAuthenticator.issuer += "/"', {"login"}, "to the last slash"),
            ('c.EGICheckinAuthenticator.issuer = "http://127.0.0.1:9/realm"', {"login"}, "issuer is spelt right"),
            ('c.EGICheckinAuthenticator.scope = ["openid", "something"]', {"login"}, "scope something"),
            ('c.ReplayBuildService.db_url = "sqlite:////nowhere/replay.sqlite"', {"database"}, "db_url is right"),
            ('c.ReplayMixin.replay_service_url += "other/"', {"service", "token"}, "with its prefix"),
            ('c.ReplayBuildService.public_url = "http://127.0.0.1:9"', {"badge", "links"}, "public_url is spelt right"),
        ],
        ids=["another spelling", "no issuer", "no such scope", "no database", "another service", "another address"],
    )  # fmt: skip
    def test_one_whose_settings_lead_elsewhere(self, site: Site, change: str, fails: set[str], words: str) -> None:
        examined = examine(site, more=change)
        assert examined.failed == fails, examined.text
        assert examined.status == 1
        for name in fails:
            assert words in examined.sentences[name]

    def test_one_whose_token_the_hub_does_not_know(self, site: Site) -> None:
        examined = examine(site, environment_of(site, JUPYTERHUB_API_TOKEN="0" * 64))
        assert examined.failed == {"hub"}
        assert "restart the hub" in examined.sentences["hub"]

    def test_one_whose_spawner_reads_another_token(self, site: Site) -> None:
        other = site.folder / "another_token"
        other.write_text("ab" * 32)
        other.chmod(0o600)
        examined = examine(site, more=f"c.ReplayMixin.replay_token_file = {str(other)!r}")
        assert examined.failed == {"token"}, examined.text
        assert "does not take the token" in examined.sentences["token"]
        other.chmod(0o644)
        examined = examine(site, more=f"c.ReplayMixin.replay_token_file = {str(other)!r}")
        assert f"chmod 600 {other}" in examined.sentences["token"]

    def test_one_whose_database_is_of_an_older_version(self, site: Site) -> None:
        older = site.folder / "older.sqlite"
        shutil.copy(ROOT / "docs" / "images" / "launch.png", older)
        examined = examine(site, more=f'c.ReplayBuildService.db_url = "sqlite:///{older}"')
        assert "not a database" in examined.sentences["database"]
        older.unlink()
        older.touch()
        examined = examine(site, more=f'c.ReplayBuildService.db_url = "sqlite:///{older}"')
        assert examined.failed == {"database"}, examined.text
        assert f"upgrade-db --config {site.folder / 'examined_config.py'}" in examined.sentences["database"]
        assert "--json" not in examined.sentences["database"]
        assert older.stat().st_size == 0 or "none" in examined.sentences["database"]

    def test_one_whose_hub_gives_no_scope_has_no_handler_no_route_and_no_culler(
        self, new_site: Callable[..., Site]
    ) -> None:
        site = new_site(
            extra_config="""
for _role in c.JupyterHub.load_roles:
    if _role["name"] == "replay":
        _role["scopes"].remove("servers")
c.JupyterHub.load_roles = [one for one in c.JupyterHub.load_roles if one["name"] != "idle-culler"]
c.JupyterHub.services = [one for one in c.JupyterHub.services if one["name"] != "idle-culler"]
c.JupyterHub.extra_handlers = []
c.Proxy.extra_routes = {}
"""
        )
        examined = examine(site)
        assert examined.failed == {"hub", "culler", "badge", "links"}, examined.text
        assert "lacks the scope servers" in examined.sentences["hub"]
        assert "No culler is registered" in examined.sentences["culler"]
        assert "extra_routes" in examined.sentences["badge"]
        assert "link_handlers" in examined.sentences["links"]

    def test_one_whose_culler_and_whose_service_die(self, new_site: Callable[..., Site]) -> None:
        site = new_site(extra_config=DEAD_SERVICES_STAY_DEAD)
        shell = environment_of(site, as_service=False)
        config = ROOT / "jupyterhub_config.py"
        alive = run(site.folder, shell, config=config)
        (culler,) = site.processes("jupyterhub_idle_culler")
        assert alive.returncode == 0, alive.stdout
        assert (
            f"ok        culler     The culler “idle-culler” is registered at the hub and runs (process {culler.pid})."
            in alive.stdout
        )
        end(culler)
        dead = run(site.folder, shell, "--json", config=config)
        told = {one["check"]: one for one in json.loads(dead.stdout)["checks"]}
        assert told["culler"]["state"] == "failed", dead.stdout
        assert f"its process {culler.pid} has ended" in told["culler"]["message"]

        as_service, service = environment_of(site), site.service_process()
        with stopped(service):
            examined = examine(site, as_service)
        assert examined.states["service"] == "failed"
        assert "nothing came within 5 seconds" in examined.sentences["service"]
        assert examined.states["token"] == "not known"
        end(service)
        examined = examine(site, as_service)
        assert (examined.states["service"], examined.states["badge"]) == ("failed", "failed"), examined.text
        assert "connection refused" in examined.sentences["service"]
        assert (examined.states["hub"], examined.states["database"]) == ("ok", "ok")


def test_an_option_that_there_is_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.py").touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "JUPYTER"))}
    done = run(tmp_path, clean, "--jason", config=tmp_path / "c.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no option --jason" in done.stderr
    nothing = run(tmp_path, clean, config=tmp_path / "c.py")
    assert nothing.returncode == 1
    assert "There is no database" in nothing.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["c.py"], "the doctor made something"


# ---- a registry


def registry_deployment(tmp_path: Path, registry: RegistryServer, **settings: Any) -> Deployment:
    if registry.login is not Login.ANONYMOUS and "docker_config" not in settings:
        settings["docker_config"] = str(logged_in(tmp_path, registry))
    given = {"builder": "docker", "registry": f"{registry.url}/site", **settings}
    service = ReplayBuildService(**given)
    return Deployment(service, "sqlite:///none", "upgrade-db", tmp_path / "token", NoAccess("Nowhere.", "Name it."))


def logged_in(tmp_path: Path, registry: RegistryServer, password: str = PASSWORD) -> Path:
    account = base64.b64encode(f"{USER}:{password}".encode()).decode()
    folder = tmp_path / "docker"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {registry.settings().host: {"auth": account}}}))
    return folder


def told(verdict: Verdict) -> str:
    return f"{verdict.state}: {verdict.message} {verdict.remedy}"


@pytest.mark.needs("registry")
class TestRegistry:
    @pytest.mark.parametrize("login", [Login.ANONYMOUS, Login.BASIC])
    async def test_what_is_pushed_comes_back_and_is_deleted(self, tmp_path: Path, login: Login) -> None:
        with RegistryServer(tmp_path, login=login) as registry:
            verdict = await check_registry(registry_deployment(tmp_path, registry))
            assert verdict.state is State.OK, told(verdict)
            assert f"{registry.settings().host}/site/{TRIAL_REPOSITORY}" in verdict.message
            assert "deletes them" in verdict.message
            assert PASSWORD not in told(verdict)
            assert trials(registry) == [], "the trial is still there"

    @pytest.mark.parametrize(
        ("allowed", "builder", "state", "words"),
        [
            ({"pull", "push", "delete"}, "docker", State.OK, "deletes them"),
            ({"pull", "push"}, "docker", State.OK, "deletes none"),
            ({"pull"}, "docker", State.FAILED, "Pushing to"),
            ({"pull"}, "kubernetes", State.NOT_KNOWN, "Build pods push with the Secret pushing"),
            ({"pull", "push", "delete"}, "kubernetes", State.OK, "Secret pushing, which is not tried here"),
        ],
    )  # fmt: skip
    async def test_the_accounts_rights_are_told_apart(
        self, tmp_path: Path, allowed: set[str], builder: str, state: State, words: str
    ) -> None:
        with (
            TokenServer() as tokens,
            RegistryServer(tmp_path, login=Login.TOKEN, token_server=tokens) as registry,
        ):
            tokens.allowed = allowed
            examined = registry_deployment(tmp_path, registry, builder=builder, build_push_secret="pushing")
            verdict = await check_registry(examined)
        assert verdict.state is state, told(verdict)
        assert words in verdict.message

    @pytest.mark.parametrize("login", [Login.ANONYMOUS, Login.BASIC])
    async def test_one_that_takes_pushes_from_anybody_is_doubted_where_images_of_pods_lie_there(
        self, tmp_path: Path, login: Login
    ) -> None:
        with RegistryServer(tmp_path, login=login) as registry:
            verdict = await check_registry(registry_deployment(tmp_path, registry, builder="kubernetes"))
        if login is Login.ANONYMOUS:
            assert (verdict.state, "refuse pushes without an account" in verdict.remedy) == (State.NOT_KNOWN, True)
        else:
            assert verdict.state is State.OK, told(verdict)

    async def test_one_that_deletes_nothing_will_do(self, tmp_path: Path) -> None:
        with RegistryServer(tmp_path, deletes=False) as registry:
            verdict = await check_registry(registry_deployment(tmp_path, registry))
            assert len(trials(registry)) == 1
        assert verdict.state is State.OK
        assert "it deletes none" in verdict.message
        assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in verdict.remedy

    async def test_one_that_refuses_or_is_away_fails(self, tmp_path: Path) -> None:
        with RegistryServer(tmp_path, login=Login.BASIC) as registry:
            examined = registry_deployment(
                tmp_path, registry, docker_config=str(logged_in(tmp_path, registry, "not the password"))
            )
            refused = await check_registry(examined)
            (tmp_path / "none").mkdir()
            unknown = await check_registry(
                registry_deployment(tmp_path, registry, docker_config=str(tmp_path / "none"))
            )
        away = await check_registry(examined)
        for verdict, words in (
            (refused, "refused Replay's credentials"),
            (unknown, "has no account there"),
            (away, "does not answer just now"),
        ):
            assert verdict.state is State.FAILED, told(verdict)
            assert words in verdict.message
            assert "docker_config" in verdict.remedy
            assert "not the password" not in told(verdict)

    async def test_one_with_a_certificate_of_the_sites_own_needs_its_authority(self, tmp_path: Path) -> None:
        key = Key.new("127.0.0.1")
        with RegistryServer(tmp_path, key=key) as registry:
            untrusted = await check_registry(registry_deployment(tmp_path, registry))
            (tmp_path / "ca.pem").write_bytes(key.certificate_pem)
            trusted = await check_registry(registry_deployment(tmp_path, registry, ca_file=str(tmp_path / "ca.pem")))
            missing = await check_registry(registry_deployment(tmp_path, registry, ca_file=str(tmp_path / "no.pem")))
        assert (untrusted.state, "certificate" in untrusted.message) == (State.FAILED, True), told(untrusted)
        assert trusted.state is State.OK, told(trusted)
        assert missing.state is State.FAILED

    async def test_one_that_is_full_or_may_not_write_fails(self, tmp_path: Path) -> None:
        with RegistryServer(tmp_path) as registry:
            registry.files.rmdir()
            registry.files.write_text("no folder")
            verdict = await check_registry(registry_deployment(tmp_path, registry))
        assert verdict.state is State.FAILED, told(verdict)
        assert "Pushing to" in verdict.message

    async def test_one_whose_token_server_gives_what_has_ended_fails(self, tmp_path: Path) -> None:
        with (
            TokenServer() as tokens,
            RegistryServer(tmp_path, login=Login.TOKEN, token_server=tokens) as registry,
        ):
            tokens.life = timedelta(seconds=-120)
            verdict = await check_registry(registry_deployment(tmp_path, registry))
        assert verdict.state is State.FAILED, told(verdict)


def trials(registry: RegistryServer) -> list[Path]:
    """The manifests of trials that the registry has."""
    folder = registry.files / "docker" / "registry" / "v2" / "repositories" / "site" / TRIAL_REPOSITORY / "_manifests"
    return list((folder / "revisions" / "sha256").glob("*/link"))
