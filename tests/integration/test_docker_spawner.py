"""Sessions as containers: a real hub with ReplayDockerSpawner, a real engine, a real registry; only the plans are told."""

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from replay_build_service.schemas import ImageModel, ResourcesModel
from tests.containers.engine import ContainerEngine
from tests.containers.images import NO_ANSWER, NO_SERVER, REFUSED, WORKING, dockerfile
from tests.plan_hub import ADA, MIB, RESOURCES, PlanHub, sentence
from tests.registry_server import PASSWORD, USER, Login, RegistryServer
from tests.site import ORDINARY_SERVERS, stopped

pytestmark = [pytest.mark.needs("proxy", "engine"), pytest.mark.timeout(600)]

# A hub that has done without Replay until now. Everything here is for its own image, and nothing of it for strangers.
ADMINS = f"""
{ORDINARY_SERVERS}
def of_each_person(spawner):
    person = spawner.user.name
    if person in {[one for one, (_, told) in REFUSED.items() if NO_ANSWER in told]!r}:
        spawner.replay_answer_timeout = 8
    for name, value in {{
        "engine-socket": {{"replay_session_volumes": {{"/run/../var/run//docker.sock": "/engine"}}}},
        "socket-folder": {{"replay_session_volumes": {{_os.path.dirname(_os.environ["DOCKER_HOST"][7:]): "/engine"}}}},
        "host-network": {{"network_name": "host"}},
        "no-network": {{"network_name": "there-is-none"}},
        "internal": {{"use_internal_ip": True}},
        "shared": {{"replay_session_volumes": {{"data-for-{{username}}": {{"bind": "/shared", "mode": "ro"}}}}}},
        "hurried": {{"start_timeout": 6}},
    }}.get(person, {{}}).items():
        setattr(spawner, name, value)
c.Spawner.pre_spawn_hook = of_each_person
c.DockerSpawner.cmd = ["python3", *c.Spawner.cmd[1:]]
c.DockerSpawner.allowed_images = {{"small": "notebook", "large": "notebook"}}
c.DockerSpawner.image = "notebook"
c.DockerSpawner.volumes = {{"home-of-{{username}}": "/home/jovyan/work"}}
c.DockerSpawner.read_only_volumes = {{"/etc": "/host-etc"}}
c.DockerSpawner.mounts = [{{"type": "bind", "source": "/usr", "target": "/host-usr"}}]
c.DockerSpawner.notebook_dir = "/home/jovyan/work"
c.DockerSpawner.default_url = "/the-admins"
c.DockerSpawner.args = ["--for-the-admins-image"]
c.DockerSpawner.environment = {{"OF_THE_ADMIN": "yes", "SET_BY_BOTH": "admin"}}
c.DockerSpawner.mem_limit = "300M"
c.DockerSpawner.cpu_limit = 0.7
c.DockerSpawner.host_ip = "0.0.0.0"
c.DockerSpawner.post_start_cmd = "touch /tmp/post-started"
c.DockerSpawner.extra_create_kwargs = {{"user": "root", "labels": {{"the.site": "yes"}}, "entrypoint": ["env"]}}
c.DockerSpawner.extra_host_config = lambda spawner: {{
    "cap_add": ["SYS_PTRACE"], "security_opt": ["seccomp=unconfined"], "shm_size": "100M", "binds": {{"/opt": "/host-opt"}},
    "pid_mode": "host", "extra_hosts": {{"hub.example.org": "192.0.2.1"}},
}}
"""


EATS_MEMORY = (
    "FROM NOTEBOOK\n"
    """ENTRYPOINT ["sh", "-c", "\\"$@\\" & while [ ! -e /tmp/end ]; do sleep 0.1; done; exec tail /dev/zero", "e"]\n"""
)
"""Serves until there is ``/tmp/end``, and then takes all memory."""


