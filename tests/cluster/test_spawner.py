"""Sessions as pods: a real hub with ReplayKubeSpawner, a real cluster, a real registry; only the plans are told."""

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from jupyterhub import version_info

from replay_build_service.schemas import ImageModel, ResourcesModel
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.cluster.sessions import SERVER, Images, KubeHub, notebook, serving_until
from tests.plan_hub import ADA, MIB, sentence
from tests.registry_server import RegistryServer

pytestmark = [pytest.mark.needs("proxy", "cluster")]

# A hub that has done without Replay until now. Everything here is for its own image.
ADMINS = """

def of_each_person(spawner):
    for name, value in {{
        "hurried": {{"start_timeout": 12}},
        "in-a-hurry-for-room": {{"replay_room_timeout": 4.0}},
        "without-uid": {{"uid": None}},
        "silent": {{"replay_answer_timeout": 6.0}},
        "bounded": {{"extra_resource_limits": {{"ephemeral-storage": "1Mi"}}, "start_timeout": 240, "replay_answer_timeout": 200.0}},
        "without-configuration": {{"extra_container_config": {{"envFrom": [{{"configMapRef": {{"name": "there-is-none"}}}}]}}}},
        "other-image": {{"modify_pod_hook": other_image}},
        "with-secret": {{"after_pod_created_hook": make_secret}},
        "with-home": {{"replay_session_volumes": ["home"], "storage_pvc_ensure": False, "volume_mounts": [{{"name": "home", "mountPath": "/h"}}], "volumes": [{{"name": "home", "persistentVolumeClaim": {{"claimName": "{{pvc_name}}"}}}}]}},
        "post-start": {{"lifecycle_hooks": {{"postStart": {{"exec": {{"command": ["/not/there"]}}}}}}}},
        "restarting": {{"extra_pod_config": {{"dnsPolicy": "Default", "restartPolicy": "OnFailure"}}}},
    }}.get(spawner.user.name, {{}}).items():
        setattr(spawner, name, value)

def other_image(spawner, pod):
    pod.spec.containers[0].image = spawner.config.KubeSpawner.image
    return pod

async def make_secret(spawner, pod):
    from kubernetes_asyncio.client import V1ObjectMeta, V1OwnerReference, V1Secret
    owner = V1OwnerReference(api_version="v1", kind="Pod", name=spawner.pod_name, uid=pod["metadata"]["uid"])
    await spawner.api.create_namespaced_secret(spawner.namespace, V1Secret(metadata=V1ObjectMeta(name="of-the-session", owner_references=[owner])))

c.JupyterHub.allow_named_servers = True
c.Spawner.pre_spawn_hook = of_each_person
c.KubeSpawner.image = {image!r}
c.KubeSpawner.cmd = ["the-admins-server"]
c.KubeSpawner.args = ["--for-the-admins-image"]
c.KubeSpawner.uid = 1000
c.KubeSpawner.fs_gid = 100
c.KubeSpawner.environment = {{"OF_THE_ADMIN": "{{username}}", "SET_BY_BOTH": "admin"}}
c.KubeSpawner.mem_limit = "100M"
c.KubeSpawner.extra_annotations = {{"the.site": "yes"}}
c.KubeSpawner.extra_labels = {{"the.site": "yes"}}
c.KubeSpawner.volumes = [{{"name": "home", "emptyDir": {{}}}}, {{"name": "host", "hostPath": {{"path": "/etc"}}}}]
c.KubeSpawner.volume_mounts = [{{"name": "home", "mountPath": "/srv/shared"}}, {{"name": "host", "mountPath": "/host-etc"}}]
c.KubeSpawner.profile_list = [{{"display_name": "Large", "kubespawner_override": {{"mem_limit": "200M", "cmd": ["large"]}}}}]
"""


@pytest.fixture(scope="module")
def images(cluster_registry: RegistryServer) -> Images:
    return Images(cluster_registry)


@pytest.fixture(scope="module")
def server_image(images: Images) -> str:
    """One that answers as a server of JupyterHub's does."""
    return images.push("server", SERVER)


