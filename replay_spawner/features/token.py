"""The feature “token”: an access token of the person's for other services, fresh for as long as the session runs.

https://docs.egi.eu/users/dev-env/notebooks/data/ says where EGI's notebooks have it. It is not the login's own token, which
the hub keeps to itself, but one that was obtained for this session.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from traitlets import Unicode

from replay_spawner.features.base import Feature, Given, SessionFile, Token, Unavailable, half_of

FILE = "access_token"
VARIABLE = "REPLAY_ACCESS_TOKEN_FILE"

OBTAIN_SECONDS = 10.0
"""How long a session's start waits for its token. After that it starts without, and gets it later."""

AGAIN_SECONDS = 30.0
"""After a session had to start without: how soon it is tried again."""


class AccessToken(Feature):
    """A file with the token, replaced before that expires; what is left of its tokens is given back at the end."""

    name = "token"
    title = "An access token of yours for other services"
    explanation = (
        "Whatever runs in this session can act in your name at services that accept it, until the session ends."
    )

    folder = Unicode("/var/run/secrets/egi.eu", config=True, help="Where the token's file is in sessions.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._live: dict[str, float] = {}
        """The session's tokens, with when each expires."""

    async def prepare(self) -> Given:
        try:
            async with asyncio.timeout(OBTAIN_SECONDS):
                return self._given(await self._obtain())
        except Unavailable as error:
            if error.is_final:
                return Given(notice=str(error), is_complete=False)
            notice = str(error)
        except TimeoutError:
            notice = "Whoever gives access tokens does not answer."
        again = time.time() + AGAIN_SECONDS
        return Given(files=[self._file(None)], renew_at=again, notice=notice, is_complete=False)

    async def renew(self) -> Given:
        return self._given(await self._obtain())

    async def resume(self, files: Mapping[tuple[str, str], bytes]) -> Given:
        if (kept := files.get((self.folder, FILE))) and (value := kept.decode("ascii", "replace").strip()):
            # When it expires is not known any more; that it is given back later than that does no harm.
            self._live[value] = float("inf")
        return await self.renew()

    async def clean_up(self) -> None:
        tokens, now = self.session.tokens, time.time()
        if tokens is not None:
            for value in [value for value, expires_at in self._live.items() if expires_at > now]:
                await tokens.give_back(value)

    async def _obtain(self) -> Token:
        if self.session.tokens is None:
            raise Unavailable("This hub's login gives none.", is_final=True)
        token = await self.session.tokens.obtain()
        now = time.time()
        # The ones before may be in use at this moment, and are given back at the end, as far as they still live then.
        self._live = {value: until for value, until in self._live.items() if until > now} | {
            token.value: token.expires_at
        }
        return token

    def _given(self, token: Token) -> Given:
        return Given(
            files=[self._file(token.value.encode())],
            renew_at=half_of(token.expires_at),
            notice=f"It is in the file that {VARIABLE} names, and is renewed while the session runs.",
        )

    def _file(self, content: bytes | None) -> SessionFile:
        return SessionFile(self.folder, FILE, content, variable=VARIABLE)
