"""A real registry for tests, and what stands around one: a token server, storage that it redirects to, and impostors.

`RegistryServer` is Debian's ``docker-registry`` in a folder of the test's own: for anybody, for one account with basic
authentication, or with tokens of a `TokenServer`. Images come in by the registry's own API; no engine is needed.
`ScriptedServer` answers what a test tells it to: for what a real registry does not do at will.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.server
import json
import os
import secrets
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from demo.certificates import self_signed
from replay_build_service.registry import RegistrySettings
from tests.login_fixtures import free_ports

SECONDS_TO_START = 60.0

USER = "replay"
PASSWORD = "correct horse battery staple"
# What `htpasswd -nbB -C 4` makes of the two: the registry takes bcrypt alone, and neither Python nor openssl makes that.
HTPASSWD = "replay:$2b$04$bphlsq7T2Absjztj6tNXf.om12rn1sFOnBejwdHN9F2D5WTEEXiyK\n"


class Login(StrEnum):
    """How a registry asks who is there."""

    ANONYMOUS = "anonymous"
    BASIC = "basic"
    TOKEN = "token"


# ---- keys


@dataclass(frozen=True)
class Key:
    """A private key with a certificate that it signed itself."""

    private: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, *addresses: str) -> Self:
        """For TLS at those addresses, or for tokens."""
        return cls(*self_signed("a test of Replay", *addresses, days=1))

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private_pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


# ---- what stands beside a registry


class _Background:
    """An HTTP server in a thread."""

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", free_ports(1)[0]), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


@dataclass(frozen=True)
class TokenRequest:
    """What a token server was asked."""

    service: str
    scope: str
    account: str | None
    """Whose password came along; none without one."""


class TokenServer(_Background):
    """Gives tokens for a registry (https://distribution.github.io/distribution/spec/auth/token/), to one account or anybody."""

    SERVICE = 'registry "of", tests'
    ISSUER = "a token server of tests"

    def __init__(self, *, anonymous: bool = False) -> None:
        self.key = Key.new()
        self.requests: list[TokenRequest] = []
        self.allowed = {"pull", "push", "delete"}
        self.life = timedelta(minutes=5)
        """Of the tokens; before now, they have ended when they are given."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query)
                account = _account(self.headers.get("Authorization"))
                scope = asked.get("scope", [""])[0]
                server.requests.append(TokenRequest(asked.get("service", [""])[0], scope, account and account[0]))
                if (account is None and not anonymous) or account not in {None, (USER, PASSWORD)}:
                    self._reply(401, {"errors": [{"code": "UNAUTHORIZED"}]})
                else:
                    self._reply(200, {"token": server.token(scope), "expires_in": 300})

            def _reply(self, status: int, document: object) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(Handler)

    def token(self, scope: str) -> str:
        """A token for as much of the scope as is allowed."""
        access: list[dict[str, Any]] = []
        for part in scope.split():
            kind, name, actions = part.split(":", 2)
            granted = [action for action in actions.split(",") if action in self.allowed]
            access.append({"type": kind, "name": name, "actions": granted})
        now = datetime.now(UTC)
        claims = {
            "iss": self.ISSUER,
            "sub": USER,
            "aud": self.SERVICE,
            "exp": now + self.life,
            "nbf": now - timedelta(days=1),
            "iat": now - timedelta(days=1),
            "jti": secrets.token_hex(8),
            "access": access,
        }
        chain = base64.b64encode(self.key.certificate.public_bytes(serialization.Encoding.DER)).decode()
        return jwt.encode(claims, self.key.private, algorithm="ES256", headers={"x5c": [chain]})


class Storage(_Background):
    """Serves a registry's files from another address, as the object storage of a cloud does."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        """Method, path, headers with names in lower case."""
        storage = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def send_head(self) -> Any:
                headers = {name.lower(): value for name, value in self.headers.items()}
                storage.requests.append((self.command, self.path, headers))
                return super().send_head()

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(Handler)


def _account(header: str | None) -> tuple[str, str] | None:
    if header is None:
        return None
    user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
    return user, password


# ---- the registry


class RegistryServer:
    """One registry, on loopback where no other address is named. It may be stopped and started again, at the same address and with the same images."""

    def __init__(
        self,
        folder: Path,
        *,
        login: Login = Login.ANONYMOUS,
        deletes: bool = True,
        token_server: TokenServer | None = None,
        storage_url: str | None = None,
        key: Key | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.folder = folder
        self.host = host
        """The address at which it listens."""
        self.port = port or free_ports(1)[0]
        self.login = login
        self.deletes = deletes
        self.token_server = token_server
        self.storage_url = storage_url
        """Where blobs are redirected to."""
        self.key = key
        """With one the registry speaks TLS."""
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []

    @property
    def url(self) -> str:
        return f"{'http' if self.key is None else 'https'}://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        return "".join(self._log)

    @property
    def files(self) -> Path:
        """All that it keeps."""
        return self.folder / "storage"

    def settings(self, **changes: Any) -> RegistrySettings:
        """For Replay, with the account that is right."""
        account = {} if self.login is Login.ANONYMOUS else {"username": USER, "password": PASSWORD}
        return RegistrySettings(self.url, **(account | changes))

    def start(self) -> None:
        """Return once it listens; fail with its log where it does not."""
        self.files.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "config.json"
        configuration.write_text(json.dumps(self._configuration()))  # JSON is YAML
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(configuration)],
            # Variables named REGISTRY_… would win over the file.
            env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        listens = threading.Event()
        threading.Thread(target=self._read_log, args=(self._process, listens), daemon=True).start()
        if not listens.wait(SECONDS_TO_START) or self._process.poll() is not None:
            self.stop()
            raise RuntimeError(f"The registry did not start:\n{self.log}")

    def stop(self) -> None:
        """May be called more than once."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _read_log(self, process: subprocess.Popen[str], listens: threading.Event) -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                self._log.append(line)
                if "listening on" in line:
                    listens.set()
        listens.set()  # The log ends with the process: nobody should wait on.

    def _configuration(self) -> dict[str, Any]:
        http_part: dict[str, Any] = {"addr": f"{self.host}:{self.port}", "secret": "not secret"}
        if self.key is not None:
            (self.folder / "tls.crt").write_bytes(self.key.certificate_pem)
            (self.folder / "tls.key").write_bytes(self.key.private_pem)
            http_part["tls"] = {
                "certificate": str(self.folder / "tls.crt"),
                "key": str(self.folder / "tls.key"),
            }
        made: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.files)},
                "delete": {"enabled": self.deletes},
                "redirect": {"disable": self.storage_url is None},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http_part,
        }
        if self.storage_url is not None:
            made["middleware"] = {"storage": [{"name": "redirect", "options": {"baseurl": self.storage_url}}]}
        match self.login:
            case Login.ANONYMOUS:
                pass
            case Login.BASIC:
                (self.folder / "htpasswd").write_text(HTPASSWD)
                made["auth"] = {"htpasswd": {"realm": "tests, of Replay", "path": str(self.folder / "htpasswd")}}
            case Login.TOKEN:
                assert self.token_server is not None
                (self.folder / "tokens.pem").write_bytes(self.token_server.key.certificate_pem)
                made["auth"] = {
                    "token": {
                        "realm": f"{self.token_server.url}/token?from=config",
                        "service": TokenServer.SERVICE,
                        "issuer": TokenServer.ISSUER,
                        "rootcertbundle": str(self.folder / "tokens.pem"),
                    }
                }
        return made

    # ---- what is in it

    def push_blob(self, repository: str, content: bytes) -> str:
        """A configuration or a layer; returns its digest."""
        digest = digest_of(content)
        with self._pushing(repository) as client:
            begun = client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
            where = urljoin(self.url, begun.headers["Location"])
            separator = "&" if "?" in where else "?"
            client.put(f"{where}{separator}digest={digest}", content=content).raise_for_status()
        return digest

    def push_manifest(self, repository: str, reference: str, document: object, media_type: str) -> str:
        """Anything that the registry takes as a manifest; returns its digest."""
        body = json.dumps(document, indent=3).encode()
        with self._pushing(repository) as client:
            client.put(
                f"/v2/{repository}/manifests/{reference}", content=body, headers={"Content-Type": media_type}
            ).raise_for_status()
        return digest_of(body)

    def push_image(
        self,
        repository: str,
        tag: str,
        *,
        family: Family,
        configuration: Mapping[str, Any] | None = None,
        layers: Sequence[bytes] = (b"a layer", b"another layer, somewhat longer"),
        architecture: str = "amd64",
    ) -> Image:
        """An image with these layers, which need not be archives: a registry does not look."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "config": configuration,
        }
        written = json.dumps(config).encode()
        contents = [(family.configuration, written), *((family.layer, layer) for layer in layers)]
        described = [
            {"mediaType": kind, "digest": self.push_blob(repository, content), "size": len(content)}
            for kind, content in contents
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": family.manifest,
            "config": described[0],
            "layers": described[1:],
        }
        digest = self.push_manifest(repository, tag, document, family.manifest)
        size = len(json.dumps(document, indent=3))
        return Image(digest, size, digest_of(written), tuple(digest_of(layer) for layer in layers), family)

    def push_index(self, repository: str, tag: str, *, family: Family, images: Mapping[str, Image]) -> str:
        """One name for images of several platforms, ``linux/amd64`` and the like; returns its digest."""
        entries: list[dict[str, Any]] = []
        for platform, image in images.items():
            system, _, architecture = platform.partition("/")
            entries.append(
                {
                    "mediaType": image.family.manifest,
                    "digest": image.digest,
                    "size": image.size,
                    "platform": {"os": system, "architecture": architecture},
                }
            )
        document = {"schemaVersion": 2, "mediaType": family.index, "manifests": entries}
        return self.push_manifest(repository, tag, document, family.index)

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps a blob's bytes."""
        hexadecimal = digest.removeprefix("sha256:")
        folder = self.files / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return folder / hexadecimal[:2] / hexadecimal / "data"

    def digest(self, repository: str, reference: str) -> str | None:
        """What the registry itself says that a tag stands for; none where it has none."""
        answer = self._manifest("HEAD", repository, reference)
        return None if answer.status_code == 404 else answer.raise_for_status().headers["Docker-Content-Digest"]

    def last_layer_file(self, image: str) -> Path:
        """Where the last layer of ``host/repository@sha256:…`` lies."""
        repository, _, digest = image.removeprefix(f"{self.settings().host}/").partition("@")
        manifest = self._manifest("GET", repository, digest).raise_for_status().json()
        return self.blob_file(manifest["layers"][-1]["digest"])

    def corrupt_last_layer(self, image: str) -> None:
        """Changes bytes of it on the registry's disk."""
        file = self.last_layer_file(image)
        file.write_bytes(bytes(byte ^ 0xFF for byte in file.read_bytes()))

    @contextmanager
    def that_cannot_store(self) -> Generator[None]:
        """As if its disk were away: what is pushed meanwhile is refused."""
        kept = self.files / "docker" / "registry" / "v2"
        away = kept.with_name("v2-away")
        kept.rename(away)
        kept.write_text("not a folder: the registry cannot store anything")
        try:
            yield
        finally:
            kept.unlink()
            away.rename(kept)

    def _manifest(self, method: str, repository: str, reference: str) -> httpx.Response:
        headers = {"Accept": f"{DOCKER.manifest}, {OCI.manifest}"}
        return httpx.request(method, f"{self.url}/v2/{repository}/manifests/{reference}", headers=headers)

    @contextmanager
    def _pushing(self, repository: str) -> Generator[httpx.Client]:
        headers: dict[str, str] = {}
        match self.login:
            case Login.ANONYMOUS:
                pass
            case Login.BASIC:
                headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            case Login.TOKEN:
                assert self.token_server is not None
                headers["Authorization"] = f"Bearer {self.token_server.token(f'repository:{repository}:pull,push')}"
        trusted: Any = True
        if self.key is not None:
            trusted = httpx.create_ssl_context()
            trusted.load_verify_locations(cadata=self.key.certificate_pem.decode())
        with httpx.Client(base_url=self.url, headers=headers, verify=trusted, timeout=30, trust_env=False) as client:
            yield client


