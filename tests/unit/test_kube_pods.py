"""What a stranger's session has of an admin's pod, and what no hook may make of it: KubeSpawner's own manifests."""

from collections.abc import Callable
from typing import Any

import pytest
from tornado import web

from replay_spawner.kube import pods
from replay_spawner.kube.pods import NotTheLaunch
from tests.unit.kube_cases import IMAGE, PLAN, no_cluster, notebook, spawned, spawner_of
from tests.unit.launch_plans import DIGEST

pytestmark = pytest.mark.usefixtures(no_cluster.__name__)


def with_image(**changes: Any) -> Any:
    return PLAN.model_copy(update={"container": IMAGE.model_copy(update=changes)})


# whom a session runs as, and with what


@pytest.mark.parametrize(
    ("user", "settings", "identity"),
    [
        ("1234", {}, {"runAsUser": 1234}),
        ("1234", {"uid": 1000, "gid": 100}, {"runAsUser": 1234}),
        ("1234:0", {"uid": 1000, "gid": 100}, {"runAsUser": 1234, "runAsGroup": 0}),
        ("1234:users", {}, {"runAsUser": 1234}),
        # Kubernetes looks up no names: repo2docker's images run as 1000, BinderHub's rule for Dockerfiles.
        ("jovyan", {}, {"runAsUser": 1000}),
        ("jovyan", {"uid": 0}, {"runAsUser": 1000}),
        ("jovyan", {"uid": 5000, "gid": 100}, {"runAsUser": 5000, "runAsGroup": 100}),
        ("jovyan", {"pod_security_context": {"runAsUser": 6000}}, {"runAsUser": 6000}),
        ("jovyan", {"uid": lambda spawner: 7000}, {"runAsUser": 7000}),
    ],
)  # fmt: skip
async def test_a_session_runs_as_the_images_number_or_else_the_admins(
    user: str, settings: dict[str, Any], identity: dict[str, int]
) -> None:
    context = notebook(await spawned(spawner_of(with_image(user=user), **settings)))["securityContext"]
    assert {name: value for name, value in context.items() if name in ("runAsUser", "runAsGroup")} == identity
    assert context["runAsNonRoot"] is True


@pytest.mark.parametrize(("uid", "identity"), [(None, None), (0, None), (1000, 1000)])
async def test_of_an_image_of_which_nothing_is_known_the_node_decides(uid: int | None, identity: int | None) -> None:
    plan = PLAN.model_copy(update={"container": None})
    context = notebook(await spawned(spawner_of(plan, uid=uid)))["securityContext"]
    assert (context.get("runAsUser"), context["runAsNonRoot"]) == (identity, True)


@pytest.mark.parametrize("user", ["", "0", "root", "0:1000", "-5", "4294967296"])
async def test_an_image_that_runs_as_root_is_refused(user: str) -> None:
    with pytest.raises(web.HTTPError) as refused:
        await spawned(spawner_of(with_image(user=user), uid=1000))
    assert "This image runs as root, which is not allowed here." in str(refused.value.log_message)


UNSAFE: dict[str, Any] = {
    "privileged": True,
    "allow_privilege_escalation": True,
    "container_security_context": {
        "capabilities": {"add": ["SYS_ADMIN"]},
        "runAsNonRoot": False,
        "privileged": True,
        "procMount": "Unmasked",
        "seccompProfile": {"type": "Unconfined"},
    },
    "pod_security_context": {"seccompProfile": {"type": "Unconfined"}},
    "automount_service_account_token": True,
    "extra_pod_config": {
        "hostNetwork": True,
        "hostPID": True,
        "hostIPC": True,
        "shareProcessNamespace": True,
        "automountServiceAccountToken": True,
    },
}


