"""A git server on loopback: bare repositories over smart HTTP, read-only, through git's own ``git http-backend``.

For the demonstration and the tests, so that what is fetched there is fetched as from any forge (protocol version 2,
shallow and partial fetches, compressed bodies). It binds loopback only and knows no users; it is nothing to put on a network.

    python -m demo.git_server --root FOLDER [--port PORT]
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import re
import shutil
import ssl
import subprocess
import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

__all__ = ["GitServer"]

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request's body, unpacked. A fetch sends names of commits, nothing large."""

_READS = re.compile(r"/(?P<repository>[^/].*?)/(?P<what>info/refs|git-upload-pack|HEAD|objects/.+)")


class GitServer:
    """Serves every bare repository below ``root`` at ``<url>/<path of it>``. A context manager.

    ``requests`` has a line for each request that came, ``GET /name.git/info/refs?service=git-upload-pack``.
    With ``tls`` it speaks HTTPS; with ``hands_out_any_commit`` off it is a server from before protocol version 2,
    which hands out the commits of branches and tags alone. Raises `ValueError` for a host that is not loopback, unless
    ``loopback_only`` is off: for an address that only containers and pods of this machine reach.
    """

    def __init__(
        self,
        root: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        hands_out_any_commit: bool = True,
        loopback_only: bool = True,
    ) -> None:
        if loopback_only and not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address; this server is for this machine alone.")
        self.root = root.resolve()
        self.requests: list[str] = []
        self.hands_out_any_commit = hands_out_any_commit
        self._tls = tls
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """``http://host:port`` or ``https://…``, without a slash at its end. Only after `start`."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self.port}"

    @property
    def port(self) -> int:
        """The port that it listens at. Only after `start`."""
        if self._server is None:
            raise RuntimeError("The server is not started.")
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen; when this returns, requests are answered. Raises `OSError` where the port is taken."""
        self._server = _Server((self._host, self._port), self)
        if self._tls is not None:
            # The handshake waits for the connection's own thread, so that one slow client does not keep the others out.
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end. Nothing if it was not started."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
        self._server = self._thread = None

    def wait(self) -> None:
        """Until `stop` is called elsewhere, or the process is interrupted."""
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def repository(self, path: str) -> Path | None:
        """The bare repository that a path of a URL names, with or without ``.git``, as forges take both.

        ``None`` where there is none below the root.
        """
        for name in (path, f"{path}.git"):
            folder = (self.root / name).resolve()
            if folder.is_relative_to(self.root) and (folder / "HEAD").is_file():
                return folder
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: GitServer) -> None:
        self.owner = owner
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    @property
    def _owner(self) -> GitServer:
        assert isinstance(self.server, _Server)
        return self.server.owner

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not to stderr: `GitServer.requests` has them."""

    def _answer(self, body: bytes) -> None:
        self._owner.requests.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        wanted = _READS.fullmatch(unquote(parts.path))
        repository = self._owner.repository(wanted["repository"]) if wanted else None
        if wanted is None or repository is None or "git-receive-pack" in parts.query:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "3",
            "GIT_CONFIG_KEY_0": "uploadpack.allowFilter",
            "GIT_CONFIG_VALUE_0": "true",
            "GIT_CONFIG_KEY_1": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_1": "true" if self._owner.hands_out_any_commit else "false",
            "GIT_CONFIG_KEY_2": "safe.directory",
            "GIT_CONFIG_VALUE_2": "*",
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROJECT_ROOT": str(repository),
            "PATH_INFO": f"/{wanted['what']}",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if self._owner.hands_out_any_commit else "",
            "REQUEST_METHOD": self.command,
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": self.client_address[0],
        }
        with subprocess.Popen(
            ["git", "http-backend"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            cwd=self._owner.root,
        ) as backend:
            assert backend.stdin is not None
            try:
                backend.stdin.write(body)
                backend.stdin.close()
                self._relay(backend)
            except OSError:  # the client left, or the backend did
                self.close_connection = True
                backend.kill()

    def _relay(self, backend: subprocess.Popen[bytes]) -> None:
        """From a CGI answer (RFC 3875) to an HTTP one, in chunks, since its length is not known before its end."""
        assert backend.stdout is not None
        status, headers = HTTPStatus.OK.value, list[tuple[str, str]]()
        while line := backend.stdout.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            if name.lower() == "status":
                status = int(value.split()[0])
            else:
                headers.append((name, value.strip()))
        self.send_response(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while part := os.read(backend.stdout.fileno(), 65536):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes | None:
        """The request's body, unpacked; ``None`` where it is larger than any fetch needs."""
        body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self._counted()
        if body is None or self.headers.get("Content-Encoding") not in {"gzip", "x-gzip"}:
            return body
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        unpacked = unpacker.decompress(body, MAX_BODY)
        return None if unpacker.unconsumed_tail else unpacked

    def _counted(self) -> bytes | None:
        length = int(self.headers.get("Content-Length") or 0)
        return None if length > MAX_BODY else self.rfile.read(length)

    def _chunks(self) -> bytes | None:
        body = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            if len(body) + size > MAX_BODY:
                return None
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return bytes(body)


def main() -> None:
    """Serve until interrupted."""
    options = argparse.ArgumentParser(
        prog="python -m demo.git_server", description="Serve bare repositories on loopback."
    )
    options.add_argument("--root", type=Path, required=True, help="the folder with the repositories")
    options.add_argument("--port", type=int, default=0, help="0 takes a free one")
    chosen = options.parse_args()
    if shutil.which("git") is None:
        options.error("git is needed and was not found")
    server = GitServer(chosen.root, port=chosen.port)
    with server:
        print(f"git server at {server.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()


if __name__ == "__main__":
    main()