@pytest.fixture(scope="module")
def hub(
    cluster: AnyCluster, kube: Kube, server_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KubeHub]:
    with kube.namespace("users") as namespace:
        config = ADMINS.format(image=server_image)
        made = KubeHub(tmp_path_factory.mktemp("hub"), cluster, kube, namespace, config)
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def no_server_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "hub" in request.fixturenames:
        hub: KubeHub = request.getfixturevalue("hub")
        for user in hub.api("GET", "/users?state=active").json():
            for name in user["servers"]:
                hub.api("DELETE", f"/users/{quote(user['name'])}/servers/{quote(name)}")
        hub.until(lambda: hub.api("GET", "/users?state=active").json() == [], "all servers have stopped")
        hub.nothing_is_left()


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = call()
    return time.monotonic() - began, result


# what a session is


def test_a_session_is_the_launchs_image_within_its_limits_and_nothing_of_the_admins(
    hub: KubeHub, kube: Kube, notebook_image: str
) -> None:
    image = ImageModel(user="1000", working_dir="/home/jovyan", home=None, entrypoint=[], command=[])
    pod = hub.launched(notebook_image, image)
    container, spec, metadata = notebook(pod), pod["spec"], pod["metadata"]
    assert container["image"] == notebook_image
    (status,) = pod["status"]["containerStatuses"]
    assert status["imageID"].endswith(notebook_image.partition("@")[2]), "what runs is what was planned"
    assert container["args"] == ["jupyterhub-singleuser"]
    assert container["resources"] == {
        "limits": {"cpu": "1500m", "memory": str(512 * MIB)},
        "requests": {"cpu": "500m", "memory": str(256 * MIB)},
    }
    assert metadata["annotations"].items() >= {
        "replay.egi.eu/repository": "https://git.example.org/{username:>99}/{prefix}",
        "replay.egi.eu/commit": "c0ffee" * 6 + "c0ff",
        "egi.eu/primary_group": "vo.notebooks.egi.eu",
        "hub.jupyter.org/username": ADA,
        "the.site": "yes",
    }.items()  # fmt: skip
    assert metadata["labels"]["replay.egi.eu/launch"] == metadata["annotations"]["replay.egi.eu/launch"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert (environment["OF_THE_PLAN"], environment["SET_BY_BOTH"]) == ("/home/jovyan", "plan")
    assert environment["MEM_LIMIT"] == str(512 * MIB)
    assert environment["OF_THE_ADMIN"]
    assert [one["name"] for one in spec["volumes"]] == ["home"]
    assert spec["restartPolicy"] == "Never"
    name = metadata["name"]
    inside = kube.run_in(
        hub.namespace, name, "sh", "-c",
        "id -u; grep -h NoNewPrivs /proc/self/status; grep -h CapBnd /proc/self/status; grep -h Seccomp: /proc/self/status;"
        " cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null;"
        " ls /var/run/secrets/kubernetes.io 2>&1 | head -1; env | grep -c _SERVICE_HOST; true",
    ).split("\n")  # fmt: skip
    assert inside[0] == "1000"
    assert [line.split()[1] for line in inside[1:4]] == ["1", "0" * 16, "2"], "no privileges, no way to any, a filter"
    assert inside[4] == str(512 * MIB)
    assert "No such file" in inside[5], "there is no token of the cluster's in it"
    assert hub.inside("api/status").status_code == 200
    assert hub.inside("api/contents/").status_code == 200


def test_an_ordinary_server_is_the_admins_before_and_after_a_launch(hub: KubeHub, server_image: str) -> None:
    def ordinary() -> dict[str, Any]:
        response = hub.ask({})
        assert response.status_code == 201, response.text
        (pod,) = hub.pods()
        hub.stop_server()
        container, spec = notebook(pod), pod["spec"]
        secret = re.compile("TOKEN|CLIENT_ID|OAUTH")
        return {
            "name": pod["metadata"]["name"],
            "labels": pod["metadata"]["labels"],
            "annotations": pod["metadata"]["annotations"],
            "container": container | {"env": [one for one in container["env"] if not secret.search(one["name"])]},
            "volumes": spec["volumes"],
            "policy": spec["restartPolicy"],
        }

    before = ordinary()
    assert [one["name"] for one in before["volumes"]] == ["home", "host"]
    assert before["container"]["args"] == ["large", "--for-the-admins-image"]
    pod = hub.launched(server_image)
    assert pod["metadata"]["name"] == before["name"], "templates are the admin's"
    hub.stop_server()
    assert ordinary() == before


def test_an_entrypoint_runs_the_command_that_it_is_given(hub: KubeHub, images: Images) -> None:
    image = images.push("telling", f'echo "given: $@"; {SERVER}')
    pod = hub.launched(image, images.model())
    assert "given: jupyterhub-singleuser" in hub.kube.log(hub.namespace, pod["metadata"]["name"])


@pytest.mark.parametrize(("user", "number"), [("1234", "1234"), ("jovyan", "1000")])
def test_a_session_runs_as_the_images_number_and_names_as_the_admins(
    hub: KubeHub, images: Images, user: str, number: str
) -> None:
    image = images.push(f"user-{user}", f"id -u; {SERVER}", user=user)
    pod = hub.launched(image, images.model(user=user))
    assert hub.kube.log(hub.namespace, pod["metadata"]["name"]).split() == [number]


# Since 6, JupyterHub takes plain names alone, and any text only to show.
SERVER_NAMES = ["", "second-one", *(["zweiter Server – 第二"] if version_info < (6,) else [])]


@pytest.mark.parametrize("server_name", SERVER_NAMES)
def test_long_names_and_named_servers_have_pods_of_their_own(hub: KubeHub, server_image: str, server_name: str) -> None:
    users = [ADA, f"{ADA}x"]
    with ThreadPoolExecutor(2) as people:
        asked = [people.submit(hub.launch, server_image, None, user, server_name or None) for user in users]
        assert [one.result().text for one in asked] == ["", ""]
    pods = hub.pods()
    assert {one["metadata"]["annotations"]["hub.jupyter.org/username"] for one in pods} == set(users)
    assert len({one["metadata"]["name"] for one in pods}) == 2


# images that do not come


def test_an_image_that_is_gone_ends_the_launch_within_seconds(
    hub: KubeHub, images: Images, cluster_registry: RegistryServer
) -> None:
    location = images.push("gone", SERVER)
    cluster_registry.blob_file(location.partition("@")[2]).unlink()
    took, response = seconds_of(lambda: hub.launch(location))
    assert "is damaged or gone in the registry. Open the repository's link again" in sentence(response)
    assert took < 10
    hub.nothing_is_left()


def test_an_image_that_is_damaged_ends_the_launch_within_seconds(
    hub: KubeHub, images: Images, cluster_registry: RegistryServer
) -> None:
    location = images.push("damaged", SERVER)
    file = cluster_registry.blob_file(_layer_of(cluster_registry, location))
    content = bytearray(file.read_bytes())
    content[1000:2000] = bytes(1000)
    file.write_bytes(content)
    took, response = seconds_of(lambda: hub.launch(location))
    assert "is damaged or gone in the registry." in sentence(response)
    assert took < 10


def _layer_of(registry: RegistryServer, location: str) -> str:
    return json.loads(registry.blob_file(location.partition("@")[2]).read_text())["layers"][0]["digest"]


def test_a_registry_that_is_away_for_a_moment_does_not_end_the_launch(
    hub: KubeHub, images: Images, cluster_registry: RegistryServer
) -> None:
    location = images.push("later", SERVER)
    cluster_registry.stop()
    with ThreadPoolExecutor(1) as person:
        asked = person.submit(hub.launch, location)
        try:
            hub.progress(until="did not give the image at the first try. Trying again")
        finally:
            cluster_registry.start()
        assert asked.result().status_code == 201, asked.result().text


def test_a_registry_that_stays_away_ends_the_launch_and_is_no_word_on_the_image(
    hub: KubeHub, images: Images, cluster_registry: RegistryServer
) -> None:
    location = images.push("away", SERVER)
    cluster_registry.stop()
    try:
        took, response = seconds_of(lambda: hub.launch(location))
    finally:
        cluster_registry.start()
    assert "could not be fetched from the registry. Try again in a few minutes" in sentence(response)
    assert took < 40
    hub.launched(location)


def test_a_start_is_told_in_words_and_of_this_pod_alone(
    hub: KubeHub, images: Images, cluster_registry: RegistryServer
) -> None:
    gone, there = images.push("first", SERVER), images.push("second", SERVER)
    cluster_registry.blob_file(gone.partition("@")[2]).unlink()
    sentence(hub.launch(gone))
    with ThreadPoolExecutor(1) as person:
        asked = person.submit(hub.launch, there)
        told = [event["message"] for event in hub.progress()]
        assert asked.result().status_code == 201
    assert told[:-1] == [
        "Server requested",
        "Asking the cluster for a place",
        "Fetching the image",
        "Starting the container",
        "Waiting for the server",
    ]


# no room


def test_a_session_for_which_there_is_no_room_says_what_is_short(hub: KubeHub, server_image: str) -> None:
    huge = ResourcesModel(memory_guarantee=1 << 50, memory_limit=1 << 50)
    with ThreadPoolExecutor(1) as person:
        asked = person.submit(hub.launch, server_image, None, "in-a-hurry-for-room", resources=huge)
        hub.progress("in-a-hurry-for-room", "There is no room for the session yet: not enough memory")
        told = sentence(asked.result())
    assert told.startswith("There was no room for the session within 4")
    assert "not enough memory. Try again when other sessions have ended" in told


def test_a_session_waits_for_room_as_long_as_a_start_may_take(hub: KubeHub, server_image: str) -> None:
    many = ResourcesModel(cpu_guarantee=1000.0, cpu_limit=1000.0)
    took, response = seconds_of(lambda: hub.launch(server_image, None, "hurried", resources=many))
    assert "There was no room for the session within 9 seconds: not enough CPU." in sentence(response)
    assert took < 12


def test_a_quota_that_is_reached_refuses_at_once(hub: KubeHub, server_image: str) -> None:
    quota = {"kind": "ResourceQuota", "metadata": {"name": "sessions"}, "spec": {"hard": {"pods": "1"}}}
    path = f"/api/v1/namespaces/{hub.namespace}/resourcequotas"
    hub.launched(server_image, None, "first")
    hub.kube.request("POST", path, json=quota).raise_for_status()
    try:
        hub.until(
            lambda: "used" in hub.kube.request("GET", f"{path}/sessions").json()["status"], "the quota is counted"
        )
        took, response = seconds_of(lambda: hub.launch(server_image))
        assert "This hub has no room for another session now (sessions: 1 of 1 used)." in sentence(response)
        assert took < 5
    finally:
        hub.kube.request("DELETE", f"{path}/sessions").raise_for_status()


# images that are no sessions


REFUSED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "fails": (r"printf '\033[31mValueError: \033]0;title\007it is broken\n'; exit 3", {}, ["ended at once, with status 3: ValueError: it is broken"]),
    "ends": ("true", {}, ["ended at once.", "ENTRYPOINT, /entry, must run the command"]),
    "not-there": ('exec "$@"', {}, ["The image has no jupyterhub-singleuser that could be run"]),
    "no-entrypoint": ("", {"entrypoint": False}, ["The image has no jupyterhub-singleuser that could be run"]),
    "too-much-memory": ("exec tail /dev/zero", {}, ["ran out of memory while it started", "at most 512 MB"]),
    "another-server": (f"exec httpd -f -p {8888}", {}, ["What answers on port 8888 in this image is no JupyterHub server."]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_a_session_is_refused_with_the_reason(hub: KubeHub, images: Images, name: str) -> None:
    script, more, parts = REFUSED[name]
    took, response = seconds_of(lambda: hub.launch(images.push(name, script, **more), images.model(**more)))
    told = sentence(response)
    for part in parts:
        assert part in told
    assert told.isprintable()
    assert took < 15
    hub.nothing_is_left()
    # For whoever looks at the sentences.
    print(f"{took:.1f} s: {told}")


def test_a_server_that_does_not_answer_is_told_with_its_last_words(hub: KubeHub, images: Images) -> None:
    image = images.push("silent", "echo waiting; exec sleep 1000")
    told = sentence(hub.launch(image, images.model(), "silent"))
    assert "did not answer on port 8888 within 6" in told
    assert told.endswith("waiting")


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("0", "This image runs as root, which is not allowed here."),
        ("jovyan", "The last USER in its Dockerfile must be a number, such as: USER 1000"),
    ],
)
def test_an_image_of_which_nothing_is_known_does_not_run_as_root(
    hub: KubeHub, images: Images, user: str, said: str
) -> None:
    """The node itself refuses it: what the registry said of the image is not needed for that."""
    took, response = seconds_of(
        lambda: hub.launch(images.push(f"unknown-{user}", SERVER, user=user), None, "without-uid")
    )
    assert said in sentence(response)
    assert took < 10


