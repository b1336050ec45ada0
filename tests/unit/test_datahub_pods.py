"""The pod of a session with DataHub: what Kubernetes takes, and what the person's container has of it."""

from typing import Any

import kubernetes_validate
import pytest

from replay_spawner.features.base import HOME, SessionFile
from replay_spawner.features.datahub import DataHub, pods
from replay_spawner.features.datahub.pods import folder_in
from replay_spawner.kube.feature_parts import add_features, folders_of
from replay_spawner.kube.states import SIDECARS, pod_state
from tests.unit.kube_cases import no_cluster, notebook, spawner_of
from tests.unit.launch_plans import LAUNCH

pytestmark = [pytest.mark.one_hub_version, pytest.mark.usefixtures(no_cluster.__name__)]


async def pod_with(datahub: DataHub, home: str = "/home/jovyan") -> dict[str, Any]:
    """As the spawner adds it to a pod of KubeSpawner's."""
    spawner = spawner_of()
    pod = await spawner.get_pod_manifest()
    parts = pods.pod_parts(datahub.sidecar, "provider.example.org", folder_in(home, "datahub"))
    files = [
        SessionFile(pods.FILES, "mount.sh", b"", is_secret=False, container=pods.CONTAINER),
        SessionFile(pods.FILES, "token", None, container=pods.CONTAINER),
        SessionFile(f"{HOME}/.replay", "launch.json", b"{}", is_secret=False),
    ]
    add_features(pod, [parts], folders_of(files, LAUNCH, home), spawner._plain)
    return {"apiVersion": "v1", "kind": "Pod", **spawner._plain(pod)}


def sidecar_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "datahub"]
    return container


@pytest.mark.parametrize("version", ["1.28", "1.32", "1.37"])
async def test_kubernetes_takes_it(version: str) -> None:
    kubernetes_validate.validate(await pod_with(DataHub()), version, strict=True)


async def test_the_sidecar_mounts_and_the_session_only_looks() -> None:
    pod = await pod_with(DataHub())
    sidecar, session = sidecar_of(pod), notebook(pod)
    assert sidecar["securityContext"] == {"privileged": True}
    assert not session.get("securityContext", {}).get("privileged")
    mounts = {one["mountPath"]: one for one in session["volumeMounts"]}
    assert {path: (one["readOnly"], one.get("mountPropagation")) for path, one in mounts.items()} == {
        "/home/jovyan/datahub": (True, None),
        "/mnt/datahub": (True, "HostToContainer"),
        "/home/jovyan/.replay": (True, None),
    }
    outwards = {one["mountPath"]: one.get("mountPropagation") for one in sidecar["volumeMounts"]}
    assert outwards == {"/replay-datahub": None, "/mnt/datahub": "Bidirectional", pods.FILES: None}
    # Its token is in a file that the session's container does not have.
    secret = next(one["name"] for one in sidecar["volumeMounts"] if one["mountPath"] == pods.FILES)
    assert secret not in {one["name"] for one in session["volumeMounts"]}
    assert {one["name"] for one in sidecar["env"]} == {"DATAHUB_FILES", "DATAHUB_TREE", "DATAHUB_MOUNT"}
    assert sidecar["args"] == [
        "oneclient",
        "-f",
        "-o",
        "allow_other",
        "-H",
        "provider.example.org",
        "{spaces}",
        "{mount}",
    ]
    # The folder that links lead to is the same in both.
    assert pods.MOUNT.startswith("/mnt/datahub/")


async def test_an_admin_has_a_sidecar_of_their_own() -> None:
    datahub = DataHub(
        sidecar_image="registry.example.org/mount:1",
        sidecar_command=["mount-it", "--at={oneprovider}", "{mount}"],
        sidecar_resources={"limits": {"memory": "2Gi"}},
        sidecar_security_context={"runAsUser": 1000, "allowPrivilegeEscalation": False},
        sidecar_propagates=False,
    )
    pod = await pod_with(datahub)
    kubernetes_validate.validate(pod, "1.37", strict=True)
    sidecar = sidecar_of(pod)
    assert (sidecar["image"], sidecar["args"][1]) == ("registry.example.org/mount:1", "--at=provider.example.org")
    assert sidecar["resources"] == {"limits": {"memory": "2Gi"}}
    assert sidecar["securityContext"] == {"runAsUser": 1000, "allowPrivilegeEscalation": False}
    assert "mountPropagation" not in str(pod)


@pytest.mark.parametrize(
    ("home", "folder"),
    [
        ("/home/jovyan", "/home/jovyan/datahub"),
        ("/home/jovyan/", "/home/jovyan/datahub"),
        ("/srv/a b", "/srv/a b/datahub"),
        ("", "/datahub"),
        ("relative", "/datahub"),
        ("/", "/datahub"),
        ("/home/../etc", "/datahub"),
        # The API server takes no colon in a mount's path.
        ("/home/a:b", "/datahub"),
    ],
)
def test_where_the_folder_is(home: str, folder: str) -> None:
    assert folder_in(home, "datahub") == folder


async def test_a_sidecar_that_does_not_start_is_no_trouble_of_the_session() -> None:
    pod = await pod_with(DataHub())
    assert pod["metadata"]["annotations"][SIDECARS] == "datahub"
    waiting = {"name": "datahub", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    ended = {"name": "datahub", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    running = {"name": "notebook", "state": {"running": {}}}
    for sidecar in (waiting, ended):
        status = {"phase": "Pending", "podIP": "10.0.0.1", "containerStatuses": [sidecar, running]}
        state = pod_state({**pod, "status": status})
        assert (state.waiting, state.ended, state.notebook_runs, state.has_ended) == (None, None, True, False)
        without = pod_state({**pod, "metadata": {**pod["metadata"], "annotations": {}}, "status": status})
        assert (without.waiting or without.ended) is not None
