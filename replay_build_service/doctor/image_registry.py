"""The registry: a trial image of a few hundred bytes goes in, comes back whole, and is deleted.

With the account that the service has (``docker_config``), from where the service is. The engine's own pushes and pulls,
and those of build pods, have their own ways and may have their own accounts.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from replay_build_service.assembly import UnusableSettings, credentials_of, split_registry
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.verdicts import Verdict, failed, not_known, not_used, ok
from replay_build_service.registry import Registry, RegistryFault, RegistrySettings
from replay_build_service.registry.names import uploads_path
from replay_build_service.settings import ServiceSettings

TRIAL_REPOSITORY = "replay/doctor"
"""Below the site's prefix, where all images of Replay's are, so that the same rights hold for it."""

TRIAL_TAG = "trial"
_ANSWER_SECONDS = 4.0
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIGURATION = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_LAYER_CONTENT = gzip.compress(bytes(1024), mtime=0)
"""The end of an archive that holds nothing."""
_REFUSALS = frozenset({"401", "401, insufficient_scope", "403"})


@dataclass(frozen=True, slots=True)
class _Place:
    """Which registry, where in it, as whom."""

    settings: RegistrySettings
    repository: str
    has_helper: bool
    """The account is kept by a program that the engine's command line alone asks."""

    @property
    def name(self) -> str:
        return f"{self.settings.host}/{self.repository}"


class _NotWhole(Exception):
    """What came back is not what was pushed."""


async def check_registry(deployment: Deployment) -> Verdict:
    """Whether the service's account may push, pull and delete."""
    settings = deployment.settings
    if settings.builder == "venv":
        return not_used("Environments are folders: there is no registry.")
    if not settings.registry and settings.builder == "docker":
        return not_used("Images stay in the container engine: no registry is set.")
    if not settings.registry:
        return failed("There is no registry, and builds in Kubernetes need one.", "Set c.ReplayBuildService.registry.")
    try:
        place = await asyncio.to_thread(_place, settings)
        registry = Registry(place.settings)
    except (UnusableSettings, ValueError, OSError) as error:
        reason = str(error).removesuffix(".")
        return failed(
            f"The registry cannot be asked: {reason}.", "See the registry, docker_config and ca_file settings."
        )
    async with registry:
        try:
            await registry.ping()
        except RegistryFault as fault:
            return _no_registry(place, fault)
        return await _tried(registry, place, in_cluster=settings.builder == "kubernetes", settings=settings)


def _place(settings: ServiceSettings) -> _Place:
    url, prefix = split_registry(settings.registry)
    folder = Path(settings.docker_config) if settings.docker_config else None
    host = urlsplit(url).netloc
    username, password = credentials_of(folder, host)
    known = RegistrySettings(url, username, password, ca_file=settings.ca_file or None, timeout=_ANSWER_SECONDS)
    repository = f"{prefix}/{TRIAL_REPOSITORY}" if prefix else TRIAL_REPOSITORY
    uploads_path(repository)  # Raises `ValueError` where the prefix is none.
    return _Place(known, repository, username is None and _has_helper(folder, host))


def _has_helper(folder: Path | None, host: str) -> bool:
    file = (folder or Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()) / "config.json"
    if not file.exists():
        return False
    told = cast("Mapping[str, object]", json.loads(file.read_text(encoding="utf-8")))
    helpers = told.get("credHelpers")
    return bool(told.get("credsStore")) or (isinstance(helpers, dict) and host in helpers)


def _no_registry(place: _Place, fault: RegistryFault) -> Verdict:
    if fault.detail == "401" and place.has_helper:
        return not_known(
            f"The registry {place.settings.host} wants an account, and a program keeps it that only the engine's command line "
            "asks (credsStore, credHelpers).",
            "See that “docker push” works for the service's account; to let the service ask the registry itself, put an "
            "account into “auths” of docker_config's config.json.",
        )
    return failed(
        f"The registry {place.settings.host} cannot be used{_detail(fault)}: {fault}",
        "See that c.ReplayBuildService.registry is its address, that config.json in docker_config has its account under "
        "exactly that host, and that ca_file has its authority if that is your own.",
    )


async def _tried(registry: Registry, place: _Place, *, in_cluster: bool, settings: ServiceSettings) -> Verdict:
    whose = (
        f" Build pods push with the Secret {settings.build_push_secret or '(none is named)'}, which is not tried here."
        if in_cluster
        else ""
    )
    try:
        digest = await _push(registry, place.repository)
    except RegistryFault as fault:
        if in_cluster and fault.detail in _REFUSALS:
            return not_known(
                f"The registry {place.settings.host} answers; the service's own account may not push.{whose}",
                "See that a build ends well.",
            )
        return failed(
            f"Pushing to {place.name} failed{_detail(fault)}: {fault}",
            "Let the account push there, which may take a project or repository made by hand; see that the registry is not "
            "read only, and its log.",
        )
    try:
        await _pull(registry, place.repository, digest)
    except (RegistryFault, _NotWhole) as fault:
        return failed(
            f"What was pushed to {place.name} could not be pulled{_detail(fault)}: {fault}",
            "Let the account pull there; see the registry's storage and log.",
        )
    verdict = await _deleted(registry, place, digest, whose)
    if in_cluster and await _anybody_may_push(place):
        # Whether steps get there is for the network to say.
        return not_known(
            f"The registry {place.settings.host} takes pushes without an account. If steps of builds reach it, a stranger's can "
            "replace images that are named by tag: the builder's, the service's, the hub's.",
            "Have the registry refuse pushes without an account, and name the images of builder, service and hub by digest.",
        )
    return verdict


async def _anybody_may_push(place: _Place) -> bool:
    """Whether a part of the trial is taken from who says nothing of themselves. No answer is no yes."""
    async with Registry(replace(place.settings, username=None, password=None)) as anybody:
        try:
            await anybody.push_blob(place.repository, _LAYER_CONTENT)
        except RegistryFault:
            return False
    return True


async def _push(registry: Registry, repository: str) -> str:
    """An image of its own, so that neither an earlier trial nor one at the same time is taken for it."""
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"replay.egi.eu/doctor": secrets.token_hex(8)}},
            "rootfs": {"type": "layers", "diff_ids": []},
        }
    ).encode()
    parts = [
        {"mediaType": kind, "digest": await registry.push_blob(repository, content), "size": len(content)}
        for kind, content in ((_CONFIGURATION, configuration), (_LAYER, _LAYER_CONTENT))
    ]
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": parts[0], "layers": parts[1:]}
    return await registry.push_manifest(repository, TRIAL_TAG, json.dumps(manifest).encode(), _MANIFEST)


async def _pull(registry: Registry, repository: str, digest: str) -> None:
    manifest = await registry.manifest(repository, digest)
    if manifest is None or await registry.missing_blobs(repository, manifest):
        raise _NotWhole("Parts of it are not there.")
    await registry.configuration(repository, manifest)


async def _deleted(registry: Registry, place: _Place, digest: str, whose: str) -> Verdict:
    works = f"The registry takes images at {place.name} and gives them back"
    try:
        await registry.delete(place.repository, digest)
    except RegistryFault as fault:
        return ok(
            f"{works}; it deletes none ({fault.detail or 'refused'}), so the trial stays there.{whose}",
            "Replay works without; to have refused images removed, allow deletes in the registry "
            "(REGISTRY_STORAGE_DELETE_ENABLED=true) and to the account.",
        )
    return ok(f"{works}, and deletes them.{whose}")


def _detail(fault: Exception) -> str:
    detail = fault.detail if isinstance(fault, RegistryFault) else ""
    return f" ({detail})" if detail else ""
