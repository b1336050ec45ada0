"""A web address, taken apart once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from replay_build_service.errors import BadLink

MOST_FIELDS = 50
"""Of a query; one with more is no address of anything here."""

MOST_HOST = 253
"""Characters of a host's name (RFC 1035, 2.3.4)."""

_SECRET_LENGTH = 30
"""Characters of a name before an ``@`` from which on it is taken for a token."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where it leads, without a user's name, password or fragment."""

    host: str
    """In lower case, without ``www.`` and port."""
    origin: str
    """``https://host[:port]``, since Replay asks over nothing else; ``http://`` where a port was named that nobody would have both at."""
    path: str
    """As it came, still percent-encoded."""
    parts: tuple[str, ...]
    """Of the path, percent-decoded; none of them empty."""
    query: str
    had_secret: bool
    """Whether a password or token stood in it."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises `BadLink` where the text is no address, or holds bytes that are not text."""
        try:
            split = urlsplit(text)
            port = split.port
            parts = tuple(unquote(part, errors="strict") for part in split.path.split("/") if part)
        except UnicodeDecodeError as error:
            raise BadLink(
                "This address holds bytes that are not text. Copy it again from where you found it."
            ) from error
        except ValueError as error:
            raise BadLink("This is no web address. Copy it again from where you found it.") from error
        host = (split.hostname or "").rstrip(".")
        if not host:
            raise BadLink("This address names no host. It should read https://host/path.")
        if len(host) > MOST_HOST or not host.isprintable() or " " in host:
            raise BadLink("This address names a host that there cannot be. Copy it again from where you found it.")
        user, _, _ = split.netloc.rpartition("@")
        named = f"[{host}]" if ":" in host else host
        is_usual = port in {None, 80, 443}
        scheme = "http" if split.scheme == "http" and not is_usual else "https"
        return cls(
            host.removeprefix("www."),
            f"{scheme}://{named}" if is_usual else f"{scheme}://{named}:{port}",
            split.path,
            parts,
            split.query,
            ":" in user or len(user) > _SECRET_LENGTH,
        )

    def asked(self, *names: str) -> str:
        """The first value that the query has under one of these names; empty where it has none."""
        try:
            fields = parse_qs(self.query, max_num_fields=MOST_FIELDS)
        except ValueError:
            return ""
        return next((fields[name][0] for name in names if name in fields), "")

    def url(self, parts: tuple[str, ...]) -> str:
        """That path on the same host."""
        return "/".join([self.origin, *(quote(part, safe="~!$&'()*+,;=:@") for part in parts)])
