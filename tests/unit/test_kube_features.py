"""What features add to a session's pod, and how its Secrets are made, renewed and read."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import kmock
import pytest
from kubernetes_asyncio.client import ApiClient, Configuration, CoreV1Api

from replay_spawner.features.base import Feature, Given, PodParts, SessionFile
from replay_spawner.features.loading import feature_class
from replay_spawner.kube.feature_parts import RENEWED, folders_of, sidecar_trouble
from replay_spawner.kube.leftovers import SessionPod
from replay_spawner.kube.pods import NotTheLaunch
from replay_spawner.kube.secrets import SessionSecrets
from tests.unit.kube_cases import PLAN, no_cluster, notebook, spawner_of
from tests.unit.kube_cases import asked as options_of
from tests.unit.launch_plans import LAUNCH

pytestmark = pytest.mark.usefixtures(no_cluster.__name__)

NAMESPACE = "users"
FILES = [
    SessionFile("/var/run/secrets/egi.eu", "access_token", b"the token", variable="REPLAY_ACCESS_TOKEN_FILE"),
    SessionFile("{home}/.replay", "launch.json", b"{}", is_secret=False),
    SessionFile("/run/replay", "token", b"of the sidecar", container="datahub"),
]


class WithASidecar(Feature):
    name, title = "sidecar", "Something with a sidecar"

    async def prepare(self) -> Given:
        parts = PodParts(
            containers=[
                {"name": "datahub", "image": "sidecar:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
            ],
            volumes=[{"name": "data", "emptyDir": {}}],
            mounts=[{"name": "data", "mountPath": "/home/jovyan/datahub", "mountPropagation": "HostToContainer"}],
        )
        return Given({"DATA": "$(HOME)/here"}, [FILES[0], FILES[2]], pod=parts)


@pytest.fixture
def _sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"sidecar": WithASidecar}
    monkeypatch.setattr("replay_spawner.featured.feature_class", lambda name: known.get(name) or feature_class(name))


async def a_pod(*features: str, **settings: Any) -> dict[str, Any]:
    """The manifest of a launch's pod with these features."""
    plan = PLAN.model_copy(update={"features": list(features)})
    spawner = spawner_of(plan, **settings)
    await options_of(spawner, {"launch": LAUNCH})
    await spawner._prepare_features(plan, "/home/jovyan")
    await spawner.load_user_options()
    return spawner._plain(await spawner.get_pod_manifest())


def volume(pod: dict[str, Any], path: str) -> dict[str, Any]:
    (mount,) = [one for one in notebook(pod)["volumeMounts"] if one["mountPath"] == path]
    (found,) = [one for one in pod["spec"]["volumes"] if one["name"] == mount["name"]]
    return found


@pytest.mark.usefixtures("_sidecars")
async def test_files_are_folders_of_secrets_that_the_sessions_group_reads() -> None:
    pod = await a_pod("sidecar")
    mounted = volume(pod, "/var/run/secrets/egi.eu")
    assert mounted["secret"]["defaultMode"] == 0o440
    assert mounted["secret"]["secretName"].startswith(f"replay-{LAUNCH}-")
    assert pod["spec"]["securityContext"]["fsGroup"] == 1000
    assert not [one for one in notebook(pod)["volumeMounts"] if "subPath" in one]
    told = {one["name"]: one["value"] for one in notebook(pod)["env"]}
    assert told["REPLAY_ACCESS_TOKEN_FILE"] == "/var/run/secrets/egi.eu/access_token"
    assert told["DATA"] == "$$(HOME)/here", "Kubernetes replaces nothing in it"
    assert "the token" not in str(pod)


@pytest.mark.usefixtures("_sidecars")
async def test_a_sidecar_has_its_own_files_and_the_person_not() -> None:
    pod = await a_pod("sidecar")
    (sidecar,) = [one for one in pod["spec"]["containers"] if one["name"] == "datahub"]
    paths = {one["mountPath"] for one in sidecar["volumeMounts"]}
    assert paths == {"/data", "/run/replay"}
    assert not {one["mountPath"] for one in notebook(pod)["volumeMounts"]} & paths
    assert pod["spec"]["restartPolicy"] == "Never"


async def test_what_is_no_secret_is_the_pods_own() -> None:
    pod = await a_pod()
    (item,) = volume(pod, "/home/jovyan/.replay")["downwardAPI"]["items"]
    annotation = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
    assert item["path"] == "launch.json"
    assert LAUNCH in pod["metadata"]["annotations"][annotation]
    assert "fsGroup" not in (pod["spec"].get("securityContext") or {})


