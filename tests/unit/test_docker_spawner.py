"""What a session's container is made of, what a person is told, and what is removed: without an engine."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import httpcore
import pytest
import requests
from docker.errors import APIError, NotFound
from docker.types import HostConfig
from hypothesis import given
from hypothesis import strategies as st
from traitlets.config import Config

from replay_build_service.schemas import ImageModel, LaunchPlan, ResourcesModel
from replay_spawner import answers
from replay_spawner.answers import Answer, Started, ask, last_lines, safe
from replay_spawner.docker import ReplayDockerSpawner, leftovers
from replay_spawner.docker.containers import (
    ImageLocation,
    NotForSessions,
    host_config,
    refuse_the_engine,
)
from replay_spawner.docker.leftovers import Leftovers
from replay_spawner.fetching import sentence_for
from replay_spawner.images import has_account, image_model, is_named, may_lack_a_home, names_root, runs_as_root
from tests.unit.launch_plans import DIGEST, GIB, LAUNCH
from tests.unit.launch_plans import PLAN as ANY_PLAN

MIB = 1024**2
IMAGE = ImageModel(user="1000", working_dir="/srv/project", home=None, entrypoint=[], command=[])
PLAN = ANY_PLAN.model_copy(
    update={
        "location": f"127.0.0.1:5000/replay/binder-example@{DIGEST}",
        "container": IMAGE,
        "environment": {"FILES": "{home}/files"},
    }
)


def test_a_hub_without_dockerspawner_imports_the_package() -> None:
    program = "import sys; sys.modules['dockerspawner'] = sys.modules['docker'] = None; import replay_spawner"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_it_promises_to_apply_plans() -> None:
    assert ReplayDockerSpawner.applies_plans


# images


@pytest.mark.parametrize(
    ("text", "location"),
    [
        (DIGEST, ImageLocation(None, DIGEST)),
        (f"127.0.0.1:5000/replay/x@{DIGEST}", ImageLocation("127.0.0.1:5000/replay/x", DIGEST)),
        (f"[::1]:5000/replay/x@{DIGEST}", ImageLocation("[::1]:5000/replay/x", DIGEST)),
        (f"registry.example.org/x:tag@{DIGEST}", ImageLocation("registry.example.org/x:tag", DIGEST)),
        ("registry.example.org/replay/x:latest", None),
        ("x", None),
        ("", None),
        (DIGEST[:-1], None),
        (DIGEST.upper(), None),
        (f"{DIGEST}\n", None),
        (f"@{DIGEST}", None),
        (f"-x@{DIGEST}", None),
        (f"a b@{DIGEST}", None),
        ("/replay-state/images/00", None),
    ],
)
def test_an_image_is_known_by_its_digest_or_not_at_all(text: str, location: ImageLocation | None) -> None:
    assert ImageLocation.parse(text) == location


@pytest.mark.parametrize(
    ("user", "root"),
    [
        ("", True), ("0", True), ("00", True), ("root", True), ("0:1000", True), ("root:users", True), (" ", True),
        (":1000", True), ("+0", True), ("-0:1000", True), ("root :0", True), ("0 :0", True), ("1000", False), ("+1000", False),
        ("-5", True), ("2147483647", False), ("2147483648", True), ("4294967296", True), ("9" * 5000, True), ("\u0660", False), ("1000:0", False), ("jovyan", False), ("rootless", False), ("1000:root", False),
    ],
)  # fmt: skip
def test_root_is_known_by_its_names_and_numbers(user: str, root: bool) -> None:
    assert runs_as_root(user) is root


@pytest.mark.parametrize(
    ("inspected", "model"),
    [
        ({}, ImageModel(user="", working_dir="", home=None, entrypoint=[], command=[])),
        (
            {"Config": {"User": "1000", "Env": ["HOME=/a", "HOMES=/b"], "Entrypoint": None, "Cmd": ["x"]}},
            ImageModel(user="1000", working_dir="", home="/a", entrypoint=[], command=["x"]),
        ),
    ],
)
def test_what_an_engine_says_of_an_image_is_read_whatever_is_left_out(
    inspected: dict[str, Any], model: ImageModel
) -> None:
    assert image_model(inspected) == model


@pytest.mark.parametrize(
    ("passwd", "found"),
    [
        ("root:x:0:0::/root:/bin/sh\njovyan:x:1000:1000::/home/jovyan:/bin/sh\n", True),
        ("root:x:0:0::/root:/bin/sh\n", False),
        ("x:x:10000:0::/:\n:::\n\n1000\nx:1000\nx:y:\u00b2:0\n", False),
        ("", False),
    ],
)
def test_an_account_is_found_by_its_number(passwd: str, found: bool) -> None:
    assert has_account(passwd, "1000:1000") is found


@pytest.mark.parametrize(
    ("user", "home", "may"), [("1000", None, True), ("1000", "/x", False), ("jovyan", None, False)]
)
def test_only_a_bare_number_may_lack_a_home(user: str, home: str | None, may: bool) -> None:
    assert may_lack_a_home(IMAGE.model_copy(update={"user": user, "home": home})) is may


@pytest.mark.parametrize(
    ("line", "is_root"),
    [
        ("app:x:1000:1000::/:", False), ("app:x:0:0::/:", True), ("app:x:00:0::/:", True), ("app", True), ("app:x", True),
        ("app:x:many:0", True), ("app:x::0", True), ("app:x:-1:0", True), ("  app:x:0:0", True), ("app :x:0:0", True),
        ("app:x:1000\x1c", True), ("app:x:1000 :0", True), ("app:x:\u0660:0", True), ("app:x:4294967296:0", True), ("app:x:4294968296:0", True), ("app:x\x1c:1000:0", False), ("apps:x:0:0", False), ("#app:x:0:0", False),
        ("app:x:1000:0\napp:x:0:0", True),
    ],
)  # fmt: skip
def test_an_account_is_roots_by_its_number_whatever_its_name(line: str, is_root: bool) -> None:
    assert names_root(f"root:x:0:0::/root:/bin/sh\n{line}\n", "app:users") is is_root


@pytest.mark.parametrize(
    ("user", "named"), [("app", True), ("app:0", True), ("1000", False), ("+1000", False), ("0x1", True)]
)
def test_a_user_is_a_name_or_a_number(user: str, named: bool) -> None:
    assert is_named(user) is named


# of the admin's settings


def made(admins: dict[str, Any], resources: ResourcesModel = PLAN.resources, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"network": "bridge", "links": {}, "binds": {}, "publish": 8888, "most_processes": 100}
    return host_config(admins, resources, **(values | more))


HARMLESS = {
    "dns", "dns_search", "dns_opt", "extra_hosts", "runtime", "cgroup_parent", "cpuset_cpus", "cpuset_mems",
    "cpu_shares", "cpu_period", "blkio_weight", "device_read_bps", "device_write_bps", "device_read_iops",
    "device_write_iops", "shm_size", "storage_opt", "ulimits", "log_config", "init", "network_mode", "security_opt",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(inspect.signature(HostConfig).parameters) - HARMLESS))
def test_of_all_that_an_engine_can_give_a_session_has_what_is_known_to_be_harmless(name: str) -> None:
    """By docker-py's own list, so that what a later version brings is left out until somebody has looked at it."""
    assert made({name: "of the admin"}) == made({})


