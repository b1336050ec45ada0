"""Which registry, and as whom. Plain data, checked where it is made, so that a typing error shows at the start."""

import math
import re
from dataclasses import dataclass, field

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<name>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?/?"
)


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """One registry and one account there.

    Raises `ValueError` for a URL with more than scheme, host and port, for half of a pair of credentials, and for
    credentials that no request can carry (RFC 7617: no control characters, no colon in the user name). The sentence
    never holds them.
    """

    url: str
    """``https://registry.example.org`` or ``http://127.0.0.1:5000``: the scheme decides about TLS."""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    """PEM file of certificate authorities to trust beside the usual ones."""
    timeout: float = 10.0
    """Seconds that one question may take with all its attempts; an attempt gets half of it, so that there is a second."""

    def __post_init__(self) -> None:
        self._parts()
        if (self.username is None) != (self.password is None):
            raise ValueError("The registry's user name and password come together or not at all.")
        if ":" in (self.username or ""):
            raise ValueError("The registry's user name holds a colon, which HTTP cannot carry.")
        if any(ord(character) < 32 or ord(character) == 127 for character in f"{self.username}{self.password}"):
            raise ValueError(
                "The registry's user name or password holds a control character, perhaps the end of a file's line."
            )
        if not 0 < self.timeout < math.inf:
            raise ValueError("The registry's timeout has to be a number of seconds above zero.")

    @property
    def is_encrypted(self) -> bool:
        """Whether the registry is asked over TLS."""
        return self.url.startswith("https:")

    @property
    def name(self) -> str:
        """The host alone, in lower case, without a port or brackets."""
        return self._parts()[1].strip("[]")

    @property
    def host(self) -> str:
        """What image references begin with: ``registry.example.org``, ``127.0.0.1:5000``.

        A host without a dot has its port written out, for an engine takes ``registry/name`` as a name on Docker Hub.
        """
        scheme, name, port = self._parts()
        if port is None and "." not in name and ":" not in name and name != "localhost":
            port = {"https": "443", "http": "80"}[scheme]
        return name if port is None else f"{name}:{port}"

    @property
    def base_url(self) -> str:
        """The URL without a slash at its end."""
        return self.url.rstrip("/")

    def _parts(self) -> tuple[str, str, str | None]:
        found = _URL.fullmatch(self.url)
        if found is None or not 0 < int(found["port"] or 443) < 65536:
            raise ValueError("The registry's URL has to read https://host or https://host:port, with nothing after it.")
        return found["scheme"], found["name"].lower(), found["port"]
