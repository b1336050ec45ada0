"""Questions to an archive's API: JSON over HTTPS, kept to the rules of what may be asked, to a size, a time and the archive's own limits.

An archive that says how many requests it still takes (``RateLimit-Remaining``, ``X-RateLimit-Remaining``) or that it takes none for a while
(429, 503 with ``Retry-After``, https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3) is believed: until then it is not asked again, and
people are told when it will be.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urljoin

import httpx
import stamina
from pydantic import BaseModel, ValidationError

from replay_build_service.errors import BadLink, OriginRefused, RepositoryNotFound, SourceFault
from replay_build_service.outgoing import Origin, OutgoingRules, Resolver, admit, resolve_host
from replay_build_service.outgoing_http import PACKED, TooLongAnswer, UnreadableAnswer, guarded_client, read_bounded

__all__ = ["MAX_ANSWER", "Asker", "RateLimits"]

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer that are read: the lists of some forty thousand files."""
ANSWER_SECONDS = 20.0
"""For one answer, whole."""
ATTEMPTS = 3
MAX_REDIRECTS = 5
LONGEST_PAUSE = 3600.0
"""Seconds for which an archive's word that it takes no requests is believed."""
SHORT_PAUSE = 2.0
"""Seconds that a question waits for an archive to take requests again, before people are told."""

_Model = TypeVar("_Model", bound=BaseModel)


class _Unwell(Exception):
    """Worth asking again."""


