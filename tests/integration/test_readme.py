"""What the README promises an admin: its ten lines, as they stand there, on a hub that was there before."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from demo.git_server import GitServer
from tests.login_fixtures import free_ports
from tests.requirements import ROOT
from tests.site import UV_CACHE, make_repository, until_it_answers

pytestmark = pytest.mark.needs("proxy", "git-server")


def ten_lines() -> str:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    return block[1]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, str, GitServer]]:
    """An existing hub with users and groups of its own, plus the README's lines: its address, a token of Ada's, git."""
    public, own, proxy_api, service = free_ports(4)
    token = secrets.token_hex(16)
    # A machine behind a proxy with certificates of its own.
    certificates = {name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ}
    (tmp_path / "git").mkdir()
    with GitServer(tmp_path / "git") as git:
        (tmp_path / "jupyterhub_config.py").write_text(
            f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{own}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.ConfigurableHTTPProxy.command = ["node", "{ROOT}/node_modules/configurable-http-proxy/bin/configurable-http-proxy"]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.load_groups = {{"researchers": {{"users": ["ada"]}}}}
c.JupyterHub.api_tokens = {{"{token}": "ada"}}
{ten_lines().replace("10101", str(service))}
c.ReplayMixin.replay_service_url = "http://127.0.0.1:{service}/services/replay/"
c.ReplayBuildService.exempt_origins = ["{git.url.rstrip("/")}"]
c.ReplayBuildService.uv_cache_dir = "{UV_CACHE}"
c.ReplayBuildService.build_environment = {certificates!r}
"""
        )
        log = tmp_path / "hub.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub"],
                cwd=tmp_path,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until_it_answers(f"http://127.0.0.1:{public}/services/replay/health", process, log)
            yield f"http://127.0.0.1:{public}", token, git
        finally:
            below = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(40)
            for left in below:
                with suppress(psutil.NoSuchProcess):
                    left.kill()


def test_the_readmes_lines_are_ten() -> None:
    assert len([line for line in ten_lines().splitlines() if line.strip()]) == 10


def test_the_readmes_lines_launch_a_repository_on_an_existing_hub(
    hub: tuple[str, str, GitServer], tmp_path: Path
) -> None:
    url, token, git = hub
    repo = make_repository(git, tmp_path / "work", "plain", {"hello.txt": "hello\n"})
    with httpx.Client(headers={"Authorization": f"token {token}"}, timeout=60, base_url=url) as ada:
        made = ada.post("/services/replay/api/launches", json={"repo": repo.spec})
        assert made.status_code == 201, made.text
        with ada.stream("GET", made.json()["events_url"], timeout=240) as events:
            last = [line for line in events.iter_lines() if line.startswith("data: ")][-1]
        assert '"ready"' in last, last
        contents = ada.get("/user/ada/api/contents/hello.txt")
        assert contents.json()["content"] == "hello\n"
        work = ada.get(f"{made.json()['url']}/work")
        assert work.status_code == 200, work.text
        page = httpx.get(f"{url}/v2/{repo.spec}", follow_redirects=True)
        assert page.status_code == 200
        assert repo.url in page.text
        ada.delete("/hub/api/users/ada/server")