class DockerHub(PlanHub):
    """A hub whose servers are containers."""

    def __init__(self, folder: Path, engine: ContainerEngine, extra_config: str) -> None:
        spawner = "replay_spawner.docker.ReplayDockerSpawner"
        super().__init__(folder, spawner, engine.gateway, engine.environment, extra_config)
        self.engine = engine

    def launched(self, location: str, image: ImageModel | None = None, user: str = ADA, **more: Any) -> dict[str, Any]:
        """What the engine says of the session's container."""
        response = self.launch(location, image, user, **more)
        assert response.status_code == 201, f"{response.text}\n{self.log[-4000:]}"
        (session,) = [one for one in self.sessions() if one["Config"]["Labels"].get("of.user") in {None, user}]
        return session

    def sessions(self) -> list[dict[str, Any]]:
        return [one for one in self.containers() if "replay.egi.eu/commit" in one["Config"]["Labels"]]

    def containers(self) -> list[dict[str, Any]]:
        """All of the engine's, those that have ended too, as the engine tells them."""
        ids = [one["ID"] for one in self.engine.containers()]
        # What is removed meanwhile is left out.
        return json.loads(self.engine.docker("inspect", *ids, check=False)) if ids else []

    def volumes(self) -> list[str]:
        return self.engine.docker("volume", "ls", "--quiet").split()

    def nothing_is_left(self) -> None:
        assert self.sessions() == []
        assert [name for name in self.volumes() if re.fullmatch("[0-9a-f]{64}", name)] == []


@pytest.fixture(scope="module")
def engine() -> Iterator[ContainerEngine]:
    with ContainerEngine() as started:
        started.import_base("base")
        started.make_notebook_image("base", "not-compiled")
        started.build(
            "notebook",
            "FROM not-compiled\nUSER root\nRUN python3 -m compileall -q -j 2 /opt/notebook/lib /usr/lib/python3 || true\nUSER 1000\n",
        )
        yield started


@pytest.fixture(scope="module")
def hub(engine: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHub]:
    made = DockerHub(tmp_path_factory.mktemp("hub"), engine, ADMINS)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def no_server_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "hub" in request.fixturenames:
        hub: DockerHub = request.getfixturevalue("hub")
        for user in hub.api("GET", "/users?state=active").json():
            hub.stop_server(user["name"])
        hub.nothing_is_left()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as started:
        yield started


def launch_of(session: dict[str, Any]) -> str:
    return session["Config"]["Labels"]["replay.egi.eu/launch"]


def image_of(engine: ContainerEngine, tag: str) -> ImageModel:
    """What the build service tells the spawner of it."""
    config = json.loads(engine.docker("image", "inspect", tag))[0]["Config"]
    homes = [entry.removeprefix("HOME=") for entry in config["Env"] or [] if entry.startswith("HOME=")]
    return ImageModel(
        user=config["User"],
        working_dir=config["WorkingDir"],
        home=homes[-1] if homes else None,
        entrypoint=config["Entrypoint"] or [],
        command=config["Cmd"] or [],
    )


def build(engine: ContainerEngine, name: str, text: str) -> str:
    return engine.build(f"odd/{name}", dockerfile(text, "base", "notebook"))


# what a session is


