"""A hub as Zero to JupyterHub configures it, with the overlay, and the service in a process of its own, as the chart runs it.

Both are real; that they are no pods, and that builds are the local ones, is all that differs.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.login_fixtures import free_ports
from tests.requirements import ROOT
from tests.site import until_it_answers
from tests.unit.chart_rendering import CHART, environment, pods, render

pytestmark = pytest.mark.needs("proxy", "pages")

HUB = """
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{own}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.ConfigurableHTTPProxy.command = ["node", "{root}/node_modules/configurable-http-proxy/bin/configurable-http-proxy"]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.services = [{{"name": name, **service}} for name, service in {services}.items()]
c.JupyterHub.load_roles = [{{"name": name, **role}} for name, role in {roles}.items()]
for name, text in sorted({texts}.items()):
    exec(text)
"""


@dataclass(frozen=True)
class Deployment:
    url: str
    service: int
    """The process of the build service."""
    log: Path


def process(stack: ExitStack, folder: Path, command: list[str], more: dict[str, str], log: Path) -> Any:
    """With nothing of this process's own settings."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "REPLAY"))}
    with log.open("ab") as output:
        started = subprocess.Popen(
            command, cwd=folder, env={**known, "PYTHONPATH": str(ROOT), **more}, stdout=output, stderr=output
        )

    def end() -> None:
        below = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        started.terminate()
        started.wait(40)
        for child in below:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    stack.callback(end)
    return started


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("z2jh")
    overlay = yaml.safe_load((CHART / "values-z2jh.yaml").read_text())["hub"]
    public, own, proxy_api, port = free_ports(4)
    service, token = f"http://127.0.0.1:{port}", secrets.token_hex(32)
    (folder / "service_token").write_text(secrets.token_hex(32))
    (folder / "hub_token").write_text(f"{token}\n")
    alike = {"REPLAY_TOKEN_FILE": str(folder / "service_token"), "REPLAY_BUILDER": "venv", "REPLAY_VOS": "researchers="}
    texts = {name: text.replace("/etc/replay", str(ROOT)) for name, text in overlay["extraConfig"].items()}
    services = {"replay": {**overlay["services"]["replay"], "url": service, "api_token": token}}
    (folder / "jupyterhub_config.py").write_text(
        HUB.format(
            public=public,
            own=own,
            proxy_api=proxy_api,
            root=ROOT,
            services=services,
            roles=overlay["loadRoles"],
            texts=texts,
        )
    )
    (pod,) = [pod for name, pod in pods(render()) if name == "replay"]
    (container,) = pod["containers"]
    told = {
        **environment(container), **alike,
        "JUPYTERHUB_API_URL": f"http://127.0.0.1:{own}/hub/api", "JUPYTERHUB_SERVICE_URL": service,
        "REPLAY_API_TOKEN_FILE": str(folder / "hub_token"), "REPLAY_STATE_DIR": str(folder / "state"),
    }  # fmt: skip
    command = [sys.executable, "-m", "replay_build_service.app", *container["args"][1:]]
    command[-1] = str(ROOT / "jupyterhub_config.py")
    with ExitStack() as stack:
        log = folder / "log"
        hub = {
            **overlay["extraEnv"],
            **alike,
            "REPLAY_SERVICE_URL": service,
            "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
        }
        running = process(stack, folder, [sys.executable, "-m", "jupyterhub"], hub, log)
        url = f"http://127.0.0.1:{public}"
        until_it_answers(f"{url}/hub/health", running, log)
        running = process(stack, folder, command, told, log)
        until_it_answers(f"{url}/services/replay/health", running, log)
        yield Deployment(url, running.pid, log)


@pytest.fixture
def maria(deployment: Deployment) -> Iterator[httpx.Client]:
    """Her browser, logged in at the hub."""
    with httpx.Client(
        base_url=deployment.url, follow_redirects=True, timeout=60, headers={"Sec-Fetch-Mode": "navigate"}
    ) as browser:
        page = browser.get("/hub/login")
        found = re.search(r'name="_xsrf"\s+value="([^"]+)"', page.text)
        assert found
        browser.post("/hub/login", data={"username": "maria", "password": "", "_xsrf": found[1]})
        yield browser


def test_who_is_logged_in_at_the_hub_is_known_to_the_service_without_another_question(maria: httpx.Client) -> None:
    page = maria.get("/services/replay/")
    assert page.status_code == 200, page.text
    assert page.url.path == "/services/replay/"
    assert "maria" in page.text


def test_a_link_leads_to_the_services_page(maria: httpx.Client) -> None:
    page = maria.get("/v2/gh/no-such-owner/no-such-repository/HEAD")
    assert page.url.path == "/services/replay/v2/gh/no-such-owner/no-such-repository/HEAD"


def test_a_link_is_shown_to_who_is_not_logged_in(deployment: Deployment) -> None:
    page = httpx.get(f"{deployment.url}/v2/gh/owner/name/HEAD", follow_redirects=True)
    assert page.status_code == 200
    assert "owner/name" in page.text


def test_badges_are_at_the_root(deployment: Deployment) -> None:
    for name in ("badge.svg", "badge_logo.svg"):
        answer = httpx.get(f"{deployment.url}/{name}")
        assert answer.headers["Content-Type"].startswith("image/svg"), answer.text


def test_the_service_may_ask_the_hub_for_what_it_needs(maria: httpx.Client, deployment: Deployment) -> None:
    """By the token in the file: a launch is refused for Maria's lack of a VO, and not since the hub refuses the service."""
    page = maria.get("/hub/token")
    found = re.search(r'"?xsrf_token"?: "([^"]+)"', page.text)
    assert found, page.text[:2000]
    made = maria.post(
        "/hub/api/users/maria/tokens",
        headers={"X-XSRFToken": found[1], "Referer": str(page.url), "Sec-Fetch-Mode": "cors"},
        json={"scopes": ["access:services!service=replay", "read:users:name!user", "read:users:groups!user"]},
    )
    assert made.status_code == 201, made.text
    answer = httpx.post(
        f"{deployment.url}/services/replay/api/launches",
        headers={"Authorization": f"token {made.json()['token']}"},
        content=json.dumps({"repo": "gh/owner/name/HEAD"}),
        timeout=60,
    )
    assert answer.status_code == 403, answer.text
    assert "virtual organisation" in answer.json()["message"]


def test_no_secret_is_in_what_the_processes_were_started_with(deployment: Deployment) -> None:
    token = (deployment.log.parent / "hub_token").read_text().strip()
    environment_of_service = psutil.Process(deployment.service).environ()
    assert "JUPYTERHUB_API_TOKEN" not in environment_of_service
    assert token not in str(environment_of_service)
    assert token not in deployment.log.read_text()


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "The token for the hub's API cannot be read from"), ("\n", "The hub sets JUPYTERHUB_API_TOKEN")],
)
def test_a_token_that_cannot_be_had_is_told_at_the_start(content: str | None, told: str, tmp_path: Path) -> None:
    file = tmp_path / "hub_token"
    if content is not None:
        file.write_text(content)
    command = [sys.executable, "-m", "replay_build_service.app", "run", f"--ReplayBuildService.api_token_file={file}"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
            "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
