"""One request to one origin, for what is no edge of the service's: the login's provider, the public address, the service.

By the rules for outgoing requests, with exactly that origin allowed: no redirect leads elsewhere, and nothing of the
environment counts but ``SSL_CERT_FILE``.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from replay_build_service.errors import ReplayError
from replay_build_service.outgoing import Origin, OutgoingRules
from replay_build_service.outgoing_http import guarded_client

ANSWER_SECONDS = 5.0
_MOST_BYTES = 512 * 1024


class NoAnswer(Exception):
    """There was no answer that could be read; the message says why, as the rest of “it does not answer: …”."""

    def __init__(self, reason: str, *, is_silence: bool = False) -> None:
        super().__init__(reason)
        self.is_silence = is_silence
        """Nothing came at all, as where a firewall drops what is sent: others may well get an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came."""

    status: int
    content_type: str
    """In lower case, without parameters."""
    body: bytes
    path: str
    """Of the address that answered, after redirects."""


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    follow_redirects: bool = False,
) -> Answer:
    """Raises `NoAnswer`."""
    try:
        rules = OutgoingRules(exempt_origins=frozenset({str(Origin.of_url(url))}))
        async with (
            guarded_client(rules, timeout=ANSWER_SECONDS) as client,
            client.stream(
                method,
                url,
                # What a few packed bytes become has no limit.
                headers={"Accept-Encoding": "identity", **(headers or {})},
                content=content,
                follow_redirects=follow_redirects,
            ) as response,
        ):
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return Answer(response.status_code, kind, await _body(response), response.url.path)
    except httpx.HTTPError as error:
        raise NoAnswer(_reason(error), is_silence=isinstance(error, httpx.TimeoutException)) from error
    except ReplayError as error:
        raise NoAnswer(error.sentence.removesuffix(".")) from error
    except (httpx.InvalidURL, ValueError, OSError) as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from error


async def _body(response: httpx.Response) -> bytes:
    kept = bytearray()
    async for part in response.aiter_raw():
        kept += part
        if len(kept) > _MOST_BYTES:
            raise NoAnswer("its answer is far too long")
    return bytes(kept)


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"nothing came within {ANSWER_SECONDS:g} seconds"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted here ({cause.verify_message})"
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ssl.SSLError):
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