def test_a_session_is_the_launchs_image_within_its_limits_and_nothing_of_the_admins(
    hub: DockerHub, engine: ContainerEngine
) -> None:
    image = build(engine, "volume", WORKING["volume"])
    session = hub.launched(image, image_of(engine, "odd/volume"))
    config, host = session["Config"], session["HostConfig"]
    assert session["Image"] == image
    assert config["Cmd"] == ["jupyterhub-singleuser"]
    assert (config["User"], config["Entrypoint"]) == ("1000", None)
    assert config["Healthcheck"]["Test"] == ["NONE"]
    assert (
        config["Labels"].items()
        >= {
            "replay.egi.eu/repository": "https://git.example.org/{username:>99}/{prefix}",
            "replay.egi.eu/commit": "c0ffee" * 6 + "c0ff",
            "egi.eu/primary_group": "vo.notebooks.egi.eu",
            "the.site": "yes",
        }.items()
    )
    assert session["Name"] == f"/replay-{config['Labels']['replay.egi.eu/launch']}"
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment["OF_THE_ADMIN"] == "yes"
    assert environment["OF_THE_PLAN"] == "/home/jovyan"
    assert environment["SET_BY_BOTH"] == "plan"
    assert environment["MEM_LIMIT"] == str(512 * MIB)
    assert environment["REPLAY_LINK"] == "/v2/git/x/HEAD"
    assert not {"JUPYTERHUB_ROOT_DIR", "JUPYTERHUB_DEFAULT_URL", "DOCKER_HOST"} & environment.keys()
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (512 * MIB, 512 * MIB, 256 * MIB)
    assert host["CpuQuota"] / host["CpuPeriod"] == 1.5
    assert (host["PidsLimit"], host["Init"], host["Privileged"]) == (4096, True, False)
    assert (host["CapDrop"], host["CapAdd"], host["PidMode"]) == (["ALL"], None, "")
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["ExtraHosts"], host["ShmSize"]) == (["hub.example.org:192.0.2.1"], 100 * MIB), "how the site is, stays"
    assert not host["Binds"]
    assert not host.get("Mounts")
    assert [mount["Destination"] for mount in session["Mounts"]] == ["/data"], "the image's own volume"
    ports = {port: published for port, published in session["NetworkSettings"]["Ports"].items() if published}
    assert [(port, [one["HostIp"] for one in published]) for port, published in ports.items()] == [
        ("8888/tcp", ["127.0.0.1"])
    ]
    assert hub.inside("api/status").status_code == 200
    (anonymous,) = [mount["Name"] for mount in session["Mounts"]]
    hub.stop_server()
    assert anonymous not in hub.volumes()


@pytest.mark.parametrize("name", sorted(WORKING))
def test_unusual_images_work(hub: DockerHub, engine: ContainerEngine, name: str) -> None:
    image = build(engine, name, WORKING[name])
    hub.launched(image, image_of(engine, f"odd/{name}"))
    assert hub.inside("api/status").status_code == 200
    assert hub.inside("api/contents/").status_code == 200


def test_an_ordinary_server_is_the_admins_before_and_after_a_launch(hub: DockerHub, engine: ContainerEngine) -> None:
    def ordinary(options: object) -> dict[str, Any]:
        response = hub.ask(options)
        assert response.status_code == 201, response.text
        (container,) = hub.containers()
        hub.stop_server()
        # DockerSpawner keeps ordinary containers, to start them again.
        engine.docker("rm", "--volumes", container["Id"])
        host = container["HostConfig"]
        secret = re.compile(r"(TOKEN|HOSTNAME|COOKIE)")
        environment = [entry for entry in container["Config"]["Env"] if not secret.search(entry.split("=")[0])]
        return {
            "name": container["Name"],
            "config": container["Config"] | {"Env": sorted(environment), "Hostname": None},
            "host": {name: value for name, value in host.items() if name != "Mounts"},
            "mounts": sorted(mount["Destination"] for mount in container["Mounts"]),
        }

    before = ordinary({"image": "small"})
    assert before["mounts"] == ["/home/jovyan/work", "/host-etc", "/host-opt", "/host-usr"]
    assert before["config"]["User"] == "root"
    # An image that is asked for beside the launch is no word on the launch.
    response = hub.ask({"launch": hub.plans.add(engine.image_id("notebook"), None), "image": "large"})
    assert response.status_code == 201, response.text
    assert [one["Config"]["Image"] for one in hub.sessions()] == [engine.image_id("notebook")]
    hub.stop_server()
    assert ordinary({"image": "small"}) == before


# what is refused


