"""From settings to the builder of a cluster: what cannot work is told at the start; images stand on what is pinned."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from replay_build_service.app import ReplayBuildService
from replay_build_service.assembly import UnusableSettings, make_builder
from replay_build_service.assembly.kubernetes import _split_repository
from replay_build_service.builders.kubernetes.builder import KubernetesBuilder
from tests.registry_server import Asked, Reply, ScriptedServer
from tests.unit.test_docker_parts import DIGEST

PINNED = f"base@{DIGEST}"


@pytest.fixture
async def resources() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "x", "user": {"token": "t"}}],
            }
        )
    )
    return str(file)


def settings(file: str, **more: Any) -> ReplayBuildService:
    given = {
        "builder": "kubernetes",
        "kubeconfig": file,
        "build_namespace": "builds",
        "builder_image": f"builder@{DIGEST}",
        "registry": "https://registry.example.org/project",
        "base_image": PINNED,
        **more,
    }
    return ReplayBuildService(**given)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"builder_image": ""}, "needs ReplayBuildService.builder_image"),
        ({"registry": ""}, "needs ReplayBuildService.registry"),
        ({"build_memory_limit": 2**30}, "build_memory_limit cannot be kept by a pod"),
        ({"build_process_limit": 100}, "build_process_limit cannot be kept by a pod"),
        ({"build_namespace": ""}, "build_namespace has to say"),
        ({"kubeconfig": "/no/such/file"}, "Nothing says how the cluster is reached"),
        ({"build_network": "builds"}, "builds know the networks"),
        ({"repo2docker_config": "/no/such/file", "base_image": ""}, "/no/such/file cannot be used"),
    ],
)
async def test_what_cannot_work_is_told_at_the_start(
    tmp_path: Path, resources: AsyncExitStack, kubeconfig: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnusableSettings, match=words):
        await make_builder(settings(kubeconfig, **more), tmp_path, resources)


async def test_what_changes_the_image_is_in_the_recipe(
    tmp_path: Path, resources: AsyncExitStack, kubeconfig: str
) -> None:
    builder = await make_builder(settings(kubeconfig), tmp_path, resources)
    assert isinstance(builder, KubernetesBuilder)
    assert {("base_image", PINNED), ("builder_image", f"builder@{DIGEST}")} <= set(builder.recipe.parameters)
    elsewhere = await make_builder(settings(kubeconfig, build_dns_policy="Default"), tmp_path, resources)
    assert elsewhere.recipe == builder.recipe
    other = await make_builder(settings(kubeconfig, builder_image="builder:2"), tmp_path, resources)
    assert other.recipe != builder.recipe


async def test_a_tag_is_pinned_by_its_registry_and_stays_what_it_was_while_that_is_away(
    tmp_path: Path, kubeconfig: str
) -> None:
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2},
            "layers": [],
        }
    ).encode()
    is_away = False

    def answer(asked: Asked) -> Reply:
        if is_away:
            return Reply(503)
        if asked.target == "/v2/":
            return Reply(200, {"Docker-Distribution-Api-Version": "registry/2.0"}, b"{}")
        return Reply(200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, body)

    async with ScriptedServer(answer) as server, AsyncExitStack() as resources:
        host = server.url.removeprefix("http://")
        chosen = settings(kubeconfig, registry=server.url, base_image=f"{host}/bases/python:3")
        first = await make_builder(chosen, tmp_path, resources)
        (pinned,) = [value for name, value in first.recipe.parameters if name == "base_image"]
        assert pinned.startswith(f"{host}/bases/python@sha256:")
        assert any("/v2/bases/python/manifests/3" in asked.target for asked in server.asked)
        is_away = True
        assert (await make_builder(chosen, tmp_path, resources)).recipe == first.recipe
        with pytest.raises(UnusableSettings):
            await make_builder(
                settings(kubeconfig, registry=server.url, base_image=f"{host}/other:1"), tmp_path, resources
            )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("python", ("registry-1.docker.io", "library/python")),
        ("jupyter/base", ("registry-1.docker.io", "jupyter/base")),
        ("docker.io/library/python", ("registry-1.docker.io", "library/python")),
        ("quay.io/jupyter/base", ("quay.io", "jupyter/base")),
        ("localhost/a", ("localhost", "a")),
        ("10.0.0.1:5000/a/b", ("10.0.0.1:5000", "a/b")),
    ],
)
def test_a_name_without_a_host_is_docker_hubs(name: str, place: tuple[str, str]) -> None:
    assert _split_repository(name) == place