def test_a_session_has_no_privileges_and_can_get_none() -> None:
    config = made(
        {"security_opt": ["seccomp=/site.json", "seccomp=unconfined", "label=disable", "systempaths=unconfined"]}
    )
    assert config["security_opt"] == ["seccomp=/site.json", "no-new-privileges"]
    assert (config["cap_drop"], config["pids_limit"]) == (["ALL"], 100)
    assert config["port_bindings"] == {8888: ("127.0.0.1",)}
    assert config["init"] is True
    assert made({"init": False})["init"] is False


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (ResourcesModel(), {}),
        (
            ResourcesModel(memory_limit=GIB, memory_guarantee=2 * GIB),
            {"mem_limit": GIB, "memswap_limit": GIB, "mem_reservation": GIB},
        ),
        (ResourcesModel(memory_guarantee=GIB), {"mem_reservation": GIB}),
        (ResourcesModel(cpu_limit=1.5), {"cpu_period": 100_000, "cpu_quota": 150_000}),
        (ResourcesModel(cpu_limit=0.001), {"cpu_period": 100_000, "cpu_quota": 1000}),
    ],
)
def test_limits_are_the_plans_alone(resources: ResourcesModel, expected: dict[str, int]) -> None:
    admins = {"mem_limit": "100g", "memswap_limit": -1, "cpu_quota": -1, "mem_reservation": "1m", "nano_cpus": 9}
    config = made(admins, resources)
    limits = {name: value for name, value in config.items() if name.startswith(("mem", "cpu"))}
    assert limits == expected