@pytest.fixture(scope="module")
def refusals(hub: DockerHub, engine: ContainerEngine) -> dict[str, httpx.Response]:
    """All of them at once, each to somebody else: the most take as long as the hub waits."""
    images = {name: build(engine, name, text) for name, (text, _) in REFUSED.items()}
    with ThreadPoolExecutor(6) as people:
        asked = {
            name: people.submit(
                hub.launch, image, image_of(engine, f"odd/{name}") if name != "root-by-number" else None, name
            )
            for name, image in images.items()
        }
        return {name: answer.result() for name, answer in asked.items()}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_a_session_is_refused_with_the_reason(
    hub: DockerHub, refusals: dict[str, httpx.Response], name: str
) -> None:
    told = sentence(refusals[name])
    for part in REFUSED[name][1]:
        assert part in told
    assert told.isprintable()
    assert len(told) < 2000
    assert hub.server(name) is None
    hub.nothing_is_left()
    # For whoever looks at the sentences.
    print(told)


UNKNOWN_ID = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("location", "said"),
    [
        (UNKNOWN_ID, "is no longer there. Open the repository's link again"),
        ("registry.example.org/replay/x:latest", "is not known by its digest"),
        (f"--privileged@{UNKNOWN_ID}", "is not known by its digest"),
    ],
)
def test_an_image_that_is_not_there_or_may_change_is_refused(hub: DockerHub, location: str, said: str) -> None:
    assert said in sentence(hub.launch(location))


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("engine-socket", "would give sessions its machine"),
        ("socket-folder", "would give sessions its machine"),
        ("host-network", "would give sessions its machine"),
        ("no-network", "network there-is-none not found"),
        ("tiny", "Minimum memory limit allowed"),
    ],
)
def test_what_the_configuration_makes_impossible_is_refused(
    hub: DockerHub, engine: ContainerEngine, user: str, said: str
) -> None:
    resources = ResourcesModel(memory_limit=1000) if user == "tiny" else RESOURCES
    assert said in sentence(hub.launch(engine.image_id("notebook"), user=user, resources=resources))
    hub.nothing_is_left()


def test_sessions_get_the_volumes_that_are_meant_for_them(hub: DockerHub, engine: ContainerEngine) -> None:
    session = hub.launched(engine.image_id("notebook"), user="shared")
    assert [(one["Name"], one["Destination"], one["RW"]) for one in session["Mounts"]] == [
        ("data-for-shared", "/shared", False)
    ]
    hub.stop_server("shared")
    assert "data-for-shared" in hub.volumes(), "what has a name is not the session's own"


def test_where_the_hub_reaches_containers_themselves_nothing_is_published(
    hub: DockerHub, engine: ContainerEngine
) -> None:
    session = hub.launched(engine.image_id("notebook"), user="internal")
    assert not any(session["NetworkSettings"]["Ports"].values())
    assert hub.inside("api/status", "internal").status_code == 200
    hub.stop_server("internal")


# images of a registry


@dataclass
class Pushed:
    """Images that lie in a registry and are not on the engine."""

    engine: ContainerEngine
    registry: RegistryServer

    def small(self, name: str) -> str:
        """One that is quick to fetch, and can be refused only once it is here: there is no server in it."""
        archive = self.engine.folder / "small.tar"
        (self.engine.folder / "content").write_bytes(os.urandom(100_000))
        subprocess.run(["tar", "-cf", str(archive), "-C", str(self.engine.folder), "content"], check=True)
        self.engine.docker("import", "--change", "USER 1000", str(archive), self._tag(name))
        return self._pushed(name)

    def server(self, name: str) -> str:
        self.engine.build(self._tag(name), f"FROM notebook\nLABEL name={name}\n")
        return self._pushed(name)

    def manifest(self, location: str) -> dict[str, Any]:
        return json.loads(self.registry.blob_file(location.partition("@")[2]).read_text())

    def is_here(self, location: str) -> bool:
        return self.engine.docker("image", "inspect", location, check=False) != "[]"

    def _tag(self, name: str) -> str:
        return f"{self.registry.url.removeprefix('http://')}/replay/{name}:latest"

    def _pushed(self, name: str) -> str:
        self.engine.docker("push", "--quiet", self._tag(name))
        (location,) = json.loads(self.engine.docker("image", "inspect", self._tag(name)))[0]["RepoDigests"]
        self.engine.docker("rmi", "--force", self.engine.image_id(self._tag(name)))
        assert not self.is_here(location)
        return location


