"""One public example of each kind of repository, built by stock repo2docker from the real hosts. ``REPLAY_TEST_LIVE=1`` only.

Takes a machine with a container engine (``DOCKER_HOST`` or the usual socket) that reaches GitHub, Docker's registry,
conda, CRAN and Julia's servers; some twenty minutes. The images stay in the engine.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.engine import Engine, EngineFault
from replay_build_service.builders.docker.recipe import configured_base_image, pinned_base_image, recipe_of
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.domain import BuildId, BuildJob, ImageName, ResolvedRef, RunnableImage
from replay_build_service.git import list_refs
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules

pytestmark = [pytest.mark.live, pytest.mark.hub_independent, pytest.mark.timeout(3600)]

EXAMPLES = {
    "environment.yml": "binder-examples/conda",
    "requirements.txt": "binder-examples/requirements",
    "Project.toml": "binder-examples/demo-julia",
    "install.R": "binder-examples/r",
    "apt.txt": "binder-examples/apt_install",
    "postBuild": "binder-examples/jupyter-extension",
    # Its binder/start ends with exec "$@". That of binder-examples/tensorboard does not: no session of it would begin.
    "start": "Calysto/octave_kernel",
    # What repo2docker's documentation shows for a version of Python; that of binder-examples/r is for R.
    "runtime.txt": "binder-examples/python2_runtime",
    # binder-examples/minimal-dockerfile installs no jupyterhub; this one, of BinderHub's own tests, does.
    "Dockerfile": "binderhub-ci-repos/minimal-dockerfile",
}
FOLDERS = ("binder", ".binder", ".")
"""Where the file may lie. repo2docker looks at the root where there are no others."""

USES_DOCKERFILE = "Using DockerBuildPack builder"


@pytest.fixture
async def engine() -> str:
    """The machine's own. Who asks for these tests is to have one, so without it they fail."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if (reason := await why_not(host)) is not None:
        pytest.fail(f"{reason} Start an engine, or name another with DOCKER_HOST.", pytrace=False)
    return host


async def why_not(host: str) -> str | None:
    if shutil.which("docker") is None:
        return "These examples are built and run with the command “docker”, which is not here."
    try:
        async with Engine(host) as asked:
            await asked.info()
    except ValueError as error:
        return f"DOCKER_HOST names no container engine: {error}"
    except EngineFault as fault:
        return f"No container engine answers at {host}: {fault.detail}."
    return None


@pytest.mark.parametrize("kind", EXAMPLES)
async def test_a_public_example_of_each_kind_is_built_and_has_a_server_for_sessions(
    kind: str, engine: str, tmp_path: Path
) -> None:
    image, said = await built(kind, engine, tmp_path)
    # As a session is started, through the image's own entrypoint: a “start” that does not exec would print no version.
    version = run(engine, image, "jupyterhub-singleuser", "--version")
    assert re.search(r"^\d+\.\d+\.\d+\S*$", version, re.MULTILINE), version
    # That the example has the file which it is to show: it could have lost it since.
    if kind == "Dockerfile":  # It copies nothing of its repository into the image.
        assert any(line.strip() == USES_DOCKERFILE for line in said), said[:30]
    else:
        files = [f"{folder}/{kind}" for folder in FOLDERS]
        found = run(engine, image, "sh", "-c", 'cd "$REPO_DIR"; for f in "$@"; do test -e "$f" && echo "has $f"; done; :', "sh", *files)  # fmt: skip
        assert re.search(r"^has ", found, re.MULTILINE), f"{EXAMPLES[kind]} has no {kind} any more: {found}"


async def built(kind: str, host: str, folder: Path) -> tuple[str, list[str]]:
    """Where the engine has the image, and the lines of the log."""
    url = f"https://github.com/{EXAMPLES[kind]}"
    rules = OutgoingRules()
    commit = (await list_refs(url, rules)).target("HEAD")
    assert commit is not None
    resolved = ResolvedRef(Repository.of_url(url), RepoSpec("gh", EXAMPLES[kind], "HEAD"), url, commit)
    settings = DockerBuilderSettings(builds_dir=folder, engine=host, time_limit=3000, outgoing=rules)
    async with Engine(host) as engine:
        base = await pinned_base_image(configured_base_image(settings.configuration_file), engine)
        builder = DockerBuilder(
            settings,
            recipe_of("docker", base, settings.configuration_file, settings.build_arguments),
            base,
            engine,
            None,
        )
        job = BuildJob(BuildId(f"live-{kind.replace('.', '-')}"), ImageName.of(resolved, builder.recipe), resolved, builder.recipe)  # fmt: skip
        build = await builder.start(job)
        said = [record.text async for chunk in build.follow(0) for record in chunk.records]
        outcome = await build.outcome()
        assert isinstance(outcome, RunnableImage), (outcome, said[-30:])
    return outcome.location, said


def run(host: str, image: str, *command: str) -> str:
    """What it prints in a container of the image."""
    done = subprocess.run(
        ("docker", "--host", host, "run", "--rm", image, *command), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout
