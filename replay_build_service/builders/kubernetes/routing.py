"""Which node builds a repository: the one that built it before, for as long as it can. Pure.

Rendezvous hashing (Thaler and Ravishankar 1996): when a node comes or goes, only what falls to it moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any


def node_for(repository: str, nodes: Iterable[str]) -> str | None:
    """The node of this repository among these; ``None`` where there are none."""

    def weight(node: str) -> bytes:
        return hashlib.sha256(f"{node}\0{repository}".encode()).digest()

    return max(set(nodes), key=weight, default=None)


def ready_nodes(engines: Iterable[Mapping[str, Any]]) -> set[str]:
    """Where engines' pods are ready to build."""
    return {
        pod["spec"]["nodeName"]
        for pod in engines
        if pod["spec"].get("nodeName")
        and "deletionTimestamp" not in pod["metadata"]
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in pod["status"].get("conditions") or ()
        )
    }
