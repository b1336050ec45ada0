"""What people have at the hub: servers, and tokens that are not over. Read from the hub's database, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jupyterhub import orm
from jupyterhub.utils import utcnow
from sqlalchemy import or_

from replay_auth.stored import HubUser


@dataclass(frozen=True, slots=True)
class Watched:
    """Somebody with servers or tokens."""

    user_id: int
    name: str
    servers: tuple[str, ...]
    """The names of those that run, start or stop; the ordinary one's is empty."""


def people_with_holdings(database: Any, *, of_tokens: bool) -> list[Watched]:
    """Everybody who has a server, or with ``of_tokens`` a token. Raises `SQLAlchemyError`."""
    servers: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    running: Iterable[tuple[int, str, str]] = (
        database.query(orm.User.id, orm.User.name, orm.Spawner.name)
        .join(orm.Spawner, orm.Spawner.user_id == orm.User.id)
        .filter(orm.Spawner.server_id.isnot(None))
    )
    for user_id, name, server in running:
        names[user_id] = name
        servers.setdefault(user_id, []).append(server)
    if of_tokens:
        with_tokens: Iterable[tuple[int, str]] = (
            database.query(orm.User.id, orm.User.name)
            .join(orm.APIToken, orm.APIToken.user_id == orm.User.id)
            .filter(_is_live())
            .distinct()
        )
        names.update((user_id, name) for user_id, name in with_tokens)
    return [Watched(user_id, name, tuple(servers.get(user_id, ()))) for user_id, name in names.items()]


def has_holdings(user: HubUser) -> bool:
    """Whether a person has a server or a token. Raises `SQLAlchemyError`."""
    user_id: int = user.orm_user.id
    servers = user.db.query(orm.Spawner.id).filter(orm.Spawner.user_id == user_id, orm.Spawner.server_id.isnot(None))
    tokens = user.db.query(orm.APIToken.id).filter(orm.APIToken.user_id == user_id, _is_live())
    return servers.first() is not None or tokens.first() is not None


def _is_live() -> Any:
    return or_(orm.APIToken.expires_at.is_(None), orm.APIToken.expires_at > utcnow(with_tz=False))