def test_what_the_configuration_lacks_is_told(hub: KubeHub, server_image: str) -> None:
    took, response = seconds_of(lambda: hub.launch(server_image, None, "without-configuration"))
    assert 'Something that this hub gives to sessions is not there: configmap "there-is-none" not found.' in sentence(
        response
    )
    assert took < 40


def test_a_hook_that_makes_something_else_of_the_launch_is_refused(hub: KubeHub, images: Images) -> None:
    image = images.push("hooked", SERVER)
    assert "would make something else of this launch than its own session" in sentence(
        hub.launch(image, None, "other-image")
    )
    assert hub.pods() == []


def test_a_hook_of_the_admins_that_fails_in_the_image_is_told(hub: KubeHub, server_image: str) -> None:
    told = sentence(hub.launch(server_image, None, "post-start"))
    assert "A command that this hub runs at the start of each server (its postStart hook) failed in this image" in told


def test_a_container_that_is_started_again_and_again_is_told(hub: KubeHub, images: Images) -> None:
    image = images.push("restarting", "echo a reason; exit 4")
    assert "ended at once, with status 4: a reason" in sentence(hub.launch(image, images.model(), "restarting"))


def test_a_home_that_is_not_there_is_told(hub: KubeHub, server_image: str) -> None:
    with ThreadPoolExecutor(1) as person:
        asked = person.submit(hub.launch, server_image, None, "with-home")
        hub.progress("with-home", "There is no room for the session yet: its storage is not there")
        hub.api("DELETE", "/users/with-home/server")
        assert asked.result().status_code >= 400
    hub.until(lambda: hub.server("with-home") is None, "the start has ended")