class RateLimits:
    """Until when which host is not asked, as it has said itself. One for all that ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self.remaining: dict[str, int] = {}
        """How many more requests each host takes, as it last said."""

    def seconds_left(self, host: str) -> float:
        """Until that host may be asked again; 0 where it may be."""
        return max(0.0, self._until.get(host, 0.0) - self._clock())

    def note(self, host: str, response: httpx.Response) -> None:
        """What an answer says of the requests that its host takes."""
        headers = response.headers
        left = _number(headers.get("RateLimit-Remaining") or headers.get("X-RateLimit-Remaining"))
        if left is not None:
            self.remaining[host] = int(left)
        if response.status_code in {429, 503} or (response.status_code == 403 and left == 0):
            pause = _pause(headers) or (SHORT_PAUSE if response.status_code == 503 else 60.0)
        elif left == 0:
            pause = _pause(headers) or 1.0
        else:
            return
        # What was on its way when the host said so says less than that.
        self._until[host] = max(self._until.get(host, 0.0), self._clock() + min(pause, LONGEST_PAUSE))


class Asker:
    """Asks archives. An asynchronous context manager, which ends its connections.

    ``tokens``: by host, ``host:port`` where that is not HTTPS's, what is sent as ``Authorization: Bearer`` there and nowhere else.
    """

    def __init__(
        self,
        rules: OutgoingRules,
        *,
        limits: RateLimits | None = None,
        resolver: Resolver = resolve_host,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.limits = limits or RateLimits()
        self._rules = rules
        self._tokens = dict(tokens or {})
        self._client = guarded_client(rules, resolver=resolver, timeout=ANSWER_SECONDS)

    async def __aenter__(self) -> Asker:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    def may_ask(self, url: str) -> bool:
        """Whether the rules let this address be asked, as far as its text tells."""
        try:
            admit(url, self._rules)
        except (BadLink, OriginRefused):
            return False
        return True

    def is_portal(self, url: str) -> bool:
        """Whether the rules take this address's host for an archive of its own (`OutgoingRules.is_portal`)."""
        return self._rules.is_portal(Origin.of_url(url))

    async def json(
        self, url: str, model: type[_Model], *, missing: str, body: Mapping[str, Any] | None = None
    ) -> _Model:
        """The answer to a GET, or to a POST of ``body``. ``missing``: the sentence for a record that is not there.

        Raises `RepositoryNotFound` (404, 410; 401 and 403 with the same sentence, since private looks like absent), `OriginRefused`,
        and `SourceFault` where there is no proper answer.
        """
        content = await self.content(url, missing=missing, body=body)
        try:
            # Not by way of the standard library's json, which lets halves of characters through that no URL can hold.
            return model.model_validate_json(content)
        except ValidationError as error:
            raise SourceFault(
                f"{_host(url)} answered with something that was not understood. Try again later."
            ) from error

    async def content(self, url: str, *, missing: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The same, as bytes. Asked again where that is likely to help."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                async for attempt in stamina.retry_context(
                    on=_Unwell, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
                ):
                    with attempt:
                        return await self._once(url, missing, body)
        except TimeoutError as error:
            raise SourceFault(
                f"{_host(url)} did not answer within {ANSWER_SECONDS:g} seconds. Try again later."
            ) from error
        except _Unwell as error:
            raise SourceFault(f"{_host(url)} does not answer as it should ({error}). Try again later.") from error
        raise AssertionError("stamina ends with a result or an error")

    async def _once(self, url: str, missing: str, body: Mapping[str, Any] | None) -> bytes:
        asked = url
        for _ in range(MAX_REDIRECTS + 1):
            await self._when_allowed(asked)
            method = "GET" if body is None else "POST"
            try:
                async with self._client.stream(method, asked, headers=self._headers(asked), json=body) as response:
                    self._judge(asked, response, missing)
                    if not response.is_redirect:
                        return await _bounded(response, asked)
                    asked = urljoin(asked, response.headers.get("Location", ""))
            except httpx.TransportError as error:
                raise _Unwell(type(error).__name__) from error
            except (ValueError, httpx.InvalidURL) as error:
                raise SourceFault(f"{_host(url)} redirects to what is no address. Try again later.") from error
        raise SourceFault(f"{_host(url)} redirects more than {MAX_REDIRECTS} times. Try again later.")

    def _judge(self, url: str, response: httpx.Response, missing: str) -> None:
        host = _host(url)
        self.limits.note(host, response)
        status = response.status_code
        if (left := self.limits.seconds_left(host)) and status in {403, 429, 503}:
            if left > SHORT_PAUSE:
                raise _asked_too_often(host, left)
            raise _Unwell(f"status {status}")
        if status in {401, 403, 404, 410}:
            raise RepositoryNotFound(missing)
        if status >= 500 or status == 408:
            raise _Unwell(f"status {status}")
        if status >= 400:
            raise SourceFault(f"{host} refused the question (status {status}). Check the link, or try again later.")

    async def _when_allowed(self, url: str) -> None:
        host = _host(url)
        left = self.limits.seconds_left(host)
        if left > SHORT_PAUSE:
            raise _asked_too_often(host, left)
        await asyncio.sleep(left)

    def _headers(self, url: str) -> dict[str, str]:
        origin = Origin.of_url(url)
        token = self._tokens.get(origin.netloc) if origin.scheme == "https" else None
        return {"Accept": "application/json", **PACKED} | ({"Authorization": f"Bearer {token}"} if token else {})


async def _bounded(response: httpx.Response, url: str) -> bytes:
    try:
        return await read_bounded(response, MAX_ANSWER)
    except TooLongAnswer as error:
        raise SourceFault(f"{_host(url)} answered with more than is read: the record has too many files.") from error
    except UnreadableAnswer as error:
        raise SourceFault(f"{_host(url)} answered with something that was not understood. Try again later.") from error


def _asked_too_often(host: str, seconds: float) -> SourceFault:
    wait = f"{math.ceil(seconds / 60)} minutes" if seconds > 90 else f"{math.ceil(seconds)} seconds"
    return SourceFault(f"{host} takes no more questions for now. Try again in {wait}.")


def _host(url: str) -> str:
    return Origin.of_url(url).host


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and number >= 0 else None


def _pause(headers: httpx.Headers) -> float | None:
    """Seconds until an archive takes requests again, by what it says in one of three ways."""
    after = headers.get("Retry-After")
    if (seconds := _number(after)) is not None:
        return seconds
    if after is not None:
        try:
            return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            pass
    reset = _number(headers.get("RateLimit-Reset") or headers.get("X-RateLimit-Reset"))
    if reset is None:
        return None
    # Some say how long, others when (https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/).
    return reset if reset < 10_000_000 else max(0.0, reset - time.time())
