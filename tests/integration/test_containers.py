"""The main job with a container engine and a registry: what is built is what runs, once, whatever is killed meanwhile."""

import io
import secrets
import signal
import zipfile
from collections.abc import Callable, Iterator

import psutil
import pytest

from demo.people import ADA
from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG, NOTEBOOK_TAG, ContainerSites, session_container, until
from tests.registry_server import RegistryServer
from tests.site import DEAD_SERVICES_ARE_STARTED_SOON, ApiClient, Repo, Site

pytestmark = [
    pytest.mark.needs("engine", "registry", "proxy", "git-server"),
    pytest.mark.timeout(600),
    pytest.mark.one_hub_version,
]


def notebook_image(registry: RegistryServer, *lines: str) -> str:
    """A Dockerfile on an image that has JupyterLab."""
    return "\n".join([f"FROM {registry.settings().host}/{NOTEBOOK_TAG}", "USER root", *lines, "USER 1000", ""])


def digest_in_registry(registry: RegistryServer, name: str) -> str | None:
    """What the registry itself says of ``host/repository:tag``."""
    repository, _, tag = name.removeprefix(f"{registry.settings().host}/").rpartition(":")
    return registry.digest(repository, tag)


def run_in(engine: ContainerEngine, site: Site, *command: str) -> str:
    container = session_container(engine, site, ADA)
    return engine.docker("exec", container["Id"], *command)


def builds_of(site: Site, repo: Repo) -> list[tuple[str, str]]:
    return site.rows("SELECT status, coalesce(failure_reason, '') FROM builds WHERE repository = ? ORDER BY created_at", repo.url.removesuffix(".git"))  # fmt: skip


