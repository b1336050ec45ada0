"""Access tokens for sessions, from the hub's login where that gives any. The login is known by its methods alone."""

from typing import Any, Protocol, runtime_checkable

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

    def __init__(self, authenticator: _Obtaining, user: Any) -> None:
        self._authenticator = authenticator
        self._user = user

    async def obtain(self) -> Token:
        """Raises `Unavailable`."""
        try:
            return await self._authenticator.session_token(self._user)
        except Exception as error:
            if isinstance(error, _Told):
                # Who has to log in again may do so while the session runs.
                raise Unavailable(str(error)) from error
            raise

    async def give_back(self, value: str) -> None:
        await self._authenticator.end_session_token(self._user, value)


def tokens_of(authenticator: Any, user: Any) -> TokenSource | None:
    """None where the login gives none."""
    return PersonsTokens(authenticator, user) if isinstance(authenticator, _Obtaining) else None
