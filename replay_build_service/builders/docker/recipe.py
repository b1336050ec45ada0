"""What makes an image of this builder what it is, beside the repository's commit: the recipe, with its base by digest."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from traitlets.config.loader import PyFileConfigLoader

from replay_build_service.builders.docker.engine import Engine
from replay_build_service.domain import BuildRecipe
from replay_build_service.errors import SourceFault

FORMAT = "1"
"""Changes when the same inputs make another image because this code changed."""

PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")

_BUILDPACKS = Path(__file__).resolve().parents[2] / "buildpacks"
"""Not imported: they are loaded by repo2docker's process, and need what only that has."""

_LOCAL_NAME = "replay-base"
"""The engine's own name for a base image that is in no registry; its tag is its id."""

_CHANGES_NOTHING = re.compile(r"(https?|ftp|no|all)_proxy|.*_TIMEOUT", re.IGNORECASE)
"""Variables that say how something is reached and not what it is."""


def configured_base_image(configuration_file: Path | None) -> str:
    """The base image's name: what repo2docker's configuration file says, or its own default.

    Raises whatever the administrator's file raises.
    """
    if configuration_file is not None:
        file = configuration_file.resolve()
        loaded = cast("dict[str, Any]", PyFileConfigLoader(file.name, path=str(file.parent)).load_config())
        if "base_image" in loaded.get("Repo2Docker", {}):
            return str(loaded["Repo2Docker"]["base_image"])
    from repo2docker.app import Repo2Docker  # Takes half a second.

    return str(cast("Any", Repo2Docker).base_image.default_value)


async def pinned_base_image(name: str, engine: Engine) -> str:
    """The same image under a name that always means the same: ``repository@sha256:…``, or the engine's own.

    What the engine has comes first: it changes when somebody pulls, and not by itself. Raises `SourceFault` where the
    image cannot be had, or the engine does not answer.
    """
    if PINNED.fullmatch(name):
        return name
    image = await engine.image(name)
    repository = re.sub(r":[^:/]+$", "", name)
    if image is None:
        digest = await engine.registry_digest(name)
        if digest is None:
            raise SourceFault(
                f"The base image {name} is neither in the container engine nor in a registry that it can ask. "
                "Name another, or pull it first."
            )
        return f"{repository}@{digest}"
    of_its_registry = [digest for digest in image.digests if digest.rpartition("@")[0] == repository]
    if of_its_registry or image.digests:
        return (of_its_registry or list(image.digests))[0]
    tag = image.id.removeprefix("sha256:")
    await engine.tag(image.id, _LOCAL_NAME, tag)
    return f"{_LOCAL_NAME}:{tag}"


def recipe_of(
    builder: str,
    base_image: str,
    configuration_file: Path | None,
    build_arguments: Mapping[str, str],
    **more: str,
) -> BuildRecipe:
    """``base_image``: pinned; ``more``: what else changes the image. Reads the file and our buildpacks. Raises `OSError`."""
    configuration = configuration_file.read_bytes() if configuration_file else b""
    parameters = {
        "format": FORMAT,
        "repo2docker": version("jupyter-repo2docker"),
        "base_image": base_image,
        "configuration": hashlib.sha256(configuration).hexdigest(),
        "buildpacks": _digest_of_sources(_BUILDPACKS),
        "build_arguments": _digest_of_arguments(build_arguments),
        "platform": platform.machine(),
        **more,
    }
    return BuildRecipe(builder, tuple(sorted(parameters.items())))


def _digest_of_sources(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _digest_of_arguments(environment: Mapping[str, str]) -> str:
    telling = sorted((name, value) for name, value in environment.items() if not _CHANGES_NOTHING.fullmatch(name))
    return hashlib.sha256(repr(telling).encode()).hexdigest()