async def test_a_stranger_has_none_of_the_privileges_that_the_admins_image_has() -> None:
    pod = await spawned(spawner_of(**UNSAFE))
    assert notebook(pod)["securityContext"] == {
        "runAsUser": 1000,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec = pod["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    ordinary = (await spawned(spawner_of(**UNSAFE), {}))["spec"]
    assert ordinary["hostNetwork"] is True
    assert notebook({"spec": ordinary})["securityContext"]["privileged"] is True


VOLUMES = [
    {"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}},
    {"name": "shared", "nfs": {"server": "nfs", "path": "/"}},
    {"name": "machine", "hostPath": {"path": "/"}},
    {"name": "token-{username}", "secret": {"secretName": "token-{username}"}},
    {"name": "vault", "csi": {"driver": "secrets-store.csi.k8s.io"}},
    {"name": "mixed", "projected": {"sources": [{"configMap": {"name": "x"}}, {"serviceAccountToken": {"path": "t"}}]}},
    {"name": "authorities", "configMap": {"name": "ca"}},
    {"name": "shm", "emptyDir": {"medium": "Memory"}},
    {"name": "plain"},
    {"name": "about", "projected": {"sources": [{"downwardAPI": {"items": []}}, {"configMap": {"name": "x"}}]}},
]
HARMLESS = ["authorities", "shm", "plain", "about"]
MOUNTS = [{"name": volume["name"], "mountPath": f"/mnt/{number}"} for number, volume in enumerate(VOLUMES)]


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [([], []), (["home"], ["home"]), (["token-*"], ["token-ada"]), (["hom", "token-{username}"], [])],
)
async def test_a_stranger_has_no_volume_that_holds_somebodys_data_or_secrets(
    patterns: list[str], kept: list[str]
) -> None:
    spawner = spawner_of(volumes=VOLUMES, volume_mounts=MOUNTS, storage_pvc_ensure=True)
    spawner.replay_session_volumes = patterns
    pod = await spawned(spawner)
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == kept + HARMLESS
    assert [mount["name"] for mount in notebook(pod)["volumeMounts"]] == kept + HARMLESS
    assert spawner.storage_pvc_ensure is ("home" in kept), "no volume is made that nobody mounts"


async def test_other_containers_keep_what_the_admin_gives_them() -> None:
    mounting = [{"name": "helper", "image": "x", "volumeMounts": [{"name": "home", "mountPath": "/h"}]}]
    spawner = spawner_of(
        volumes={str(number): volume for number, volume in enumerate(VOLUMES)},
        volume_mounts=MOUNTS,
        init_containers=mounting,
        storage_pvc_ensure=True,
    )
    pod = await spawned(spawner)
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["home", *HARMLESS]
    assert [mount["name"] for mount in notebook(pod)["volumeMounts"]] == HARMLESS
    assert spawner.storage_pvc_ensure


FILLED = {
    "an empty folder": {"emptyDir": {}},
    "a disk for a while": {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
}


@pytest.mark.parametrize("kind", FILLED.values(), ids=FILLED)
async def test_what_another_container_may_have_put_into_a_folder_is_not_the_strangers(kind: dict[str, Any]) -> None:
    """As a Vault agent or git-sync with a deploy key does, from a Secret that only it has."""
    agent = [{"name": "agent", "image": "x", "volumeMounts": [{"name": "filled", "mountPath": "/out"}]}]
    volumes = {"filled": {"name": "filled", **kind}, "own": {"name": "own", **kind}}
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in volumes]
    settings: dict[str, Any] = {"volumes": volumes, "volume_mounts": mounts, "init_containers": agent}
    pod = await spawned(spawner_of(**settings))
    assert [mount["name"] for mount in notebook(pod)["volumeMounts"]] == ["own"]
    assert pod["spec"]["initContainers"][0]["volumeMounts"][0]["name"] == "filled"
    named = spawner_of(**settings)
    named.replay_session_volumes = ["filled"]
    assert [mount["name"] for mount in notebook(await spawned(named))["volumeMounts"]] == ["filled", "own"]


async def test_a_copy_of_somebodys_disk_is_not_the_strangers() -> None:
    source = {"kind": "PersistentVolumeClaim", "name": "claim-ada"}
    copy = {"name": "copy", "ephemeral": {"volumeClaimTemplate": {"spec": {"dataSource": source}}}}
    pod = await spawned(spawner_of(volumes=[copy], volume_mounts=[{"name": "copy", "mountPath": "/c"}]))
    assert not notebook(pod).get("volumeMounts")


async def test_a_hook_may_not_mount_a_token_of_the_account_by_another_way() -> None:
    def hook(pod: Any) -> None:
        token = {"name": "api", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
        pod.spec.volumes = [*(pod.spec.volumes or []), token]
        place = {"name": "api", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
        pod.spec.containers[0].volume_mounts = [*(pod.spec.containers[0].volume_mounts or []), place]

    with pytest.raises(NotTheLaunch, match="a mounted token of the service account"):
        await hooked(hook)


async def test_secrets_are_not_in_a_strangers_environment_either() -> None:
    secret = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    field = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    settings: dict[str, Any] = {
        "environment": {"PASSWORD": secret, "NODE": field},
        "extra_container_config": {
            "envFrom": [{"secretRef": {"name": "s"}}],
            "volumeDevices": [{"name": "disk", "devicePath": "/dev/x"}],
        },
    }
    ordinary = notebook(await spawned(spawner_of(**settings), {}))
    assert {"PASSWORD", "NODE"} <= {one["name"] for one in ordinary["env"]}
    assert ordinary["envFrom"]
    container = notebook(await spawned(spawner_of(**settings)))
    assert "NODE" in {one["name"] for one in container["env"]}
    assert "PASSWORD" not in {one["name"] for one in container["env"]}
    assert not {"envFrom", "volumeDevices"} & container.keys()


# what a hook may not make of it


async def hooked(hook: Callable[[Any], object]) -> None:
    """A launch's pod after a hook of the admin's, as KubeSpawner hands it on."""
    spawner = spawner_of()
    await spawned(spawner)
    pod = await spawner.get_pod_manifest()
    hook(pod)
    pods.refuse_another(spawner._plain(pod), PLAN, spawner.pod_name)


def change(path: str, value: Any) -> Callable[[Any], object]:
    """A hook that sets one thing of the pod, or of the notebook's container where the path begins with a dot."""

    def hook(pod: Any) -> None:
        target = pod.spec.containers[0] if path.startswith(".") else pod
        *way, last = path.lstrip(".").split(".")
        for name in way:
            target = target[name] if isinstance(target, dict) else getattr(target, name)
        if isinstance(target, dict):
            target[last] = value
        else:
            setattr(target, last, value)

    return hook


HARMLESS_CHANGES = [
    change(".image_pull_policy", "Always"),
    change("spec.node_selector", {"gpu": "yes"}),
    change(".volume_mounts", [{"name": "home", "mountPath": "/home"}]),
    change(".security_context.capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}),
    change(".security_context.runAsUser", 1234),
    change("metadata.labels.more", "x"),
    change("spec.host_pid", False),
]


@pytest.mark.parametrize("hook", HARMLESS_CHANGES, ids=range(len(HARMLESS_CHANGES)))
async def test_a_hook_may_add_to_a_session(hook: Callable[[Any], object]) -> None:
    await hooked(hook)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (".image", "admin/notebook:1", "the image"),
        (".image", f"registry.example.org/replay/binder-example@sha256:{'cd' * 32}", "the image"),
        (".command", ["bash"], "command"),
        (".args", ["start-singleuser.sh"], "args"),
        (".args", None, "args"),
        (".name", "other", "0 containers named notebook"),
        (".security_context.runAsUser", 0, "runAsUser"),
        (".security_context.runAsNonRoot", False, "runAsNonRoot"),
        (".security_context.privileged", True, "privileged"),
        (".security_context.allowPrivilegeEscalation", True, "allowPrivilegeEscalation"),
        (".security_context", None, "runAsNonRoot"),
        ("spec.automount_service_account_token", True, "automountServiceAccountToken"),
        ("spec.host_network", True, "hostNetwork"),
        ("spec.host_pid", True, "hostPID"),
        ("metadata.name", "other", "metadata.name"),
        ("metadata.labels", {}, "the label replay.egi.eu/launch"),
    ],
)
async def test_a_hook_cannot_make_something_else_of_a_launch(path: str, value: Any, named: str) -> None:
    with pytest.raises(NotTheLaunch, match=named):
        await hooked(change(path, value))


async def test_a_manifest_without_kubespawners_container_is_no_launchs() -> None:
    with pytest.raises(NotTheLaunch):
        await spawned(spawner_of(extra_pod_config={"containers": [{"name": "notebook", "image": "x"}]}))


@pytest.mark.parametrize(
    "location",
    [
        "registry.example.org/replay/binder-example:latest",
        "registry.example.org/replay/binder-example",
        "x@sha256",
        DIGEST,
        f"x@{DIGEST}\n",
        f"-x@{DIGEST}",
    ],
)
async def test_an_image_that_is_not_named_by_its_digest_is_refused(location: str) -> None:
    with pytest.raises(web.HTTPError) as refused:
        await spawned(spawner_of(PLAN.model_copy(update={"location": location})))
    assert refused.value.status_code == 422
    assert "digest" in str(refused.value.log_message)
