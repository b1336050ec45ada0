"""A session's DataHub spaces in a pod: a real cluster, hub and sidecar; a program that fills a folder plays ``oneclient``'s part.

This cluster refuses privileged pods, and Kubernetes lets those alone hand on what they mount. So here nothing is mounted: that the
sidecar's script stands a file system that dies is shown by tests/integration/test_datahub_mount.py, and what the pod of a
mount is like by tests/unit/test_datahub_pods.py.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint as CheckinEndpoint
from demo.onezone import OnezoneStandIn
from demo.people import ADA as PERSON
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.cluster.sessions import SERVER, Images, KubeHub, notebook
from tests.plan_hub import ADA
from tests.registry_server import RegistryServer

pytestmark = [pytest.mark.needs("proxy", "cluster")]

FILL = """
for last in "$@"; do :; done
mkdir -p "$last/Plankton survey" "$last/Shared results"
echo "of token ${ONECLIENT_ACCESS_TOKEN%%[!a-z]*}" >"$last/Plankton survey/data.txt"
exec sleep 100000
"""
"""Instead of ``oneclient``. The rest of its command is what ``oneclient`` would get."""

CONFIG = """
import time, types
from jupyterhub.auth import DummyAuthenticator

class WithTokens(DummyAuthenticator):
    async def session_token(self, user):
        return types.SimpleNamespace(value={token!r}, expires_at=time.time() + 3600)
    async def end_session_token(self, user, value):
        pass

c.JupyterHub.authenticator_class = WithTokens
c.DataHub.onezone_url = {onezone!r}
c.DataHub.oneprovider = {provider!r}
c.DataHub.sidecar_command = ["/bin/sh", "-c", {fill!r}, "fill", "{{spaces}}", "{{mount}}"]
c.DataHub.sidecar_propagates = False
c.DataHub.sidecar_resources = {{"limits": {{"memory": "64Mi"}}}}
c.DataHub.sidecar_security_context = {{"runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {{"drop": ["ALL"]}}}}

def of_each_person(spawner):
    spawner.config.DataHub.sidecar_image = {missing!r} if spawner.user.name == "without-sidecar" else {image!r}
c.Spawner.pre_spawn_hook = of_each_person
"""


@pytest.fixture(scope="module")
def onezone() -> Iterator[tuple[OnezoneStandIn, str]]:
    """With an access token of somebody's."""
    with CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=["http://127.0.0.1/x"]) as checkin:
        userinfo = checkin.url_of(CheckinEndpoint.USERINFO)
        with OnezoneStandIn(userinfo_url=userinfo) as onezone:
            yield onezone, checkin.give_access_token(PERSON)


@pytest.fixture(scope="module")
def images(cluster_registry: RegistryServer) -> Images:
    return Images(cluster_registry)


@pytest.fixture(scope="module")
def hub(
    cluster: AnyCluster,
    kube: Kube,
    images: Images,
    onezone: tuple[OnezoneStandIn, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KubeHub]:
    image = images.push("sidecar", "true", entrypoint=False)
    datahub, token = onezone
    config = CONFIG.format(
        token=token,
        onezone=datahub.url,
        provider=datahub.provider,
        image=image,
        fill=FILL,
        missing=f"{image[:-4]}0000",
    )
    with kube.namespace("datahub") as namespace:
        made = KubeHub(tmp_path_factory.mktemp("hub"), cluster, kube, namespace, config)
        try:
            made.start()
            yield made
        finally:
            made.close()


class Session:
    """One that runs, seen from inside."""

    def __init__(self, hub: KubeHub, pod: dict[str, Any]) -> None:
        self._hub = hub
        self.pod = pod

    def run(self, script: str, container: str = "notebook") -> str:
        name = self.pod["metadata"]["name"]
        return self._hub.kube.run_in(self._hub.namespace, name, "/bin/sh", "-c", script, container=container)

    def until(self, script: str, is_right: Callable[[str], bool], container: str = "notebook") -> str:
        deadline = time.monotonic() + 90
        while not is_right(said := self.run(script, container)):
            assert time.monotonic() < deadline, f"{said}\n{self._told()}"
            time.sleep(0.2)
        return said

    def _told(self) -> str:
        name = self.pod["metadata"]["name"]
        return (
            f"{self._hub.kube.log(self._hub.namespace, name, 'datahub')}\n{self._hub.report()}\n{self._hub.log[-3000:]}"
        )


def test_spaces_are_folders_of_the_session(hub: KubeHub, images: Images) -> None:
    model = images.model().model_copy(update={"top_level": ["index.ipynb"]})
    server = images.push("with-datahub", SERVER)
    session = Session(hub, hub.launched(server, model, features=["datahub"]))
    read = 'cat "/home/jovyan/datahub/Plankton survey/data.txt" 2>/dev/null || true'
    session.until(read, lambda said: said.startswith("of token"))
    assert session.run("ls /home/jovyan/datahub").splitlines() == ["Plankton survey", "README.md", "Shared results"]
    assert "Each folder here is one of your spaces." in session.run("cat /home/jovyan/datahub/README.md")
    # The session can change neither the links nor what lies where they lead, and has no token.
    for path in ("/home/jovyan/datahub/x", "/mnt/datahub/x"):
        assert "Read-only" in session.run(f"touch {path} 2>&1 || true")
    (secret,) = [one for one in hub.kube.items("secrets", hub.namespace) if "mount.sh" in (one.get("data") or {})]
    token = base64.b64decode(secret["data"]["token"]).decode()
    assert token not in session.run("env; cat /proc/1/environ; find / -name token -type f 2>/dev/null || true")
    assert token not in json.dumps(session.pod)
    assert "/run/replay-datahub" not in str(notebook(session.pod)["volumeMounts"])
    assert session.run("cat /run/replay-datahub/token", "datahub") == token
    # Where there is nothing any more, the links go, and come back.
    session.run("rm -rf /mnt/datahub/spaces/*", "datahub")
    session.until("cat /home/jovyan/datahub/README.md", lambda said: "does not answer at the moment" in said)
    assert session.run("ls /home/jovyan/datahub").split() == ["README.md"]
    session.until(read, lambda said: said.startswith("of token"))
    hub.stop_server(ADA)
    hub.until(lambda: not hub.pods(), "the pod is gone")
    hub.nothing_is_left()


def test_a_sidecar_that_cannot_be_had_stops_no_session(hub: KubeHub, images: Images) -> None:
    own = images.model().model_copy(update={"top_level": ["datahub"]})
    user = "without-sidecar"
    session = Session(hub, hub.launched(images.push("alone", SERVER), own, user, features=["datahub"]))
    assert session.run("ls -d /home/jovyan/datahub-spaces").strip() == "/home/jovyan/datahub-spaces"
    assert session.run("ls -d /home/jovyan/datahub 2>&1 || true").endswith("No such file or directory\n")
    # Longer than the hub has patience with what is a session's own.
    time.sleep(25)
    (pod,) = hub.pods()
    assert pod["metadata"]["uid"] == session.pod["metadata"]["uid"]
    assert next(one for one in pod["status"]["containerStatuses"] if one["name"] == "datahub")["ready"] is False
    hub.stop_server(user)
    hub.until(lambda: not hub.pods(), "the pod is gone")
