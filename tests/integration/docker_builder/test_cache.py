"""A commit with the same environment builds none of it again: where it was built, and where only the registry is."""

import secrets
from collections.abc import Mapping
from dataclasses import replace

import pytest

from demo.git_server import GitServer
from replay_build_service.builders.base import LogRecord
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from tests.containers.builds import Maker, built, job_for, lines
from tests.containers.engine import ContainerEngine
from tests.containers.site import repo2docker_configuration
from tests.registry_server import RegistryServer

pytestmark = [pytest.mark.needs("engine", "registry"), pytest.mark.hub_independent, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def base(engine: ContainerEngine, registry_server: RegistryServer) -> str:
    """The base image, where any engine can have it."""
    name = f"{registry_server.settings().host}/base:1"
    engine.import_base(name)
    engine.docker("push", "--quiet", name)
    return name


ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "Dockerfile": {
        "Dockerfile": "FROM BASE\nRUN head -c 20 /dev/urandom | od -x > /made\nCOPY . /src\nWORKDIR /src\nUSER 1000\n"
    },
    # What is made of it differs from build to build, too: the times at which files were installed.
    "requirements.txt": {"requirements.txt": "six==1.17.0\n", "apt.txt": "hello\n"},
}
MADE = {
    "Dockerfile": "cat /made",
    "requirements.txt": "find /srv/venv -name six.py -printf '%T@'; stat -c %y /usr/bin/hello",
}
"""What tells one making of the environment from another."""


@pytest.mark.parametrize("kind", ENVIRONMENTS)
async def test_a_commit_that_changes_contents_runs_no_step_of_the_environment(
    forge: GitServer,
    engine: ContainerEngine,
    settings: DockerBuilderSettings,
    make_builder: Maker,
    base: str,
    kind: str,
) -> None:
    configuration = settings.builds_dir.parent / "repo2docker_config.py"
    configuration.write_text(repo2docker_configuration(base))
    # With limits, as sites have them: the control group of a build must not make its steps others.
    limits = {"memory_limit": 8_000_000_000, "process_limit": 5000}
    settings = replace(settings, base_image=base, configuration_file=configuration, time_limit=500, **limits)
    name = f"c{secrets.token_hex(4)}"
    environment = {file: text.replace("BASE", base) for file, text in ENVIRONMENTS[kind].items()}

    def contents(number: int) -> dict[str, str]:
        return {**environment, "notebook": str(number)}

    builder = await make_builder(settings)
    first, log = await built(builder, job_for(forge, builder, contents(1), name))
    assert False in cached(log)
    made = engine.docker("run", "--rm", first.location, "bash", "-c", MADE[kind])
    assert made
    second, log = await built(builder, job_for(forge, builder, contents(2), name), [first])
    assert set(cached(log)) == {True}
    images = [second, first]
    for number in (3, 4):
        # One after the other, so that what was taken over from the registry is taken over from there once more.
        with ContainerEngine(with_network=False) as empty:
            own = replace(settings, engine=empty.host, docker_config=empty.config_folder)
            elsewhere = await make_builder(own)
            image, log = await built(elsewhere, job_for(forge, elsewhere, contents(number), name), images)
            assert set(cached(log)) == {True}
        images.insert(0, image)
    for image, number in ((second, 2), (images[0], 4)):
        told = engine.docker("run", "--rm", image.location, "bash", "-c", f"cat notebook; {MADE[kind]}")
        assert told == f"{number}{made}"


PLANTED = (
    "FROM BASE AS planting\nRUN --mount=type=cache,id=shared,target=/cache echo planted > /cache/who && touch /done\n"
)
TAKEN = (
    "FROM BASE\nCOPY FROM_PLANTING done /done\n"
    "RUN --mount=type=cache,id=shared,target=/cache cat /cache/who > /made || echo clean > /made\nUSER 1000\n"
)
"""The same steps in two repositories: for BuildKit alone they are one, whatever the one found in its cache."""


async def test_what_a_repository_puts_into_a_cache_reaches_no_other(
    forge: GitServer, engine: ContainerEngine, settings: DockerBuilderSettings, make_builder: Maker, base: str
) -> None:
    builder = await make_builder(replace(settings, base_image=base))
    malicious = (PLANTED + TAKEN).replace("BASE", base).replace("FROM_PLANTING", "--from=planting")
    first, _ = await built(builder, job_for(forge, builder, {"Dockerfile": malicious}))
    assert engine.docker("run", "--rm", first.location, "cat", "/made") == "planted"
    victim = TAKEN.replace("BASE", base).replace("FROM_PLANTING ", "")
    second, _ = await built(builder, job_for(forge, builder, {"Dockerfile": victim, "done": ""}))
    assert engine.docker("run", "--rm", second.location, "cat", "/made") == "clean"


def cached(log: list[LogRecord]) -> list[bool]:
    """For each RUN in BuildKit's plain progress, whether it was taken from a cache instead of run."""
    texts = lines(log)
    steps = {text.split(" ")[0] for text in texts if "] RUN " in text and text.startswith("#")}
    return [f"{step} CACHED" in texts for step in sorted(steps)]