class TestWhatRuns:
    @pytest.mark.parametrize("kind", ["Dockerfile", "requirements.txt"])
    def test_the_running_image_is_the_records_is_the_registrys(
        self, container_site: Site, container_engine: ContainerEngine, image_registry: RegistryServer, kind: str
    ) -> None:
        site, value = container_site, secrets.token_hex(8)
        if kind == "Dockerfile":
            files = {"Dockerfile": notebook_image(image_registry, "COPY value /srv/value"), "value": value}
        else:
            marker = '[project]\nname = "marker"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[tool.setuptools]\npy-modules = ["marker"]\n'
            files = {
                "requirements.txt": "six==1.17.0\n./marker\n",
                "marker/pyproject.toml": marker,
                "marker/marker.py": f'VALUE = "{value}"\n',
            }
        repo = site.repository(f"runs-{kind.split('.')[0].lower()}", files)
        folder = f"notes-{kind.split('.')[0].lower()}"
        notes = site.repository(folder, {"a.txt": "notes\n", "sub/b.txt": "below\n", "sub/link": "->b.txt"})
        ada = site.client(ADA)
        launch = ada.launch_and_wait(repo, content=notes.spec)
        try:
            container = session_container(container_engine, site, ADA)
            name = f"{image_registry.settings().host}/{launch['image_name']}"
            digest = digest_in_registry(image_registry, name)
            assert launch["image"] == f"{name.rpartition(':')[0]}@{digest}"
            assert container["Config"]["Image"] == launch["image"]
            assert launch["image"] in container_engine.docker(
                "image", "inspect", "--format", "{{json .RepoDigests}}", container["Image"]
            )
            command = (
                ["cat", "/srv/value"]
                if kind == "Dockerfile"
                else ["bash", "-lc", "python -c 'import marker, six; print(marker.VALUE)'"]
            )
            assert run_in(container_engine, site, *command) == value
            # The files of the second repository are there, too, and the session's own.
            look = f"cd ~/{folder} && echo more >> a.txt && cat a.txt sub/link && stat --format=%u . sub sub/b.txt"
            assert run_in(container_engine, site, "sh", "-c", look).split() == ["notes", "more", "below", *["1000"] * 3]
            assert container["Config"]["Labels"]["replay.egi.eu/content-commit"] == notes.commit
            # What is in it comes down as one archive.
            work = zipfile.ZipFile(io.BytesIO(ada.http.get(f"launches/{launch['id']}/work").content))
            assert kind == "Dockerfile" or "marker/marker.py" in {name.partition("/")[2] for name in work.namelist()}
            host = container["HostConfig"]
            assert (host["Memory"], host["MemoryReservation"], host["Privileged"]) == (4 * 1024**3, 2 * 1024**3, False)
            bindings = [binding for port in host["PortBindings"].values() for binding in port]
            assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
            assert "docker.sock" not in str(container["Mounts"])
        finally:
            site.stop_server(ADA)
        until(
            lambda: not container_engine.docker("ps", "-aq", "--filter", f"id={container['Id']}"),
            "the container is gone",
        )
        if kind != "Dockerfile":
            taken = site.repository("marker", {"marker.py": "VALUE = 'another'\n"})
            assert "repository has a “marker” of its own" in ada.launch_and_fail(repo, content=taken.spec)

    @pytest.mark.parametrize("home", ["/", "/link"])
    def test_the_files_of_a_second_repository_take_no_place_of_the_systems(
        self, container_site: Site, image_registry: RegistryServer, home: str
    ) -> None:
        site = container_site
        name = f"at-{home.strip('/') or 'root'}"
        lines = ("RUN ln -s / /link && useradd --uid 4321 --no-create-home eve", f"ENV HOME={home}", "WORKDIR /tmp")
        repo = site.repository(name, {"Dockerfile": notebook_image(image_registry, *lines) + "USER eve\n"})
        system = site.repository("etc", {"passwd": "eve:x:0:0::/:/bin/sh\n"})
        told = site.client(ADA).launch_and_fail(repo, content=system.spec)
        assert ("no home folder of its own" if home == "/" else "has a “etc” of its own") in told
        assert site.server(ADA) is None

    def test_a_changed_recipe_is_a_new_image_and_the_old_one_still_runs(
        self, new_container_site: Callable[..., Site], container_engine: ContainerEngine, image_registry: RegistryServer
    ) -> None:
        site = new_container_site()
        repo = site.repository("recipe", {"Dockerfile": notebook_image(image_registry, "RUN date +%N > /srv/made")})
        ada = site.client(ADA)
        first = ada.launch_and_wait(repo)
        made = run_in(container_engine, site, "cat", "/srv/made")
        site.stop_server(ADA)
        waiting = site.waiting_launch(ADA, first["id"])
        site.stop()
        host = image_registry.settings().host
        container_engine.build(f"{host}/other-base:1", f"FROM {host}/{BASE_TAG}\nLABEL other=yes\n")
        site.settings["BASE_IMAGE"] = f"{host}/other-base:1"
        site.start()
        assert site.ask_for_server(ADA, {"launch": waiting}).status_code in {201, 202}
        until(lambda: (site.server(ADA) or {}).get("ready") is True, "the old image runs")
        assert run_in(container_engine, site, "cat", "/srv/made") == made
        site.stop_server(ADA)
        second = ada.launch_and_wait(repo)
        assert second["image_name"] != first["image_name"]
        assert second["version"] == first["version"]
        assert len(builds_of(site, repo)) == 2


@pytest.fixture
def lasting_site(new_container_site: Callable[..., Site]) -> Site:
    return new_container_site(extra_config=DEAD_SERVICES_ARE_STARTED_SOON)


def follow_until(ada: ApiClient, launch_id: str, is_it: Callable[[dict[str, str]], bool]) -> None:
    """Until an event is that one; fails where it does not come."""
    seen = []
    for _, event in ada.events(launch_id):
        seen.append(event["message"])
        if is_it(event):
            return
    raise AssertionError("\n".join(seen[-20:]))


def says(text: str) -> Callable[[dict[str, str]], bool]:
    return lambda event: event["kind"] == "line" and event["message"].endswith(f" {text}")


def is_pushing(event: dict[str, str]) -> bool:
    return event["phase"] == "pushing"


