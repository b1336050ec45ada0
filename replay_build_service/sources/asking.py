"""Questions to an archive's API: JSON over HTTPS, kept to the rules of what may be asked, to a size, a time and the archive's own limits.

An archive that says that it takes no requests for a while is believed (`rate_limits`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urljoin

import httpx
import stamina
from pydantic import BaseModel, ValidationError

from replay_build_service.errors import BadLink, OriginRefused, Refused, RepositoryNotFound, SourceFault
from replay_build_service.outgoing import Origin, OutgoingRules, Resolver, admit, resolve_host
from replay_build_service.outgoing_http import PACKED, TooLongAnswer, UnreadableAnswer, guarded_client, read_bounded
from replay_build_service.rate_limits import SHORT_PAUSE, RateLimits, asked_too_often

__all__ = ["MAX_ANSWER", "Asker", "RateLimits"]

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer that are read: the lists of some forty thousand files."""
ANSWER_SECONDS = 20.0
"""For one answer, whole."""
ATTEMPTS = 3
MAX_REDIRECTS = 5

_Model = TypeVar("_Model", bound=BaseModel)


class _Unwell(Exception):
    """Worth asking again."""


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
        `Refused` where it lists more than is read, and `SourceFault` where there is no proper answer.
        """
        content = await self.content(url, missing=missing, body=body)
        try:
            # Not by way of the standard library's json, which lets halves of characters through that no URL can hold.
            return model.model_validate_json(content)
        except ValidationError as error:
            _tell_too_long_list(_host(url), error)
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
            await self.limits.when_allowed(_host(asked))
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
                raise asked_too_often(host, left)
            raise _Unwell(f"status {status}")
        if status in {401, 403, 404, 410}:
            raise RepositoryNotFound(missing)
        if status >= 500 or status == 408:
            raise _Unwell(f"status {status}")
        if status >= 400:
            raise SourceFault(f"{host} refused the question (status {status}). Check the link, or try again later.")

    def _headers(self, url: str) -> dict[str, str]:
        origin = Origin.of_url(url)
        token = self._tokens.get(origin.netloc) if origin.scheme == "https" else None
        return {"Accept": "application/json", **PACKED} | ({"Authorization": f"Bearer {token}"} if token else {})


async def _bounded(response: httpx.Response, url: str) -> bytes:
    try:
        return await read_bounded(response, MAX_ANSWER)
    except TooLongAnswer as error:
        most = f"{MAX_ANSWER // 2**20} MB, which is the most that is read here"
        raise Refused(f"{_host(url)} answered with more than {most}: the record has too many files.") from error
    except UnreadableAnswer as error:
        raise SourceFault(f"{_host(url)} answered with something that was not understood. Try again later.") from error


def _tell_too_long_list(host: str, error: ValidationError) -> None:
    """Raises `Refused` where that is what is wrong with an answer, which is no fault of whoever answered."""
    told = error.errors(include_url=False, include_input=False) if error.error_count() == 1 else []
    for one in told:
        length, most = (one.get("ctx", {}).get(name) for name in ("actual_length", "max_length"))
        if one["type"] == "too_long" and isinstance(length, int) and isinstance(most, int):
            raise Refused(
                f"{host} lists {length:,} files, and Replay reads at most {most:,} of a record. Put them into one ZIP file there."
            ) from error


def _host(url: str) -> str:
    return Origin.of_url(url).host