@pytest.fixture(scope="module")
def pushed(engine: ContainerEngine, registry: RegistryServer) -> Pushed:
    return Pushed(engine, registry)


def lose_manifest(pushed: Pushed, location: str) -> None:
    pushed.registry.blob_file(location.partition("@")[2]).unlink()


def lose_configuration(pushed: Pushed, location: str) -> None:
    pushed.registry.blob_file(pushed.manifest(location)["config"]["digest"]).unlink()


def lose_layer(pushed: Pushed, location: str) -> None:
    pushed.registry.blob_file(pushed.manifest(location)["layers"][0]["digest"]).unlink()


def corrupt_layer(pushed: Pushed, location: str) -> None:
    file = pushed.registry.blob_file(pushed.manifest(location)["layers"][0]["digest"])
    content = bytearray(file.read_bytes())
    content[1000:2000] = bytes(1000)
    file.write_bytes(content)


@pytest.mark.needs("registry")
@pytest.mark.parametrize("damage", [lose_manifest, lose_configuration, lose_layer, corrupt_layer])
def test_an_image_that_is_damaged_in_the_registry_is_told_so(
    hub: DockerHub, pushed: Pushed, damage: Callable[[Pushed, str], None]
) -> None:
    location = pushed.small(damage.__name__.replace("_", "-"))
    damage(pushed, location)
    told = sentence(hub.launch(location))
    assert "is damaged or gone in the registry. Open the repository's link again" in told
    assert not pushed.is_here(location)


@pytest.mark.needs("registry")
def test_a_registry_that_does_not_answer_is_no_word_on_the_image(hub: DockerHub, pushed: Pushed) -> None:
    location = pushed.small("out-of-reach")
    pushed.registry.stop()
    try:
        told = sentence(hub.launch(location))
        assert "could not be fetched from the registry. Try again in a few minutes" in told
    finally:
        pushed.registry.start()
    assert NO_SERVER in sentence(hub.launch(location)), "now it is fetched"


@pytest.mark.needs("registry")
def test_a_registry_that_asks_who_is_there_is_told_by_the_engines_own_configuration(
    hub: DockerHub, engine: ContainerEngine, tmp_path: Path
) -> None:
    with RegistryServer(tmp_path, login=Login.BASIC) as registry:
        config = engine.config_folder / "config.json"
        anonymous = config.read_text()
        account = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        known = json.dumps(json.loads(anonymous) | {"auths": {registry.url.removeprefix("http://"): account}})
        config.write_text(known)
        location = Pushed(engine, registry).small("private")
        config.write_text(anonymous)
        assert "The registry does not give this hub the image." in sentence(hub.launch(location))
        config.write_text(known)
        assert NO_SERVER in sentence(hub.launch(location)), "now it is fetched; the hub was not started anew"
        config.write_text(anonymous)