@pytest.mark.parametrize(
    ("admins", "network"), [({}, "host"), ({"network_mode": "host"}, "bridge"), ({}, "container:hub")]
)
def test_a_session_is_on_no_network_that_is_somebody_elses(admins: dict[str, Any], network: str) -> None:
    with pytest.raises(NotForSessions):
        made(admins, network=network)


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        ("/var/run/docker.sock", True), ("/run/docker.sock", True), ("/", True), ("//", True), ("/var", True),
        ("/var/run", True), ("/run", True), ("/run/", True), ("/run/../run", True), ("/run/user/1000/podman", True),
        ("/run/containerd/containerd.sock", True), ("/srv/forwarded/docker.sock", True), ("/var/lib/docker/volumes", True),
        ("/srv/engine", True), ("/srv/engine/engine.sock", True), ("/srv", True), ("/srv/engineering", False),
        ("/data", False), ("/runs", False), ("/var/lib", True), ("data-of-ada", False), ("run", False),
    ],
)  # fmt: skip
def test_no_session_gets_the_engine(source: str, refused: bool) -> None:
    if refused:
        with pytest.raises(NotForSessions):
            refuse_the_engine([source], "unix:///srv/engine/engine.sock")
    else:
        refuse_the_engine([source], "unix:///srv/engine/engine.sock")


class Spawner(ReplayDockerSpawner):
    """Shows what is set for a launch."""

    def apply(self, plan: LaunchPlan) -> None:
        self._apply(plan)


def spawner_of(**settings: Any) -> Spawner:
    user = SimpleNamespace(name="ada", id=1, url="/user/ada/", escaped_name="ada", groups=[])
    orm = SimpleNamespace(name="", user_options={}, server=None)
    return Spawner(user=user, orm_spawner=orm, api_token="", config=Config(DockerSpawner=settings))


ADMINS: dict[str, Any] = {
    "image": "admin/notebook:1",
    "cmd": ["start.sh"],
    "volumes": {"home-of-{username}": "/home/jovyan"},
    "mounts": [{"source": "/opt", "target": "/opt"}],
    "notebook_dir": "/home/jovyan",
    "mem_limit": "1G",
    "cpu_limit": 0.5,
    "environment": {"OF_THE_ADMIN": "yes"},
}


def test_after_a_launch_everything_is_the_admins_again() -> None:
    spawner = spawner_of(**ADMINS)
    before = {name: getattr(spawner, name) for name in spawner.trait_names() if name not in {"hub", "server"}}
    spawner.apply(PLAN)
    assert (spawner.image, spawner.object_name) == (PLAN.location, f"replay-{LAUNCH}")
    assert (spawner.mem_limit, spawner.cpu_limit, spawner.remove) == (4 * GIB, 2.0, True)
    outside = {"JUPYTER_RUNTIME_DIR": "/tmp/.jupyter-runtime"}
    assert spawner.environment == {"OF_THE_ADMIN": "yes", "FILES": "/srv/project/files", **outside}
    assert (spawner.volume_binds, spawner.mount_binds) == ({}, [])
    spawner.restore()
    assert {name: getattr(spawner, name) for name in before} == before


def test_a_restarted_hub_knows_a_session_by_its_state() -> None:
    spawner = spawner_of()
    spawner.load_state({"object_id": "c0ffee", "object_name": f"replay-{LAUNCH}", "replay_launch": LAUNCH})
    assert (spawner.object_name, spawner.remove) == (f"replay-{LAUNCH}", True)
    assert spawner.get_state()["replay_launch"] == LAUNCH


async def test_a_restarted_hub_takes_a_session_for_ended_whose_start_it_did_not_see_end() -> None:
    spawner = spawner_of()
    spawner.orm_spawner.server = object()
    spawner.orm_spawner.user_options = {"launch": LAUNCH}
    spawner.load_state({})
    assert spawner.object_name == f"replay-{LAUNCH}"
    assert await spawner.poll() == 1


@pytest.mark.parametrize(
    ("server", "options"), [(None, {"launch": LAUNCH}), (object(), {}), (object(), {"launch": "../x"})]
)
def test_an_ordinary_server_stays_one(server: object, options: dict[str, Any]) -> None:
    spawner = spawner_of()
    spawner.orm_spawner.server, spawner.orm_spawner.user_options = server, options
    spawner.load_state({})
    assert (spawner.object_name, spawner.remove) == ("jupyter-ada", False)


