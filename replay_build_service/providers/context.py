"""What providers are made with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from replay_build_service.git import GitHttp
from replay_build_service.outgoing import OutgoingRules, Resolver, resolve_host
from replay_build_service.sources.asking import Asker

__all__ = ["ProviderContext"]


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """What every provider is made with."""

    rules: OutgoingRules
    """What may be asked. A provider that asks in another way than ``ask`` does keeps to it itself, by `outgoing.vet`."""
    tasks: asyncio.TaskGroup
    """Owns what a provider does in the background; it ends with the service."""
    ask: Asker
    """For JSON over HTTPS: connections, limits and tokens that all providers share."""
    resolver: Resolver = resolve_host
    clock: Callable[[], float] = time.monotonic
    """Seconds, for what is kept how long."""
    git: GitHttp | None = None
    """For the refs of git repositories, where a `GitProvider` is made: connections and limits that all of them share."""