def kill_service(site: Site) -> None:
    killed = site.service_process()
    killed.kill()
    until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, "the service is dead")
    site.until_it_answers(f"{site.url}/services/replay/health")


def registry_process(registry: RegistryServer) -> psutil.Process:
    (found,) = [
        process
        for process in psutil.process_iter()
        if process.name() == "docker-registry" and str(registry.folder) in " ".join(process.cmdline())
    ]
    return found


class TestWhatIsKilled:
    def test_kill_9_of_the_service_in_mid_build(self, lasting_site: Site, image_registry: RegistryServer) -> None:
        site = lasting_site
        repo = site.repository("mid-build", {"Dockerfile": notebook_image(image_registry, "RUN echo ready; sleep 6; echo on; :")})  # fmt: skip
        ada = site.client(ADA)
        launch = ada.launch(repo).json()["id"]
        follow_until(ada, launch, says("ready"))
        kill_service(site)
        follow_until(ada, launch, lambda event: event["phase"] == "ready")
        assert builds_of(site, repo) == [("succeeded", "")]
        messages = [event["message"] for _, event in ada.events(launch)]
        assert len([text for text in messages if text.endswith(" ready")]) == 1
        assert len([text for text in messages if text.endswith(" on")]) == 1
        site.stop_server(ADA)

    def test_kill_9_of_the_service_in_mid_push(self, lasting_site: Site, image_registry: RegistryServer) -> None:
        site = lasting_site
        repo = site.repository("mid-push", {"Dockerfile": notebook_image(image_registry, "RUN echo ready; sleep 2; date > /srv/x; :")})  # fmt: skip
        ada = site.client(ADA)
        launch = ada.launch(repo).json()["id"]
        follow_until(ada, launch, says("ready"))
        registry = registry_process(image_registry)
        registry.suspend()
        try:
            follow_until(ada, launch, is_pushing)
            kill_service(site)
            assert builds_of(site, repo) == [("running", "")], "it waits for the registry"
        finally:
            registry.resume()
        follow_until(ada, launch, lambda event: event["phase"] == "ready")
        assert builds_of(site, repo) == [("succeeded", "")]
        image = ada.get(launch)["image"]
        name = f"{image_registry.settings().host}/{ada.get(launch)['image_name']}"
        assert image.rpartition("@")[2] == digest_in_registry(image_registry, name)
        site.stop_server(ADA)


@pytest.fixture
def own_engine(image_registry: RegistryServer, container_engine: ContainerEngine) -> Iterator[ContainerEngine]:
    """An engine that a test may stop and kill."""
    with ContainerEngine() as engine:
        yield engine