# what a person is told

STARTED = Started("jupyterhub-singleuser", (), 8888, 4 * GIB)
OWN = Started("jupyterhub-singleuser", ("/start.sh", "--now"), 8888, None)
R2D = Started("jupyterhub-singleuser", ("/usr/local/bin/repo2docker-entrypoint",), 8888, None)
NO_SERVER = "The image has no jupyterhub-singleuser that could be run"


@pytest.mark.parametrize(
    ("started", "state", "log", "said"),
    [
        (STARTED, {"ExitCode": 137}, "", "ran out of memory while it started, so it was ended. It may have at most 4 GB."),
        (OWN, {"ExitCode": 3, "OOMKilled": True}, "", "ran out of memory while it started, so it was ended."),
        (STARTED, {"ExitCode": 127}, "[FATAL tini (7)] exec jupyterhub-singleuser failed: No such file or directory", NO_SERVER),
        (STARTED, {"ExitCode": 126}, "sh: 1: jupyterhub-singleuser: Permission denied", NO_SERVER),
        (R2D, {"ExitCode": 1}, "FileNotFoundError: [Errno 2] No such file or directory: 'jupyterhub-singleuser'", NO_SERVER),
        (OWN, {"ExitCode": 127}, "[FATAL tini (6)] exec /start.sh failed: No such file or directory", "The image's ENTRYPOINT, /start.sh --now, could not be run"),
        (STARTED, {"ExitCode": 127}, "ld.so: libx.so: cannot open shared object file", "What the image starts could not be run: ld.so"),
        (STARTED, {"ExitCode": 1}, "exec /bin/x: exec format error", "another kind of processor"),
        (OWN, {"ExitCode": 0}, "", "ENTRYPOINT, /start.sh --now, must run the command that it is given: it said nothing."),
        (STARTED, {"ExitCode": 0}, "bye", "ended at once, with status 0: bye"),
        (STARTED, {"ExitCode": 1}, "a\nb\nValueError: wrong\nc\nd\ne\nf", "with status 1: ValueError: wrong"),
        (STARTED, {}, "a\nb\nc\nd", "with status None: b / c / d"),
    ],
)  # fmt: skip
def test_why_a_session_ended_is_told(started: Started, state: dict[str, Any], log: str, said: str) -> None:
    assert said in started.why_it_ended(state, log)


@pytest.mark.parametrize(
    ("started", "said"),
    [
        (STARTED, "jupyterhub-singleuser must listen there, on all addresses."),
        (OWN, "ENTRYPOINT, /start.sh --now, must run the command that it is given (jupyterhub-singleuser)"),
        (R2D, 'If the repository has a start file, that must end with: exec "$@"'),
    ],
)
def test_why_nothing_answers_is_told(started: Started, said: str) -> None:
    told = started.why_nothing_answers(30.0, "waiting")
    assert "did not answer on port 8888 within 30 seconds." in told
    assert said in told
    assert told.endswith("waiting")
    assert said in started.why_it_is_no_server


GONE, REFUSED, FULL, OTHER = "damaged or gone", "does not give", "is full", "could not be fetched from the registry"


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        # The words of Docker 26 with the registry 2.8, and of its containerd image store.
        ("manifest for r/x@sha256:7c not found: manifest unknown: manifest unknown", GONE),
        ("unknown blob", GONE),
        ("error pulling image configuration: download failed after attempts=1: unknown blob", GONE),
        ("filesystem layer verification failed for digest sha256:db57", GONE),
        ("name unknown: repository name not known to registry", GONE),
        ('failed to resolve reference "r/x@sha256:7c": r/x@sha256:7c: not found', GONE),
        ("failed commit on ref: unexpected commit digest sha256:1, expected sha256:2: failed precondition", GONE),
        ('Get "http://127.0.0.1:5998/v2/": dial tcp 127.0.0.1:5998: connect: connection refused', OTHER),
        ('Get "https://r/v2/": dial tcp: lookup r on 10.0.0.1:53: no such host', OTHER),
        ('Get "https://r/v2/": net/http: request canceled (Client.Timeout exceeded while awaiting headers)', OTHER),
        (
            'Get "https://r/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority',
            OTHER,
        ),
        ("unexpected EOF", OTHER),
        ("received unexpected HTTP status: 503 Service Unavailable", OTHER),
        ("failed to register layer: operation not permitted", OTHER),
        ("", OTHER),
        ('Head "http://r/v2/x/manifests/sha256:0": no basic auth credentials', REFUSED),
        ("unauthorized: authentication required", REFUSED),
        ("pull access denied for r/x, repository does not exist or may require 'docker login': denied", REFUSED),
        ("failed to register layer: write /usr/lib/x: no space left on device", FULL),
    ],
)
def test_what_an_engine_says_of_a_pull_is_told_as_what_it_is(engines: str, said: str) -> None:
    told = sentence_for(engines)
    assert [one for one in (GONE, REFUSED, FULL, OTHER) if one in told] == [said]