@pytest.mark.needs("registry")
def test_an_image_is_fetched_once_for_all_and_told_meanwhile(hub: DockerHub, pushed: Pushed) -> None:
    location = pushed.server("fetched")
    with ThreadPoolExecutor(3) as people:
        with stopped(registry_process(pushed.registry)):
            both = [people.submit(hub.launch, location, user=user) for user in ("first", "second")]
            for user in ("first", "second"):
                hub.progress(user, "Fetching the image")
            progress = people.submit(hub.progress, "first")
        assert [answer.result().status_code for answer in both] == [201, 201]
        told = [event["message"] for event in progress.result()]
    assert told[:2] == ["Server requested", "Fetching the image"]
    assert told[-3:-1] == ["Starting the container", "Waiting for the server"]
    assert progress.result()[-1]["ready"]
    manifest = f"GET /v2/replay/fetched/manifests/{location.partition('@')[2]}"
    assert pushed.registry.log.count(f'"{manifest}') == 1
    for user in ("first", "second"):
        hub.stop_server(user)
    # What is here needs no registry.
    pushed.registry.stop()
    try:
        hub.launched(location)
    finally:
        pushed.registry.start()
    # Nor is it taken for granted: what somebody has removed from the engine is fetched again.
    hub.stop_server()
    pushed.engine.docker("rmi", "--force", location)
    assert not pushed.is_here(location)
    hub.launched(location)


@pytest.mark.needs("registry")
def test_an_image_that_takes_too_long_goes_on_being_fetched(hub: DockerHub, pushed: Pushed) -> None:
    location = pushed.small("slow")
    with stopped(registry_process(pushed.registry)):
        told = sentence(hub.launch(location, user="hurried"))
        assert "is not here yet after 3 seconds. It is still being fetched" in told
    hub.until(lambda: pushed.is_here(location), "the image is here")
    assert NO_SERVER in sentence(hub.launch(location, user="hurried"))


def registry_process(registry: RegistryServer) -> psutil.Process:
    (found,) = [
        process
        for process in psutil.Process().children()
        if process.name() == "docker-registry" and str(registry.folder) in " ".join(process.cmdline())
    ]
    return found


# the engine and the hub come and go


def test_an_engine_that_is_stopped_is_told_and_launches_work_when_it_is_back(
    hub: DockerHub, engine: ContainerEngine
) -> None:
    image = engine.image_id("notebook")
    engine.stop()
    try:
        assert "The container engine does not answer, so the session cannot start." in sentence(hub.launch(image))
        assert hub.server() is None
    finally:
        engine.start()
    hub.launched(image)


def test_an_engine_that_hangs_is_told(hub: DockerHub, engine: ContainerEngine) -> None:
    image = engine.image_id("notebook")
    with stopped(engine_process(engine)):
        assert "The container engine does not answer, so the session cannot start." in sentence(hub.launch(image))


def test_a_session_outlives_in_the_hub_an_engine_that_does_not_answer_and_ends_when_that_says_so(
    hub: DockerHub, engine: ContainerEngine
) -> None:
    image = build(engine, "volume", WORKING["volume"])
    session = hub.launched(image)
    engine.stop()
    try:
        hub.until(lambda: f"does not tell of {session['Name'][1:]}" in hub.log, "the hub asks the engine")
        assert hub.server() is not None, "silence is no word on what runs"
    finally:
        engine.start()
    hub.until(lambda: hub.server() is None, "the hub notices that the session has ended")
    hub.nothing_is_left()
    hub.launched(image)


def test_a_session_that_is_stopped_while_the_engine_is_away_is_removed_later(
    hub: DockerHub, engine: ContainerEngine
) -> None:
    hub.launched(build(engine, "volume", WORKING["volume"]))
    engine.stop()
    try:
        hub.stop_server()
    finally:
        engine.start()
    hub.until(lambda: hub.sessions() == [], "the container is removed")
    hub.nothing_is_left()


def test_a_session_that_dies_is_noticed_and_removed(hub: DockerHub, engine: ContainerEngine) -> None:
    session = hub.launched(build(engine, "volume", WORKING["volume"]))
    engine.docker("kill", session["Id"])
    hub.until(lambda: hub.server() is None, "the hub notices")
    hub.nothing_is_left()
    hub.until(lambda: launch_of(session) in hub.plans.ended, "the build service is told")
    assert hub.plans.ended[launch_of(session)].startswith(
        "The session's server was killed, as happens where the machine"
    )