# sessions that end otherwise


def test_a_pod_that_is_removed_while_it_starts_is_told(hub: KubeHub, images: Images) -> None:
    image = images.push("removed", "exec sleep 1000")
    with ThreadPoolExecutor(1) as person:
        asked = person.submit(hub.launch, image, images.model())
        hub.progress(until="Waiting for the server")
        (pod,) = hub.pods()
        hub.kube.delete("pods", hub.namespace, pod["metadata"]["name"], seconds=0)
        assert "The session's pod was removed while it started. Open the link again." in sentence(asked.result())


def test_a_session_that_its_machine_ends_is_told(hub: KubeHub, images: Images) -> None:
    image = images.push("evicted", "dd if=/dev/zero of=/tmp/x bs=1M count=30 2>/dev/null; exec sleep 1000")
    told = sentence(hub.launch(image, images.model(), "bounded"))
    assert "The session used more disk than it may, so its machine ended it. Open the link again." in told


@pytest.mark.parametrize(("end", "status"), [("exec tail /dev/zero", "ExitCode=137"), ("exit 3", "ExitCode=3")])
def test_a_session_that_ends_by_itself_is_noticed_and_removed(
    hub: KubeHub, images: Images, end: str, status: str
) -> None:
    image = images.push("ending", serving_until(end))
    pod = hub.launched(image, images.model())
    hub.kube.run_in(hub.namespace, pod["metadata"]["name"], "touch", "/tmp/end")
    hub.until(lambda: hub.server() is None, "the hub notices")
    assert status in hub.log
    hub.nothing_is_left()