@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("\x1b[]0;m\x07\u202e\n"), max_size=2000))
def test_a_strangers_text_is_one_short_line_of_what_can_be_seen(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable()
    assert len(shown) <= 300
    assert len(last_lines(text)) <= 3 * 303


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x00b\rc\u202ed", "a b c d"),
    ],
)
def test_escape_sequences_are_left_out(text: str, shown: str) -> None:
    assert safe(text) == shown


# what answers


@asynccontextmanager
async def port_that(answer: bytes | None) -> AsyncIterator[str]:
    """A server that says this to everybody, or nothing at all."""

    talks: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        with suppress(ConnectionError):
            if answer is None:
                await reader.read()
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/user/ada/api"
        await asyncio.gather(*filter(None, talks))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"HTTP/1.1 200 OK\r\nX-JupyterHub-Version: 5.5.0\r\n\r\n", Answer.HUB_SERVER),
        (b"HTTP/1.1 403 No\r\nx-jupyterhub-version: 1.0\r\n\r\n", Answer.HUB_SERVER),
        (b"HTTP/1.1 302 F\r\nLocation: /hub/api/oauth2/authorize?x=y\r\n\r\n", Answer.HUB_SERVER),
        (b"HTTP/1.1 302 F\r\nLocation: http://169.254.169.254/\r\n\r\n", Answer.SOMETHING_ELSE),
        (b"HTTP/1.1 404 No\r\n\r\n", Answer.SOMETHING_ELSE),
        (b"HTTP/1.1 503 Busy\r\n\r\n", Answer.NOTHING_YET),
        (b"HTTP/1.1 200 OK\r\nX-Y: " + b"z" * 200_000 + b"\r\n\r\n", Answer.NOTHING_YET),
        (b"SSH-2.0-OpenSSH\r\n", Answer.NOTHING_YET),
        (b"", Answer.NOTHING_YET),
        (None, Answer.NOTHING_YET),
    ],
)
async def test_a_hubs_server_is_known_by_the_head_of_its_answer(
    answer: bytes | None, what: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is None:
        monkeypatch.setattr(answers, "ASK_SECONDS", 0.2)
    async with port_that(answer) as url, httpcore.AsyncConnectionPool() as pool:
        assert await ask(pool, url) is what


async def test_where_nothing_listens_there_is_nothing_yet() -> None:
    async with port_that(b"") as url:
        pass
    async with httpcore.AsyncConnectionPool() as pool:
        assert await ask(pool, url) is Answer.NOTHING_YET


# what is removed


class Engine:
    """Answers as docker-py does; what is to go wrong is said before."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.removed: list[str] = []
        self.done = asyncio.Event()

    async def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        assert (method, options) == ("remove_container", {"v": True, "force": True})
        if self.faults:
            raise self.faults.pop(0)
        self.removed.extend(arguments)
        self.done.set()
        return None


def answered(status: int) -> APIError:
    response = requests.Response()
    response.status_code = status
    return (NotFound if status == 404 else APIError)("no", response=response)


@pytest.mark.parametrize("error", [answered(404), answered(409)], ids=["gone", "on its way"])
async def test_what_is_gone_or_going_needs_no_removal(error: APIError) -> None:
    engine = Engine(error)
    await Leftovers().remove(engine, "replay-x")
    assert (engine.faults, engine.removed) == ([], [])


async def test_what_cannot_be_removed_is_tried_again_until_the_engine_has_done_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "AGAIN_SECONDS", 0)
    engine = Engine(ConnectionError("away"), TimeoutError(), answered(500))
    left = Leftovers()
    await left.remove(engine, "replay-x")
    assert engine.removed == []
    await asyncio.wait_for(engine.done.wait(), 5)
    assert engine.removed == ["replay-x"]