@dataclass(frozen=True)
class Family:
    """Docker's media types, or OCI's."""

    manifest: str
    index: str
    configuration: str
    layer: str


DOCKER = Family(
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)
OCI = Family(
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)


@dataclass(frozen=True)
class Image:
    """What was pushed."""

    digest: str
    size: int
    """Bytes of the manifest."""
    config_digest: str
    layer_digests: tuple[str, ...]
    family: Family


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# ---- impostors


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass
class Reply:
    """One answer. ``body`` is sent with its length; ``parts`` are sent as they come, and the connection is closed after."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    parts: AsyncIterator[bytes] | None = None


class ScriptedServer:
    """A real server that answers each request with what a function says. Use as an asynchronous context manager."""

    def __init__(self, answer: Callable[[Asked], Reply | Awaitable[Reply]], host: str = "127.0.0.1") -> None:
        self.answer = answer
        self._host = host
        self._port = free_ports(1)[0]
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._was_asked = asyncio.Condition()
        self.asked: list[Asked] = []
        self.connections = 0
        self.sent = 0
        """Bytes of bodies."""

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, condition: Callable[[list[Asked]], bool]) -> None:
        """Return once the requests so far are as the condition wants them."""
        async with self._was_asked:
            await self._was_asked.wait_for(lambda: condition(self.asked))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._serve_one(reader, writer):
                    pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        method, target, _ = head[0].split(" ")
        fields = (line.split(":", 1) for line in head[1:] if line)
        asked = Asked(method, target, {name.lower(): value.strip() for name, value in fields})
        self.asked.append(asked)
        async with self._was_asked:
            self._was_asked.notify_all()
        reply = self.answer(asked)
        if not isinstance(reply, Reply):
            reply = await reply
        headers = dict(reply.headers)
        if reply.parts is None:
            headers.setdefault("Content-Length", str(len(reply.body)))
        else:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {reply.status} Told", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
        if method != "HEAD":
            writer.write(reply.body)
            self.sent += len(reply.body)
        await writer.drain()
        if reply.parts is not None:
            async for part in reply.parts:
                writer.write(part)
                await writer.drain()
                self.sent += len(part)
        return reply.parts is None