def test_a_session_stops_within_seconds_and_with_all_that_was_its_own(hub: KubeHub, server_image: str) -> None:
    hub.launched(server_image, None, "with-secret")
    assert hub.kube.left(hub.namespace, "secrets") == ["secrets/of-the-session"]
    took, _ = seconds_of(lambda: hub.stop_server("with-secret"))
    assert took < 5
    hub.nothing_is_left()


def test_a_failed_start_leaves_nothing_of_its_own(hub: KubeHub, images: Images) -> None:
    image = images.push("failing", "sleep 1; exit 1")
    sentence(hub.launch(image, images.model(), "with-secret"))
    hub.nothing_is_left()


def test_a_start_that_is_stopped_leaves_nothing(hub: KubeHub, images: Images) -> None:
    image = images.push("never", "exec sleep 1000")
    with ThreadPoolExecutor(1) as person:
        start = person.submit(hub.launch, image, images.model())
        hub.until(lambda: bool(hub.pods()), "the pod is there")
        hub.api("DELETE", f"/users/{quote(ADA)}/server")
        assert start.result().status_code >= 400
    hub.until(lambda: hub.server() is None, "the start has ended")
    hub.nothing_is_left()


# the hub and the cluster come and go


def test_a_restarted_hub_finds_its_sessions(hub: KubeHub, server_image: str) -> None:
    hub.launched(server_image)
    hub.stop()
    hub.start()
    assert hub.server() is not None
    assert hub.inside("api/status").status_code == 200
    hub.stop_server()
    hub.nothing_is_left()


