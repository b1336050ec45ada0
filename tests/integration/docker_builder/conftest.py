"""One engine, one registry and one git server for each file; a builder for each test, which leaves nothing running."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stamina

from demo.git_server import GitServer
from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.outgoing import OutgoingRules
from tests.containers.builds import BASE, Maker, groups, processes_of
from tests.containers.engine import ContainerEngine
from tests.containers.tools import build_variables
from tests.registry_server import RegistryServer


@pytest.fixture(scope="module")
def registry_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def engine(registry_server: RegistryServer) -> Iterator[ContainerEngine]:
    with ContainerEngine() as started:
        started.import_base(BASE)
        yield started


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with GitServer(tmp_path_factory.mktemp("forge")) as server:
        yield server


@pytest.fixture
def settings(
    forge: GitServer, engine: ContainerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> DockerBuilderSettings:
    monkeypatch.setenv("PATH", engine.environment["PATH"])
    return DockerBuilderSettings(
        builds_dir=tmp_path / "images",
        engine=engine.host,
        docker_config=engine.config_folder,
        environment=build_variables(),
        outgoing=OutgoingRules(exempt_origins=frozenset({forge.url})),
        time_limit=120,
    )


@pytest.fixture
async def make_builder(registry_server: RegistryServer) -> AsyncIterator[Maker]:
    maker = Maker(registry_server)
    async with maker.resources:
        yield maker


@pytest.fixture
async def builder(settings: DockerBuilderSettings, make_builder: Maker) -> DockerBuilder:
    return await make_builder(settings)


@pytest.fixture(autouse=True)
async def nothing_left(settings: DockerBuilderSettings) -> AsyncIterator[None]:
    """After the test no process works in the builds' folder, and no control group of a build is left."""
    yield
    async for attempt in stamina.retry_context(on=AssertionError, timeout=15, wait_max=0.1, attempts=None):
        with attempt:
            assert processes_of(settings.builds_dir) == []
            assert groups() == []
