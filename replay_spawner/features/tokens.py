"""Access tokens for sessions, from the hub's login where that gives any. The login is known by its methods alone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, Protocol, runtime_checkable

from replay_spawner.features.base import Token, TokenSource, Unavailable


@runtime_checkable
class _Obtaining(Protocol):
    """An authenticator that can; `replay_auth.EGICheckinAuthenticator` is one."""

    async def session_token(self, user: Any) -> Token: ...
    async def end_session_token(self, user: Any, value: str) -> None: ...


@runtime_checkable
class _Told(Protocol):
    """An exception whose text is for the person, and that says whether trying again may help."""

    is_final: bool


class PersonsTokens:
    """Of one person, by one login."""

    _unfinished: ClassVar[set[asyncio.Task[None]]] = set()

    def __init__(self, authenticator: _Obtaining, user: Any) -> None:
        self._authenticator = authenticator
        self._user = user

    async def obtain(self) -> Token:
        """Raises `Unavailable`.

        Once begun it goes on, also where nobody waits any more: what comes back with a token may be the only way to the next.
        A token that nobody takes is given back.
        """
        obtaining = asyncio.ensure_future(self._authenticator.session_token(self._user))
        try:
            return await asyncio.shield(obtaining)
        except asyncio.CancelledError:
            if not obtaining.done():
                self._keep(self._given_back(obtaining))
            raise
        except Exception as error:
            # The login's own classes are not known here: what says whether it is final is told, and the rest goes on as it is.
            if isinstance(error, _Told):
                # Who has to log in again may do so while the session runs.
                raise Unavailable(str(error)) from error
            raise

    async def _given_back(self, obtaining: "asyncio.Future[Token]") -> None:
        await asyncio.wait({obtaining})
        if not obtaining.cancelled() and obtaining.exception() is None:
            await self.give_back(obtaining.result().value)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Until it is done; the hub's end ends it."""
        task = asyncio.get_running_loop().create_task(work, name="a token that nobody takes")
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

    async def give_back(self, value: str) -> None:
        await self._authenticator.end_session_token(self._user, value)


def tokens_of(authenticator: Any, user: Any) -> TokenSource | None:
    """None where the login gives none."""
    return PersonsTokens(authenticator, user) if isinstance(authenticator, _Obtaining) else None
