"""What a login or a start can end in instead, each with the sentence that the person is told.

Values only: nothing here asks the provider, logs or answers a request. What the sentences say is decided where the
errors are raised.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from tornado import web
from tornado.httpclient import HTTPClientError


class Told(web.HTTPError):
    """An answer with a sentence for the person, which reaches every page and API reply of the hub.

    ├── ProviderFault   503: nothing is known about the person
    ├── LoginRefused    403: what came does not prove who it is; 400: no login of this browser's
    ├── NotAMember      403: known, and in none of the permitted VOs
    └── SpawnRefused    403: the same where a server was to start
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.sentence = sentence
        # A page about a failed spawn shows this alone: it replaces the message of any other error by words of its own.
        self.jupyterhub_message = sentence


class ProviderFault(Told):
    """The identity provider did not answer, or not as the protocol says."""

    def __init__(self, sentence: str) -> None:
        super().__init__(503, sentence)
        self.headers = {"Retry-After": "30"}


class LoginRefused(Told):
    """What the browser or the identity provider brought is no proof of who this is. ``reason`` is for the log."""

    def __init__(self, sentence: str, *, reason: str, status: int = 403) -> None:
        super().__init__(status, sentence)
        self.reason = reason


class NotAMember(Told):
    """The identity provider answered, and the person is in none of the permitted VOs."""

    def __init__(self, sentence: str, account: Account) -> None:
        super().__init__(403, sentence)
        self.account = account


class SpawnRefused(Told):
    """What is stored about the person proves no permitted VO."""

    def __init__(self, sentence: str) -> None:
        super().__init__(403, sentence)


@dataclass(frozen=True, slots=True)
class Account:
    """How a person recognises which of their accounts they used. Shown to that person; the log gets the identifier alone."""

    identifier: str
    name: str
    email: str

    @classmethod
    def of_claims(cls, identifier: str, claims: Mapping[str, object]) -> Account:
        """From userinfo; what is missing or no text is empty."""
        return cls(identifier, text_claim(claims, "name"), text_claim(claims, "email"))


def text_claim(claims: Mapping[str, object], name: str) -> str:
    """A claim as it may be shown: at most 200 characters; what is missing or no text is empty."""
    value = claims.get(name)
    return value.strip()[:200] if isinstance(value, str) else ""


def is_fault(error: Exception) -> bool:
    """Whether a request failed without saying anything about what was asked, so that asking again may help."""
    if isinstance(error, HTTPClientError):
        return error.code >= 500 or error.code == 429
    return isinstance(error, OSError)


def was_never_sent(error: Exception) -> bool:
    """Whether the request cannot have reached anybody, so that even one that changes something may be repeated."""
    return isinstance(error, ConnectionRefusedError | socket.gaierror)


def was_answered(error: BaseException | None) -> bool:
    """Whether a request that failed cannot have been carried out unnoticed: it was answered, or never sent."""
    if isinstance(error, HTTPClientError):
        return error.code != 599  # tornado's own, for an answer that did not come
    return isinstance(error, Exception) and was_never_sent(error)
