"""A registry that asks for a password: with the right one images go there and are run from there; without, it is told."""

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from demo.git_server import GitServer
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.domain import FailureReason
from tests.containers.builds import Maker, built, dockerfile, failed, job_for, lines
from tests.containers.engine import ContainerEngine
from tests.registry_server import PASSWORD, USER, Login, RegistryServer

pytestmark = [pytest.mark.needs("engine", "registry"), pytest.mark.hub_independent]


@pytest.fixture(scope="module")
def registry_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """In place of the one for anybody."""
    with RegistryServer(tmp_path_factory.mktemp("registry"), login=Login.BASIC) as server:
        yield server


def docker_config(folder: Path, engine: ContainerEngine, host: str, password: str | None) -> Path:
    """A folder as ``docker login`` leaves it."""
    folder.mkdir()
    config = json.loads((engine.config_folder / "config.json").read_text())
    if password is not None:
        config["auths"] = {host: {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def test_an_image_is_pushed_and_pulled_with_the_account_of_docker_login(
    forge: GitServer,
    engine: ContainerEngine,
    settings: DockerBuilderSettings,
    make_builder: Maker,
    registry_server: RegistryServer,
    tmp_path: Path,
) -> None:
    host = registry_server.settings().host
    config = docker_config(tmp_path / "account", engine, host, PASSWORD)
    builder = await make_builder(replace(settings, docker_config=config))
    name = f"a{secrets.token_hex(4)}"
    job = job_for(forge, builder, {"Dockerfile": dockerfile("RUN echo mine > /made"), "notebook": "1"}, name)
    image, log = await built(builder, job)
    assert await builder.exists(image)
    assert PASSWORD not in "".join(lines(log))
    engine.docker("image", "rm", "--force", image.location)
    assert await builder.exists(image), "the registry has it"
    # What is named as a cache is pulled with the same account.
    again = job_for(forge, builder, {"Dockerfile": dockerfile("RUN echo mine > /made"), "notebook": "2"}, name)
    engine.docker("builder", "prune", "--all", "--force")
    _, log = await built(builder, again, [image])
    assert any(line.endswith(" CACHED") for line in lines(log))


@pytest.mark.parametrize("password", [None, "wrong"], ids=["no account", "wrong password"])
async def test_a_registry_that_refuses_the_push_is_told_and_leaves_nothing(
    forge: GitServer,
    engine: ContainerEngine,
    settings: DockerBuilderSettings,
    make_builder: Maker,
    registry_server: RegistryServer,
    tmp_path: Path,
    password: str | None,
) -> None:
    config = docker_config(tmp_path / "account", engine, registry_server.settings().host, password)
    builder = await make_builder(replace(settings, docker_config=config))
    job = job_for(forge, builder, {"Dockerfile": dockerfile("RUN echo mine > /made")})
    failure, log = await failed(builder, job)
    assert failure.reason is FailureReason.REGISTRY, (failure, lines(log)[-20:])
    assert failure.message.startswith("The registry of this site refused the image that was built: "), failure
    await builder.discard(job)
    assert list(settings.builds_dir.iterdir()) == []
    assert engine.docker("image", "ls", "--quiet", builder.full_name(job.image_name)) == ""