@pytest.mark.usefixtures("_sidecars")
async def test_the_admins_group_stays() -> None:
    assert (await a_pod("sidecar", fs_gid=4321))["spec"]["securityContext"]["fsGroup"] == 4321


@pytest.mark.usefixtures("_sidecars")
async def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(NotTheLaunch, match="containers: datahub"):
        await a_pod("sidecar", extra_containers=[{"name": "datahub", "image": "another"}])


class Secrets(kmock.KubernetesEmulator):
    """A Kubernetes API that keeps Secrets and pods, and lets a test change one between a look and a change."""

    conflicts = 0

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.asked: list[tuple[str, str, Any]] = []
        self.resources[kmock.resource("", "v1", "secrets")] = kmock.ResourceInfo(namespaced=True)
        self.resources[kmock.resource("", "v1", "pods")] = kmock.ResourceInfo(namespaced=True)

    async def _handle(self, request: kmock.Request) -> Any:
        action = request.action.value.lower() if request.action else "other"
        self.asked.append((action, request.url.path.rpartition("/")[2] if request.url else "", request.data))
        if action == "create":
            request.data["metadata"] |= {"resourceVersion": "1", "namespace": NAMESPACE}
        if action in {"patch", "update"} and self.conflicts:
            self.conflicts -= 1
            return await self._render_error(kmock.KubernetesError(409, "Conflict", "another version"))
        return await super()._handle(request)


@pytest.fixture
async def api() -> AsyncIterator[tuple[Secrets, CoreV1Api]]:
    async with Secrets() as emulator, kmock.Server(emulator) as server:
        configuration = Configuration(host=str(server.url).rstrip("/"))
        async with ApiClient(configuration) as client:
            yield emulator, CoreV1Api(client)


async def test_secrets_are_the_pods_and_are_renewed_as_they_are_now(api: tuple[Secrets, CoreV1Api]) -> None:
    emulator, client = api
    secrets = SessionSecrets(client, SessionPod(NAMESPACE, "jupyter-ada", LAUNCH), "/home/jovyan", {"hub": "h"})
    await client.create_namespaced_pod(NAMESPACE, {"metadata": {"name": "jupyter-ada"}}, _preload_content=False)
    await secrets.make(FILES, "uid-of-the-pod")
    made = [data for action, _, data in emulator.asked if action == "create" and data.get("kind") == "Secret"]
    assert len(made) == 2, "one for each folder of a container, none for what is no secret"
    for secret in made:
        assert secret["metadata"]["labels"] == {
            "replay.egi.eu/launch": LAUNCH, "app.kubernetes.io/managed-by": "replay", "hub": "h",
        }  # fmt: skip
        (owner,) = secret["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "jupyter-ada", "uid-of-the-pod")
    await secrets.make(FILES, "uid-of-the-pod")  # an answer was lost

    emulator.conflicts = 2
    emulator.asked.clear()
    await secrets.renew([SessionFile("/var/run/secrets/egi.eu", "access_token", b"the next")])
    (last, marked) = [data for action, _, data in emulator.asked if action in {"patch", "update"}][-2:]
    assert last["metadata"]["resourceVersion"]
    assert base64.b64decode(last["data"]["access_token"]) == b"the next"
    assert RENEWED in marked["metadata"]["annotations"], "so that the node looks at it now"
    assert await secrets.read(FILES) == {
        ("/var/run/secrets/egi.eu", "access_token"): b"the next",
        ("/run/replay", "token"): b"of the sidecar",
    }


def test_what_comes_later_has_its_folder_already() -> None:
    (folder,) = folders_of([SessionFile("/a", "later", None)], LAUNCH, "")
    assert folder.is_secret
    assert folder.data == {}
    assert folder.volume["secret"]["secretName"] == folder.name


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"running": {}}, None),
        ({"waiting": {"reason": "ContainerCreating"}}, None),
        ({"waiting": {"reason": "ImagePullBackOff"}}, "does not start (ImagePullBackOff)"),
        ({"terminated": {"reason": "OOMKilled", "exitCode": 137}}, "has ended (OOMKilled)"),
    ],
)
def test_a_sidecar_that_does_not_run_is_told(state: dict[str, Any], told: str | None) -> None:
    pod = {"status": {"containerStatuses": [{"name": "notebook", "state": {}}, {"name": "datahub", "state": state}]}}
    sentence = sidecar_trouble(pod, ["datahub"])
    assert (told is None and sentence is None) or (told is not None and sentence is not None and told in sentence)
    assert sidecar_trouble({}, ["datahub"]) is None