def test_of_a_start_that_a_hub_did_not_live_to_finish_nothing_stays(hub: KubeHub, images: Images) -> None:
    image = images.push("unfinished", "exec sleep 1000")
    with ThreadPoolExecutor(1) as person:
        start = person.submit(hub.launch, image, images.model())
        hub.until(lambda: bool(hub.pods()), "the pod is there")
        hub.stop(signal.SIGKILL)
        start.exception()
    hub.start()
    hub.until(lambda: hub.server() is None, "the hub knows that there is no server")
    hub.nothing_is_left()


def test_what_a_hub_does_not_know_any_more_is_removed_and_nothing_of_another_hubs(
    cluster: AnyCluster, kube: Kube, server_image: str, tmp_path: Path
) -> None:
    sweeping = "c.ReplayMixin.replay_sweep_seconds = 1\nc.ReplayMixin.replay_sweep_grace = 0\n"
    with kube.namespace("sweeping") as namespace:
        config = ADMINS.format(image=server_image) + sweeping
        crashing = KubeHub(tmp_path / "hub", cluster, kube, namespace, config)
        try:
            crashing.start()
            pod = crashing.launched(server_image)
            marks = {name: pod["metadata"]["labels"][name] for name in ("replay.egi.eu/launch", "replay.egi.eu/hub")}
            of_another = marks | {"replay.egi.eu/hub": "another"}
            for name, labels in (("without-a-pod", marks), ("of-another-hub", of_another)):
                kube.create("secrets", namespace, {"metadata": {"name": name, "labels": labels}})
            crashing.stop(signal.SIGKILL)
            (tmp_path / "hub" / "jupyterhub.sqlite").unlink()
            crashing.start()
            assert crashing.ask({"launch": "0" * 32}, "boris").status_code == 409, "somebody comes"
            crashing.until(lambda: crashing.pods() == [], "the pod is removed")
            crashing.until(lambda: kube.left(namespace, "secrets") == ["secrets/of-another-hub"], "its secret, too")
            crashing.until(lambda: "leftovers of sessions" in crashing.log, "it is told")
        finally:
            crashing.close()


@pytest.mark.needs("cluster-control")
def test_sessions_outlive_a_cluster_that_does_not_answer(
    hub: KubeHub, cluster: AnyCluster, server_image: str, images: Images
) -> None:
    pod = hub.launched(server_image, None, "running")
    cluster.stop_api_server()
    try:
        took, response = seconds_of(lambda: hub.launch(images.push("while-away", SERVER)))
        assert "The cluster does not answer, so the session cannot start." in sentence(response)
        assert took < 60
        assert hub.server("running") is not None, "silence is no word on what runs"
        assert hub.inside("api/status", "running").status_code == 200
        hub.api("DELETE", f"/users/{quote('running')}/server")
    finally:
        cluster.start_api_server()
    name = pod["metadata"]["name"]
    hub.until(lambda: hub.kube.pod(hub.namespace, name) is None, "what was stopped meanwhile is removed")
    hub.launched(server_image)
