"""One file after another from an archive's storage: streamed to disk, bounded, verified, asked for again where that is likely to help."""

from __future__ import annotations

import asyncio
import hashlib
import math
from functools import partial
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urljoin

import httpx
import stamina

from replay_build_service.errors import BadLink, OriginRefused, Refused, RepositoryNotFound, SourceFault
from replay_build_service.outgoing import Origin, OutgoingRules, Resolver, resolve_host
from replay_build_service.outgoing_http import guarded_client
from replay_build_service.sources.asking import RateLimits
from replay_build_service.sources.base import RemoteFile
from replay_build_service.sources.paths import shown
from replay_build_service.sources.threads import in_thread
from replay_build_service.sources.unpacking import LEAST, Budget

__all__ = ["Downloader"]

ATTEMPTS = 3
MAX_REDIRECTS = 5
STALLED = 60.0
"""Seconds without a byte, after which a download is begun anew."""
LONGEST_WAIT = 60.0
"""Seconds that a build waits for an archive to take requests again, where the archive says how long."""
_WRITTEN_AT_ONCE = 1024 * 1024


class _Again(Exception):
    """Worth another attempt; says why."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Downloader:
    """Downloads by the rules of what may be asked. An asynchronous context manager, which ends its connections."""

    def __init__(self, rules: OutgoingRules, budget: Budget, *, resolver: Resolver = resolve_host) -> None:
        self._budget = budget
        self._limits = RateLimits()
        self._client = guarded_client(rules, resolver=resolver, timeout=STALLED)

    async def __aenter__(self) -> Downloader:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    async def download(self, file: RemoteFile, target: Path) -> None:
        """One file, to a path where nothing is. After an error what is there is the caller's to remove.

        Raises `RepositoryNotFound` where the archive lists it and does not give it, `Refused`, `OriginRefused`, and `SourceFault` where
        what comes is not what is listed.
        """
        self._budget.take(LEAST)
        try:
            async for attempt in stamina.retry_context(
                on=_Again, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=2.0, wait_jitter=0.2
            ):
                with attempt:
                    await self._once(file, target)
        except _Again as error:
            raise SourceFault(f"{_name(file)} could not be fetched: {error}. Try again later.") from error

    async def _once(self, file: RemoteFile, target: Path) -> None:
        url = file.url
        for _ in range(MAX_REDIRECTS + 1):
            try:
                await self._when_allowed(url)
                async with self._client.stream("GET", url, headers=_HEADERS) as response:
                    self._judge(url, file, response)
                    if not response.is_redirect:
                        await self._write(file, target, response)
                        return
                    url = urljoin(url, response.headers.get("Location", ""))
            except httpx.TransportError as error:
                raise _Again(f"the connection to {_host(url)} broke off") from error
            except (OriginRefused, BadLink) as error:
                if url == file.url:
                    raise
                whence = f"{_host(file.url)} sends {_name(file)} from elsewhere."
                raise OriginRefused(f"{whence} {error.sentence}") from error
            except (ValueError, httpx.InvalidURL) as error:
                raise SourceFault(f"{_host(file.url)} redirects to what is no address. Try again later.") from error
        raise SourceFault(f"{_host(file.url)} redirects more than {MAX_REDIRECTS} times. Try again later.")

    async def _when_allowed(self, url: str) -> None:
        wait = self._limits.seconds_left(_host(url))
        if wait > LONGEST_WAIT:
            raise SourceFault(
                f"{_host(url)} takes no more requests for now. Try again in {math.ceil(wait / 60)} minutes."
            )
        await asyncio.sleep(wait)

    def _judge(self, url: str, file: RemoteFile, response: httpx.Response) -> None:
        status, host = response.status_code, _host(url)
        self._limits.note(host, response)
        if status in {408, 429} or status >= 500 or (status == 403 and self._limits.seconds_left(host)):
            raise _Again(f"{host} answered with status {status}")
        if status in {401, 403, 404, 410}:
            raise RepositoryNotFound(
                f"{host} lists {_name(file)} and does not give it to everybody, so the record cannot be run."
            )
        if status >= 400 or (not response.is_redirect and status != 200):
            raise SourceFault(f"{host} does not give {_name(file)} (status {status}). Try again later.")
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        if status == 200 and is_page and not file.checksum and not file.path.lower().endswith((".html", ".htm")):
            raise _Again(f"{host} sent a page in its place")

    async def _write(self, file: RemoteFile, target: Path, response: httpx.Response) -> None:
        """What comes, as it comes: a file that is stored packed has the checksum of what is stored."""
        size = 0
        counted = LEAST
        try:
            with _Sink(target, _hasher(file)) as sink:
                async for part in response.aiter_raw(_WRITTEN_AT_ONCE):
                    size += len(part)
                    if file.size is not None and size > file.size:
                        raise _Again("more came than the archive lists")
                    self._budget.take(max(0, size - counted))
                    counted = max(counted, size)
                    await in_thread(partial(sink.add, part))
            if file.size is not None and size != file.size:
                raise _Again(f"it ended after {size:,} of {file.size:,} bytes")
            if file.checksum and sink.digest != file.checksum.partition(":")[2].lower():
                raise _Again("what came is not what the archive lists: its checksum is another one")
        except (httpx.TransportError, _Again):
            self._budget.taken -= counted - LEAST
            raise


_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}


class _Sink:
    """A file on disk, and what makes its checksum. A context manager, which ends the file."""

    def __init__(self, target: Path, hasher: _Hash | None) -> None:
        self._file = target.open("wb")
        self._hasher = hasher

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, data: bytes) -> None:
        """Blocking. Raises `OSError`."""
        self._file.write(data)
        if self._hasher is not None:
            self._hasher.update(data)

    @property
    def digest(self) -> str:
        """Of all that was added; empty where no checksum is made."""
        return "" if self._hasher is None else self._hasher.hexdigest()


def _hasher(file: RemoteFile) -> _Hash | None:
    """What makes the checksum that the archive publishes. None where it publishes none; its size is compared then, if that."""
    kind, _, digits = file.checksum.partition(":")
    if not file.checksum:
        return None
    if kind in {"md5", "sha1", "sha256", "sha512"} and digits:
        return hashlib.new(kind, usedforsecurity=False)
    raise Refused(f"The archive names a checksum for {_name(file)} that Replay cannot check ({kind[:20]}).")


def _name(file: RemoteFile) -> str:
    return f"“{shown(file.path)}”"


def _host(url: str) -> str:
    return Origin.of_url(url).host
