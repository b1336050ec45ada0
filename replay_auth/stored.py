"""A person's auth state in the hub's database, read as it is now and changed only from what was read.

JupyterHub keeps what it once read for as long as it runs, and writes without looking. Here another process may have the
same database (a hub and its successor at a restart), and a login may come at any time: what is written replaces exactly
what was read, or nothing. This room knows no provider and decides nothing about anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Protocol, cast

from cryptography.fernet import InvalidToken
from jupyterhub import orm
from jupyterhub.crypto import EncryptionUnavailable, decrypt, encrypt
from jupyterhub.roles import assign_default_roles
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from replay_auth.notes import Notes

_log = getLogger(__name__)

_MOST_TRIES = 10
"""At one change: somebody else would have to change the same person's state each time in between."""


class HubUser(Protocol):
    """As much of JupyterHub's user as is needed here."""

    name: str
    admin: bool
    db: Any
    orm_user: Any

    def sync_groups(self, group_names: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """One person's auth state as it was read."""

    encrypted: bytes | None
    state: Mapping[str, Any] | None
    """None: nothing is kept, or it cannot be read with the hub's keys."""

    @property
    def notes(self) -> Notes:
        return Notes.of(self.state)

    def text(self, name: str) -> str:
        """A token, or the like; empty where there is none."""
        value = (self.state or {}).get(name)
        return value if isinstance(value, str) else ""


Change = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""From an auth state to the one that replaces it, or to None where it has become another that is not to be changed."""


class AuthStates(Protocol):
    """Where auth states are kept."""

    async def read(self, user: HubUser) -> Stored: ...
    async def change(self, user: HubUser, stored: Stored, change: Change) -> Stored | None: ...


class HubAuthStates:
    """The hub's own database."""

    async def read(self, user: HubUser) -> Stored:
        """As it is in the database at this moment, whatever the hub remembers of it."""
        stored, was_cancelled = await self._read(user)
        if was_cancelled:
            raise asyncio.CancelledError
        return stored

    async def _read(self, user: HubUser) -> tuple[Stored, bool]:
        encrypted: bytes | None = (
            user.db.query(orm.User.encrypted_auth_state).filter(orm.User.id == user.orm_user.id).scalar()
        )
        # So that JupyterHub's own get_auth_state agrees.
        user.db.expire(user.orm_user, ["encrypted_auth_state"])
        state, was_cancelled = await _decrypted(encrypted, user.name)
        return Stored(encrypted, state), was_cancelled

    async def change(self, user: HubUser, stored: Stored, change: Change) -> Stored | None:
        """Apply a change to what was read, or to what somebody else has made of it since; None where that says no.

        Once begun it is finished, also where the task is cancelled: what is written may be the only copy of a token.
        """
        was_cancelled = False
        try:
            for _ in range(_MOST_TRIES):
                wanted = None if stored.state is None else change(stored.state)
                if wanted is None:
                    return None
                encrypted, cancelled = await _finished(encrypt(wanted))
                was_cancelled |= cancelled
                if self._replaced(user, stored.encrypted, encrypted):
                    return Stored(encrypted, wanted)
                stored, cancelled = await self._read(user)
                was_cancelled |= cancelled
            raise RuntimeError(f"The auth state of {user.name} changes all the time.")
        finally:
            if was_cancelled:
                raise asyncio.CancelledError

    def _replaced(self, user: HubUser, expected: bytes | None, encrypted: bytes) -> bool:
        statement = (
            update(orm.User)
            .where(orm.User.id == user.orm_user.id, orm.User.encrypted_auth_state == expected)
            .values(encrypted_auth_state=encrypted)
            .execution_options(synchronize_session=False)
        )
        try:
            changed = user.db.execute(statement).rowcount
            user.db.commit()
        except SQLAlchemyError:
            user.db.rollback()
            raise
        user.db.expire(user.orm_user, ["encrypted_auth_state"])
        return changed == 1


async def _decrypted(encrypted: bytes | None, name: str) -> tuple[Mapping[str, Any] | None, bool]:
    if encrypted is None:
        return None, False
    try:
        state, was_cancelled = await _finished(decrypt(encrypted))
    except (ValueError, InvalidToken, EncryptionUnavailable) as error:
        _log.warning("The auth state of %s cannot be read: %s", name, str(error) or type(error).__name__)
        return None, False
    return cast("Mapping[str, Any]", state) if isinstance(state, dict) else None, was_cancelled


async def _finished(work: Awaitable[Any]) -> tuple[Any, bool]:
    """The result of what a thread does, and whether this task was cancelled meanwhile.

    It is a future and no task: a hub that ends cancels every task there is.
    """
    future = asyncio.ensure_future(work)
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            was_cancelled = True
    return future.result(), was_cancelled


def give_groups(user: HubUser, groups: list[str] | None, admin: bool | None) -> None:
    """Make a person's hub groups and standing what the provider's answer says; None leaves them as they are."""
    try:
        _give_groups(user, groups, admin)
    except IntegrityError:
        # Another process did the same in this very moment.
        user.db.rollback()
        _give_groups(user, groups, admin)


def _give_groups(user: HubUser, groups: list[str] | None, admin: bool | None) -> None:
    if groups is not None:
        # What the hub remembers of them may be older than what another process has made of them.
        user.db.expire(user.orm_user, ["groups"])
        user.sync_groups(groups)
    if admin is not None and bool(user.admin) != admin:
        user.admin = admin
        assign_default_roles(user.db, entity=user.orm_user)
    user.db.commit()
