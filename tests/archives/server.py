"""What all stand-in archives share: a server on loopback, what can go wrong with one, and how tests speak of a record.

An archive's stand-in is a subclass of `ArchiveServer` that says in `ArchiveServer.answer` what its API does, and how a record is published
there. What goes wrong is a `Fault` in ``faults``: it is laid over the answers to the paths that it names, so that every archive can do
all of it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from replay_build_service.outgoing import OutgoingRules
from replay_build_service.sources.base import RecordSource


@dataclass(frozen=True, slots=True)
class Request:
    """What came."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: Mapping[str, str]
    body: bytes
    headers: Mapping[str, str]
    """By their names in lower case."""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    """Seconds before anything is sent; less where the server stops."""
    sent: int | None = None
    """How many bytes of the body are sent before the connection ends; all where none is said."""

    @classmethod
    def of_json(cls, value: object, status: int = 200, **headers: str) -> Self:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    @classmethod
    def of_bytes(cls, body: bytes) -> Self:
        return cls(200, body, {"Content-Type": "application/octet-stream"})

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Self:
        return cls(status, b"", {"Location": location})


NOT_FOUND = Answer.of_json({"message": "Not found"}, 404)


@dataclass(slots=True)
class Fault:
    """What goes wrong with the answers to paths that ``where`` is found in, the next ``times`` times."""

    answer: Answer | None = None
    """In place of the proper answer; none where that one is only cut or late."""
    where: str = ""
    """A regular expression, over the path with its query."""
    times: int = 1_000_000
    delay: float = 0.0
    kept: float | None = None
    """The share of the body that is sent before the connection ends."""
    spoilt: bool = False
    """Whether the body's last byte is another one, and the length as it was."""
    met: threading.Event = field(default_factory=threading.Event)
    """Set once something came upon it."""

    def laid_over(self, proper: Answer) -> Answer:
        answer = self.answer or proper
        body = answer.body[:-1] + bytes([answer.body[-1] ^ 1]) if self.spoilt and answer.body else answer.body
        sent = None if self.kept is None else int(len(body) * self.kept)
        return replace(answer, body=body, delay=self.delay, sent=sent)


def too_many(seconds: int, **where: Any) -> Fault:
    """https://www.rfc-editor.org/rfc/rfc6585#section-4"""
    return Fault(Answer.of_json({"message": "Too many requests"}, 429, **{"Retry-After": str(seconds)}), **where)


def broken(status: int = 500, **where: Any) -> Fault:
    return Fault(Answer(status, b"<h1>Internal Server Error</h1>", {"Content-Type": "text/html"}), **where)


def a_page(**where: Any) -> Fault:
    """What a proxy, a login or a maintenance page puts in place of an answer."""
    return Fault(Answer(200, b"<!doctype html><title>Maintenance</title>", {"Content-Type": "text/html"}), **where)


def elsewhere(url: str, **where: Any) -> Fault:
    return Fault(Answer.redirect(url), **where)


def slow(seconds: float, **where: Any) -> Fault:
    return Fault(delay=seconds, **where)


def truncated(**where: Any) -> Fault:
    """As much as half, of what the header says is more."""
    return Fault(kept=0.5, **where)


def spoilt(**where: Any) -> Fault:
    return Fault(spoilt=True, **where)


@dataclass(frozen=True, slots=True)
class Published:
    """A record of a stand-in, as links and `ResolvedRef` speak of it."""

    locator: str
    """What means its newest version."""
    identity: str
    """What all versions share: `Repository.url`."""
    versions: tuple[str, ...]
    """As the archive counts them, oldest first."""
    locators: tuple[str, ...] = ()
    """What means each version, where the archive has a name for each."""
    page: str = ""
    """Of the newest version."""
    title: str = ""
    license: str = ""


class ArchiveServer:
    """A server on loopback, which ends with the context. Subclasses answer."""

    provider: ClassVar[str]
    """As it stands in links."""
    has_versions: ClassVar[bool] = True
    """Whether a record has versions that stay."""
    names_versions: ClassVar[bool] = True
    """Whether each version has a locator of its own."""
    has_checksums: ClassVar[bool] = True
    """Whether the archive publishes checksums of its files."""
    folders: ClassVar[bool] = True
    """Whether a record's files can lie in folders."""
    misspelt: ClassVar[str]
    """A locator that could be one, and names nothing there."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        """``GET /path?query`` for each that came."""
        self.headers: list[Mapping[str, str]] = []
        """The headers of each."""
        self.faults: list[Fault] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    # ---- what an archive's stand-in says

    def answer(self, request: Request) -> Answer:
        """What the archive answers to a request."""
        raise NotImplementedError

    def source(self) -> RecordSource:
        """The archive's source, pointed here."""
        raise NotImplementedError

    def publish(self, *versions: Mapping[str, bytes], title: str = "A record") -> Published:
        """A record with these versions, oldest first: bytes by path."""
        raise NotImplementedError

    def add_version(self, record: Published, files: Mapping[str, bytes]) -> Published:
        """The same record with a newer version. Where the archive has no versions, with other files."""
        raise NotImplementedError

    def change(self, record: Published, files: Mapping[str, bytes]) -> None:
        """The newest version gets other files, and keeps its number, as no archive should have it."""
        raise NotImplementedError

    def withdraw(self, record: Published) -> None:
        """It is gone, as the archive says it of what was deleted."""
        raise NotImplementedError

    def restrict(self, record: Published) -> None:
        """Its files are not for everybody, as the archive says it."""
        raise NotImplementedError

    # ---- the server

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def rules(self) -> OutgoingRules:
        """What lets this server be asked, and nothing else."""
        return OutgoingRules(allowed_hosts=frozenset(), exempt_origins=frozenset({self.url}))

    def count(self, pattern: str) -> int:
        """How many requests came whose line has that in it."""
        return sum(re.search(pattern, line) is not None for line in self.requests)

    def respond(self, request: Request, line: str) -> Answer:
        """`answer` with what goes wrong."""
        with self._lock:
            self.requests.append(f"{request.method} {line}")
            self.headers.append(request.headers)
            fault = next((one for one in self.faults if one.times > 0 and re.search(one.where, line)), None)
            if fault is not None:
                fault.times -= 1
                fault.met.set()
            proper = self.answer(request)
        answer = proper if fault is None else fault.laid_over(proper)
        self._stopping.wait(answer.delay)
        return answer

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, owner: ArchiveServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, unquote(parts.path), query, body, headers)
        assert isinstance(self.server, _Server)
        self._send(self.server.owner.respond(request, self.path))

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Not to stderr: `ArchiveServer.requests` has them."""

    def _send(self, answer: Answer) -> None:
        try:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: answer.sent])
        except OSError:  # the client left
            self.close_connection = True
        if answer.sent is not None:
            self.close_connection = True


def paths(files: Mapping[str, bytes]) -> Sequence[tuple[str, bytes]]:
    """In an order that is no other than that of their names."""
    return sorted(files.items())
