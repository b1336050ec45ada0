"""The Secrets of a session's files: made for its pod, renewed in it, gone with it."""

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.features.base import SessionFile
from replay_spawner.kube.cluster import answer
from replay_spawner.kube.feature_parts import RENEWED, FileFolder, folders_of, secret_labels
from replay_spawner.kube.leftovers import SessionPod

_MOST_TRIES = 5
"""At a change that somebody else makes at the same time."""


class SessionSecrets:
    """Of one session. All raise `ClusterSilent`, and `ApiException` where the cluster refuses."""

    def __init__(self, api: Any, session: SessionPod, home: str, labels: Mapping[str, str] | None = None) -> None:
        self._api = api
        self._session = session
        self._home = home
        self._labels = {**secret_labels(session.launch), **(labels or {})}

    async def make(self, files: Sequence[SessionFile], uid: str) -> None:
        """For a pod that is there and waits for them. No error where they are there already."""
        owner = {"name": self._session.name, "uid": uid}
        for folder in self._secrets(files):
            body = folder.secret_object(self._labels, owner)
            try:
                await answer(self._api.create_namespaced_secret(self._session.namespace, body, _preload_content=False))
            except ApiException as error:
                # Its name is the launch's alone: an answer was lost, or one of an earlier pod of it has to follow the new one.
                if error.status != 409:
                    raise
                await self._changed(folder, {"ownerReferences": body["metadata"]["ownerReferences"]})

    async def renew(self, files: Sequence[SessionFile]) -> None:
        """Put files in the place of those that are there, and have the node bring them into the pod at once."""
        folders = [folder for folder in self._folders(files) if folder.data]
        annotations = {RENEWED: f"{time.time():.3f}"}
        for folder in folders:
            annotations |= folder.annotations
            if folder.is_secret:
                await self._changed(folder, {})
        if folders:
            marked = {"metadata": {"annotations": annotations}}
            await answer(
                self._api.patch_namespaced_pod(
                    self._session.name,
                    self._session.namespace,
                    marked,
                    _content_type="application/merge-patch+json",
                    _preload_content=False,
                )
            )

    async def _changed(self, folder: FileFolder, metadata: Mapping[str, Any]) -> None:
        """Change a Secret as it is now, and no other one: by its resource version. Keys that are not spoken of stay."""
        for tries_left in reversed(range(_MOST_TRIES)):
            version = (await self._read(folder.name))["metadata"]["resourceVersion"]
            change = {"metadata": {**metadata, "resourceVersion": version}, "data": folder.data}
            try:
                await answer(
                    self._api.patch_namespaced_secret(
                        folder.name,
                        self._session.namespace,
                        change,
                        _content_type="application/merge-patch+json",
                        _preload_content=False,
                    )
                )
            except ApiException as error:
                if error.status != 409 or not tries_left:
                    raise
            else:
                return

    async def read(self, files: Sequence[SessionFile]) -> dict[tuple[str, str], bytes]:
        """What there is of the secret ones, by folder and name."""
        found: dict[tuple[str, str], bytes] = {}
        for folder in self._secrets(files):
            data: Mapping[str, str] = (await self._read(folder.name)).get("data") or {}
            for file in folder.files:
                if file.name in data:
                    found[file.folder, file.name] = base64.b64decode(data[file.name])
        return found

    async def _read(self, name: str) -> Mapping[str, Any]:
        return await answer(self._api.read_namespaced_secret(name, self._session.namespace, _preload_content=False))

    def _secrets(self, files: Sequence[SessionFile]) -> list[FileFolder]:
        return [folder for folder in self._folders(files) if folder.is_secret]

    def _folders(self, files: Sequence[SessionFile]) -> list[FileFolder]:
        return folders_of(files, self._session.launch, self._home)
