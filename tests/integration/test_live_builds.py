"""One public example of each kind of repository, built by stock repo2docker from the real hosts. ``REPLAY_TEST_LIVE=1`` only.

Takes a machine with a container engine (``DOCKER_HOST`` or the usual socket) that reaches GitHub, Docker's registry,
conda, CRAN and Julia's servers; some twenty minutes. The images stay in the engine.
"""

import os
import subprocess
from pathlib import Path

import pytest

from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.engine import Engine
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
    "start": "Calysto/octave_kernel",
    "runtime.txt": "binder-examples/r",
    "Dockerfile": "binder-examples/minimal-dockerfile",
}


@pytest.mark.parametrize("kind", EXAMPLES)
async def test_a_public_example_of_each_kind_is_built_and_has_a_server_for_sessions(kind: str, tmp_path: Path) -> None:
    url = f"https://github.com/{EXAMPLES[kind]}"
    rules = OutgoingRules()
    commit = (await list_refs(url, rules)).target("HEAD")
    assert commit is not None
    resolved = ResolvedRef(Repository.of_url(url), RepoSpec("gh", EXAMPLES[kind], "HEAD"), url, commit)
    settings = DockerBuilderSettings(builds_dir=tmp_path, time_limit=3000, outgoing=rules)
    async with Engine(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")) as engine:
        base = await pinned_base_image(configured_base_image(settings), engine)
        builder = DockerBuilder(settings, recipe_of(settings, base), base, engine, None)
        job = BuildJob(BuildId(f"live-{kind.replace('.', '-')}"), ImageName.of(resolved, builder.recipe), resolved, builder.recipe)  # fmt: skip
        build = await builder.start(job)
        said = [record.text async for chunk in build.follow(0) for record in chunk.records]
        outcome = await build.outcome()
        assert isinstance(outcome, RunnableImage), (outcome, said[-30:])
    command = ("docker", "run", "--rm", outcome.location, "jupyterhub-singleuser", "--version")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
