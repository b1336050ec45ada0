"""Which earlier images a build takes over from: the newest, and those that have what it lacks."""

import base64
import json
from pathlib import Path
from typing import cast

import pytest

from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.engine import Engine
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.domain import (
    BuildId,
    BuildJob,
    BuildRecipe,
    ImageConfiguration,
    ImageName,
    InlineCache,
    ResolvedRef,
    RunnableImage,
)
from replay_build_service.errors import SourceFault
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.registry.inline_cache import parse_inline_cache

pytestmark = pytest.mark.hub_independent


def configuration(layers: str, told: object) -> bytes:
    """An image's, with a letter for each layer, and the records of BuildKit's."""
    cache = base64.b64encode(json.dumps(told).encode()).decode()
    return json.dumps({"rootfs": {"diff_ids": list(layers)}, "moby.buildkit.cache.v0": cache}).encode()


def made(*layers: int) -> list[dict[str, object]]:
    return [
        {"digest": "sha256:x"},
        *({"layers": [{"layer": one, "createdAt": "then"}], "inputs": []} for one in layers),
    ]


def test_layers_are_known_with_all_that_is_below_them() -> None:
    ours, others = (
        parse_inline_cache(configuration("abc", made(1, 2))),
        parse_inline_cache(configuration("xbc", made(1))),
    )
    assert [name in ours.reusable for name in ours.chain] == [False, True, True]
    assert not set(ours.chain) & set(others.chain)
    assert parse_inline_cache(configuration("abd", made())).chain[:2] == ours.chain[:2]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b"no JSON", b'{"moby.buildkit.cache.v0": "no base64!"}', b'{"moby.buildkit.cache.v0": 1}',
        configuration("ab", {"no": "list"}), configuration("ab", [1]), configuration("ab", made(-1, 7)),
        configuration("ab", [{"layers": [{"layer": "first"}]}]),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_no_cache(text: bytes) -> None:
    assert parse_inline_cache(text).reusable == frozenset()


class Told:
    """A registry that knows what each image can give."""

    host = "registry"

    def __init__(self, caches: dict[str, InlineCache | None]) -> None:
        self.caches = caches

    async def inline_cache(self, repository: str, digest: str) -> InlineCache | None:
        if digest not in self.caches:
            raise SourceFault("The registry does not answer.")
        return self.caches[digest]

    async def exists(self, repository: str, reference: str) -> bool:
        raise AssertionError("nobody asks")

    async def is_whole(self, repository: str, digest: str) -> bool:
        raise AssertionError("nobody asks")

    async def image_configuration(self, repository: str, digest: str) -> ImageConfiguration | None:
        raise AssertionError("nobody asks")

    async def delete(self, repository: str, digest: str) -> bool:
        raise AssertionError("nobody asks")


def cache(layers: str, *reusable: int) -> InlineCache:
    return parse_inline_cache(configuration(layers, made(*reusable)))


@pytest.mark.parametrize(
    ("caches", "chosen"),
    [
        ({}, []),
        ({"new": cache("base1", 1)}, ["new"]),
        # “new” took the environment (e) over from an engine that had it from “first”.
        ({"new": cache("bez", 2), "middle": cache("bey", 2), "first": cache("bex", 1, 2)}, ["new", "first"]),
        ({"new": cache("bez", 1, 2), "first": cache("bex", 1, 2)}, ["new"]),
        # Another environment has nothing to give.
        ({"new": cache("bez", 1, 2), "first": cache("bfx", 1, 2)}, ["new"]),
        ({"gone": None, "new": cache("bez", 1, 2)}, ["new"]),
    ],
    ids=["none", "one", "took over", "made itself", "another environment", "gone"],
)
async def test_the_newest_image_and_those_that_have_what_it_lacks_are_caches(
    tmp_path: Path, caches: dict[str, InlineCache | None], chosen: list[str]
) -> None:
    builder = DockerBuilder(
        DockerBuilderSettings(builds_dir=tmp_path), BuildRecipe("docker"), "base", cast(Engine, _Engine()), Told(caches)
    )
    images = [RunnableImage(f"registry/a@{name}", f"registry/a@{name}") for name in ["faulty", *caches]]
    others = [RunnableImage("elsewhere/a@new", "elsewhere/a@new"), RunnableImage("engine@new", "new")]
    instructions = await builder._instructions(job(builder), [*others, *images])
    assert instructions.cache_from == [f"registry/a@{name}" for name in chosen]


class _Engine:
    host = "tcp://nowhere:1"


def job(builder: DockerBuilder) -> BuildJob:
    resolved = ResolvedRef(
        Repository.of_url("https://x/a"), RepoSpec("git", "https://x/a", "HEAD"), "https://x/a", "c" * 40
    )
    return BuildJob(BuildId("b"), ImageName.of(resolved, builder.recipe), resolved, builder.recipe)
