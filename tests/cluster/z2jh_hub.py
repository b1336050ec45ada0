"""A hub with the overlay for Zero to JupyterHub, as a process of this machine: its chart and its image are not to be had here.

What of that chart matters to Replay is done as it does it: services and roles are mappings, extra configuration runs by name,
the token comes from the chart's own Secret.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.cluster.external import AnyCluster
from tests.requirements import ROOT
from tests.site import until_it_answers
from tests.unit.chart_rendering import CHART

_CONFIGURATION = """
c.JupyterHub.bind_url = "http://{address}:{ports[0]}"
c.JupyterHub.hub_bind_url = "http://{address}:{ports[1]}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"
c.ConfigurableHTTPProxy.command = ["node", "{root}/node_modules/configurable-http-proxy/bin/configurable-http-proxy"]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.load_groups = {groups}
c.JupyterHub.services = [{{"name": name, **service}} for name, service in {services}.items()]
c.JupyterHub.load_roles = [{{"name": name, **role}} for name, role in {roles}.items()]
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.KubeSpawner.namespace = {namespace!r}
c.KubeSpawner.delete_grace_period = 1
# Pods of this cluster have no service for names, and events would be full of that.
c.KubeSpawner.extra_pod_config = {{"dnsPolicy": "Default"}}
for name, text in sorted({texts}.items()):
    exec(text)
"""
_ADMIN = {"scopes": ["admin:users", "admin:servers", "tokens", "access:servers", "access:services"]}


@dataclass(frozen=True)
class OverlayHub:
    """One such hub. ``ports``: people's, the hub's own, the proxy's API."""

    cluster: AnyCluster
    kubeconfig: Path
    """Of the hub's own account."""
    folder: Path
    ports: tuple[int, int, int]
    namespace: str
    groups: Mapping[str, list[str]]
    admin_token: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def url(self) -> str:
        """For people, and for pods too: the doctor looks at what people see."""
        return f"http://{self.cluster.host_address}:{self.ports[0]}"

    @property
    def api_url(self) -> str:
        """For pods."""
        return f"http://{self.cluster.host_address}:{self.ports[1]}/hub/api"

    @property
    def log(self) -> Path:
        return self.folder / "hub.log"

    @contextmanager
    def running(self, service_url: str, api_token: str, service_token: str) -> Iterator[None]:
        """With the service at that address, which has the tokens."""
        overlay = yaml.safe_load((CHART / "values-z2jh.yaml").read_text())["hub"]
        self.folder.mkdir()
        token_file = self.folder / "service_token"
        token_file.write_text(service_token)
        config = self.folder / "jupyterhub_config.py"
        tester = {"tester": {"api_token": self.admin_token}}
        replay = {"replay": {**overlay["services"]["replay"], "url": service_url, "api_token": api_token}}
        config.write_text(
            _CONFIGURATION.format(
                ports=self.ports, address=self.cluster.host_address, root=ROOT, namespace=self.namespace,
                groups={name: {"users": list(users)} for name, users in self.groups.items()},
                services={**replay, **tester},
                roles={**overlay["loadRoles"], "tester": {**_ADMIN, "services": ["tester"]}},
                texts={name: text.replace("/etc/replay", str(ROOT)) for name, text in overlay["extraConfig"].items()},
            )
        )  # fmt: skip
        known = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "REPLAY"))}
        told = {
            "REPLAY_SERVICE_URL": service_url,
            "REPLAY_TOKEN_FILE": str(token_file),
            "KUBECONFIG": str(self.kubeconfig),
            "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
            "PYTHONPATH": str(ROOT),
        }
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(config)],
                cwd=self.folder,
                env={**known, **overlay["extraEnv"], **told},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until_it_answers(f"{self.url}/hub/health", process, self.log)
            until_it_answers(f"{self.url}/services/replay/health", process, self.log)
            yield
        finally:
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(40)
            for child in below:
                with suppress(psutil.NoSuchProcess):
                    child.kill()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The hub's REST API, as an administrator."""
        headers = {"Authorization": f"token {self.admin_token}"}
        answer = httpx.request(method, f"{self.url}/hub/api{path}", headers=headers, timeout=60, **more)
        assert answer.is_success, answer.text
        return answer

    def token_of(self, user: str) -> str:
        """One with which the person's program does what the person may do."""
        return self.ask("POST", f"/users/{user}/tokens", json={"note": "test"}).json()["token"]

    def server_of(self, user: str) -> dict[str, Any] | None:
        """The hub's model of a person's server; none where there is none."""
        return self.ask("GET", f"/users/{user}").json()["servers"].get("")
