"""Accounts with the rights that a deployment gives, so that nothing in the tests works by more."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from replay_build_service.doctor.cluster import RIGHTS
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube

Rights = Mapping[str, Sequence[str]]

BUILDS: Rights = RIGHTS
"""The service's, where builds run. The chart's tests hold its Role against the same."""

_ALL = ("get", "watch", "list", "create", "delete")
_ALL_AND_CHANGE = (*_ALL, "patch")
HUB: Rights = {
    **dict.fromkeys(("persistentvolumeclaims", "services"), _ALL),
    **dict.fromkeys(("pods", "secrets"), _ALL_AND_CHANGE),
    "events": ("get", "watch", "list"),
    "pods/log": ("get",),
}
"""The hub's where sessions run: what the Role of Zero to JupyterHub's chart gives, and what ours adds."""


@dataclass(frozen=True)
class Account:
    """Makes accounts of a namespace that may do what is said there, and nothing else anywhere."""

    cluster: AnyCluster
    kube: Kube
    namespace: str
    folder: Path

    def with_rights(self, rights: Rights, elsewhere: Mapping[str, Rights] | None = None) -> Path:
        """A kubeconfig of an account that may do this in the namespace; ``elsewhere``: what it may in others."""
        name = f"replay-{len(list(self.folder.iterdir()))}"
        account = {"namespace": self.namespace, "name": name}
        self.kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        for namespace, allowed in {self.namespace: rights, **(elsewhere or {})}.items():
            self._allow(account, namespace, allowed)
        return self._kubeconfig(name)

    def _allow(self, account: Mapping[str, str], namespace: str, rights: Rights) -> None:
        place = {"namespace": namespace, "name": account["name"]}
        rules = [
            {"apiGroups": [""], "resources": [kind], "verbs": list(verbs)} for kind, verbs in rights.items() if verbs
        ]
        group = "rbac.authorization.k8s.io"
        self.kube.apply(
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": place, "rules": rules},
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": place,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": account["name"]},
                "subjects": [{"kind": "ServiceAccount", **account}],
            },
        )

    def _kubeconfig(self, account: str) -> Path:
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        answer = self.kube.request("POST", path, json=asked).raise_for_status().json()
        told: dict[str, Any] = json.loads(self.cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        told["users"] = [{"name": "account", "user": {"token": answer["status"]["token"]}}]
        told["contexts"][0]["context"]["user"] = "account"
        file = self.folder / f"{account}.kubeconfig"
        file.write_text(yaml.safe_dump(told))
        return file