def test_a_session_says_what_it_uses_and_that_its_memory_ran_out(hub: DockerHub, engine: ContainerEngine) -> None:
    session = hub.launched(build(engine, "eats-memory", EATS_MEMORY))
    report, usage = hub.report(), hub.report().usage
    assert (report.launch, report.resources) == (launch_of(session), RESOURCES)
    assert usage is not None
    assert (usage.source, usage.memory_limit, usage.cpu_limit, usage.oom_kills) == ("engine", 512 * MIB, 1.5, 0)
    assert 20 * MIB < usage.memory_used < 512 * MIB
    assert usage.cpu_used is not None
    assert hub.api("GET", "/replay/sessions/nobody").status_code == 404
    hub.stop()
    hub.start()
    assert hub.report().resources == RESOURCES, "a restarted hub knows it still"

    def killed_processes() -> int:
        now = hub.report().usage
        return 0 if now is None else now.oom_kills or 0

    engine.docker("exec", session["Id"], "tail", "/dev/zero", check=False)
    # One that takes memory so fast may run out of it more than once before it is gone.
    hub.until(lambda: killed_processes() >= 1, "what ended a process of it is told")
    assert hub.server() is not None
    assert hub.plans.ended.get(launch_of(session)) is None

    engine.docker("exec", session["Id"], "touch", "/tmp/end")
    hub.until(lambda: hub.server() is None, "the hub notices")
    hub.until(lambda: launch_of(session) in hub.plans.ended, "the build service is told")
    told = hub.plans.ended[launch_of(session)]
    assert told.startswith("The session ran out of memory, so it was ended: it may use at most 512 MB.")
    assert hub.api("GET", f"/replay/sessions/{quote(ADA)}").status_code == 404


def test_of_a_session_that_is_stopped_no_reason_is_told(hub: DockerHub, engine: ContainerEngine) -> None:
    session = hub.launched(build(engine, "stubborn", WORKING["stubborn"]))
    with ThreadPoolExecutor(1) as person:
        # It takes seconds to end, in which the hub looks whether it runs.
        stopping = person.submit(hub.stop_server)
        engine.docker("wait", session["Id"], check=False)
        stopping.result()
    assert launch_of(session) not in hub.plans.ended


def test_a_start_that_is_stopped_leaves_nothing(hub: DockerHub, engine: ContainerEngine) -> None:
    image = build(engine, "never-runs-the-command", REFUSED["never-runs-the-command"][0])
    with ThreadPoolExecutor(1) as person:
        start = person.submit(hub.launch, image)
        hub.until(lambda: bool(hub.sessions()), "the container is there")
        hub.api("DELETE", f"/users/{quote(ADA)}/server")
        assert start.result().status_code >= 400
    hub.until(lambda: hub.server() is None, "the start has ended")
    hub.nothing_is_left()


def test_a_restarted_hub_finds_its_sessions(hub: DockerHub, engine: ContainerEngine) -> None:
    hub.launched(build(engine, "volume", WORKING["volume"]))
    hub.stop()
    hub.start()
    assert hub.inside("api/status").status_code == 200
    hub.stop_server()
    hub.nothing_is_left()


def test_of_a_start_that_a_hub_did_not_live_to_finish_nothing_stays(hub: DockerHub, engine: ContainerEngine) -> None:
    image = build(engine, "never-runs-the-command", REFUSED["never-runs-the-command"][0])
    with ThreadPoolExecutor(1) as person:
        start = person.submit(hub.launch, image)
        hub.until(lambda: bool(hub.sessions()), "the container is there")
        hub.stop(signal.SIGKILL)
        start.exception()
    hub.start()
    hub.until(lambda: hub.server() is None, "the hub knows that there is no server")
    hub.nothing_is_left()


def engine_process(engine: ContainerEngine) -> psutil.Process:
    return psutil.Process(int((engine.folder / "pid").read_text()))