class TestWhatGoesAway:
    def test_the_registry_refuses_the_push_and_then_takes_it(
        self, container_site: Site, container_engine: ContainerEngine, image_registry: RegistryServer
    ) -> None:
        site = container_site
        repo = site.repository("refused", {"Dockerfile": notebook_image(image_registry, "RUN echo ready; sleep 3; date > /srv/y; :")})  # fmt: skip
        ada = site.client(ADA)
        launch = ada.launch(repo).json()["id"]
        follow_until(ada, launch, says("ready"))
        with image_registry.that_cannot_store():
            failed = ada.failure_of(launch)
        assert "registry of this site" in failed, failed
        assert builds_of(site, repo) == [("failed", "registry")]
        assert list((site.state / "images").iterdir()) == []
        ada.launch_and_wait(repo)
        site.stop_server(ADA)

    def test_an_engine_that_stops_in_mid_build_and_in_mid_session(
        self, new_site: Callable[..., Site], own_engine: ContainerEngine, image_registry: RegistryServer
    ) -> None:
        engine = own_engine
        host = image_registry.settings().host
        site = ContainerSites(engine, image_registry).start(new_site)
        ada = site.client(ADA)
        finished = site.repository("finished", {"Dockerfile": notebook_image(image_registry)})
        first = ada.launch_and_wait(finished)
        site.stop_server(ADA)
        # in mid-build
        repo = site.repository("stops", {"Dockerfile": notebook_image(image_registry, "RUN echo ready; sleep 600; :")})
        launch = ada.launch(repo).json()["id"]
        follow_until(ada, launch, says("ready"))
        engine.stop()
        assert "container engine" in ada.failure_of(launch)
        assert builds_of(site, repo) == [("failed", "engine")]
        # What is built is told of while the engine is away, and not built again.
        refused = ada.launch_and_fail(finished)
        assert "engine" in refused, refused
        engine.start()
        again = ada.launch_and_wait(finished)
        assert again["image"] == first["image"]
        assert builds_of(site, finished) == [("succeeded", "")]
        site.stop_server(ADA)
        # killed in mid-push
        pushed = site.repository("stops-pushing", {"Dockerfile": notebook_image(image_registry, "RUN echo ready; sleep 3; date > /srv/p; :")})  # fmt: skip
        launch = ada.launch(pushed).json()["id"]
        follow_until(ada, launch, says("ready"))
        registry = registry_process(image_registry)
        registry.suspend()
        try:
            follow_until(ada, launch, is_pushing)
            engine.stop(signal_number=signal.SIGKILL)
            assert "container engine" in ada.failure_of(launch)
        finally:
            registry.resume()
        assert builds_of(site, pushed) == [("failed", "engine")]
        assert list((site.state / "images").iterdir()) != [], "the engine cannot be asked to forget it yet"
        engine.start()
        ada.launch_and_wait(pushed)
        assert builds_of(site, pushed) == [("failed", "engine"), ("succeeded", "")]
        site.stop_server(ADA)
        assert ada.launch_and_wait(finished)["image"] == first["image"]
        # in mid-session
        container = session_container(engine, site, ADA)
        engine.stop()
        engine.start()
        until(lambda: site.server(ADA) is None, "the hub has noticed that the session is gone", 120)
        until(lambda: not engine.docker("ps", "-aq", "--filter", f"id={container['Id']}"), "its container is gone")
        assert ada.launch_and_wait(finished)["image"] == first["image"]
        site.stop_server(ADA)
        assert host in first["image"]

    @pytest.mark.parametrize("damage", ["gone", "corrupt"])
    def test_an_image_of_which_the_registry_lost_a_part_is_told_and_where_possible_built_again(
        self, container_site: Site, container_engine: ContainerEngine, image_registry: RegistryServer, damage: str
    ) -> None:
        site = container_site
        repo = site.repository(f"lost-{damage}", {"Dockerfile": notebook_image(image_registry, f"RUN echo {damage}; head -c 5000 /dev/urandom > /srv/z")})  # fmt: skip
        ada = site.client(ADA)
        first = ada.launch_and_wait(repo)
        site.stop_server(ADA)
        if damage == "gone":
            image_registry.last_layer_file(first["image"]).unlink()
        else:
            image_registry.corrupt_last_layer(first["image"])
        forget(container_engine, image_registry, first)
        said = ada.launch_and_fail(repo)
        assert "registry" in said, said
        assert [one for one in container_engine.containers() if first["image"] in str(one)] == []
        if damage == "corrupt":
            # A push does not replace what the registry believes to have: the sentence sends people to the administrators.
            assert "administrators" in ada.launch_and_fail(repo)
            return
        again = ada.launch_and_wait(repo)
        assert again["image_name"] == first["image_name"]
        assert builds_of(site, repo) == [("succeeded", ""), ("succeeded", "")]
        site.stop_server(ADA)


def forget(engine: ContainerEngine, registry: RegistryServer, launch: dict[str, str]) -> None:
    """The engine no longer has the image, as on another machine."""
    engine.docker("image", "rm", "--force", launch["image"], check=False)
    engine.docker("image", "rm", "--force", f"{registry.settings().host}/{launch['image_name']}", check=False)
    engine.docker("builder", "prune", "--all", "--force")
    assert engine.docker("image", "inspect", launch["image"], check=False) in {"", "[]"}
