"""What the registry's client makes of names, headers and documents, and of servers that are broken, hostile or strange.

The servers are real ones on loopback that answer what a test tells them to; see `tests.registry_server`. What a good
registry does is in ``tests/integration/test_registry.py``.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.domain import ImageConfiguration
from replay_build_service.errors import SourceFault
from replay_build_service.registry import (
    Layer,
    Manifest,
    Registry,
    RegistryFault,
    RegistrySettings,
    client,
    parse_configuration,
)
from replay_build_service.registry.authentication import Challenge, is_trusted_realm, parse_challenges
from replay_build_service.registry.documents import CONFIGURATION_LIMIT, MANIFEST_LIMIT, Index, parse_manifest
from replay_build_service.registry.exchange import MAX_REDIRECTS, retry_after, send
from replay_build_service.registry.names import blob_path, manifest_path
from tests.registry_server import DOCKER, OCI, PASSWORD, USER, Asked, Reply, ScriptedServer, digest_of

A_DIGEST = "sha256:" + "a" * 64
B_DIGEST = "sha256:" + "b" * 64


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)


_AUTHORITIES = httpx.create_ssl_context()


@pytest.fixture(autouse=True)
def authorities_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes longer than most tests here, and nothing here speaks TLS."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: _AUTHORITIES)


# ---- settings and names


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://registry.example.org", "registry.example.org"),
        ("https://Registry.Example.org/", "registry.example.org"),
        ("https://registry.example.org:8443", "registry.example.org:8443"),
        ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("http://localhost", "localhost"),
        ("http://[::1]:5000/", "[::1]:5000"),
        # Without a dot and a port, engines would look for the image on Docker Hub.
        ("http://registry", "registry:80"),
        ("https://registry", "registry:443"),
        ("http://registry:5000", "registry:5000"),
    ],
)
def test_image_references_begin_with_the_host_as_engines_read_it(url: str, host: str) -> None:
    assert RegistrySettings(url).host == host


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "registry.example.org"},
        {"url": "ftp://registry.example.org"},
        {"url": "https://registry.example.org/v2"},
        {"url": "https://registry.example.org?x"},
        {"url": "https://registry.example.org#x"},
        {"url": "https://registry.example.org:0"},
        {"url": "https://registry.example.org:65536"},
        {"url": "https://registry.example.org\n"},
        {"url": "https://registry.example.org\r\nX: y"},
        {"url": f"https://{USER}:{PASSWORD}@registry.example.org"},
        {"url": "https://"},
        {"url": "https://-registry.example.org"},
        {"username": None},
        {"password": None},
        {"username": "a:b"},
        {"password": f"{PASSWORD}\n"},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
    ],
)
def test_settings_that_cannot_work_are_refused_without_a_word_of_the_password(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="registry's") as caught:
        RegistrySettings(**({"url": "https://registry.example.org", "username": USER, "password": PASSWORD} | changes))
    assert PASSWORD not in str(caught.value)


def test_settings_do_not_show_the_account() -> None:
    settings = RegistrySettings("https://registry.example.org", "a-certain-user", PASSWORD)
    assert "a-certain-user" not in repr(settings)
    assert PASSWORD not in repr(settings)


@pytest.mark.parametrize(
    ("repository", "reference"),
    [
        ("a", "latest"),
        ("replay/gh-some-repository-0123456789", "v1.0_x-y"),
        ("a/b__c/d--e.f", A_DIGEST),
        ("0", "_" * 128),
    ],
)
def test_names_lead_to_their_own_address(repository: str, reference: str) -> None:
    path = manifest_path(repository, reference)
    assert httpx.URL(f"http://host{path}").raw_path.decode() == f"/v2/{repository}/manifests/{reference}"
    assert blob_path(repository, A_DIGEST) == f"/v2/{repository}/blobs/{A_DIGEST}"


BAD_REPOSITORIES = ["", "/", "a/", "/a", "a//b", "A", "a b", "a/../b", "..", ".", "a%2fb", "a?x", "a#x", "a\\b", "a:b"]
BAD_REPOSITORIES += ["a\n", "a_", "a___b", "ä", "a@b", "a" * 256]
BAD_REFERENCES = ["", ".", "..", "-a", "a/b", "a b", "a?x", "a\n", "a" * 129, "ä", "sha256:" + "A" * 64, A_DIGEST[:-1]]
BAD_REFERENCES += [A_DIGEST + "a", A_DIGEST + "\n", "sha512:" + "a" * 128, f"../blobs/{A_DIGEST}"]


async def test_no_other_name_is_ever_sent() -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(500)

    async with registry_that(answer) as (registry, server):
        image = Manifest(A_DIGEST, DOCKER.manifest, A_DIGEST, (Layer(B_DIGEST, 1),), 1)
        for repository in BAD_REPOSITORIES:
            for question in (
                registry.exists(repository, "tag"),
                registry.manifest(repository, "tag"),
                registry.delete(repository, A_DIGEST),
                registry.configuration(repository, image),
                registry.missing_blobs(repository, image),
            ):
                with pytest.raises(ValueError, match="no name of a repository"):
                    await question
        for reference in BAD_REFERENCES:
            for question in (registry.exists("a", reference), registry.manifest("a", reference)):
                with pytest.raises(ValueError, match="neither a tag nor"):
                    await question
        for digest in [*BAD_REFERENCES, "tag"]:
            for question in (
                registry.delete("a", digest),
                registry.configuration("a", replace(image, config_digest=digest)),
                registry.missing_blobs("a", replace(image, layers=(Layer(digest, 1),))),
            ):
                with pytest.raises(ValueError, match="no sha256 digest"):
                    await question
        assert server.asked == []


# ---- headers


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], ()),
        (['Basic realm="tests, of Replay"'], [("basic", {"realm": "tests, of Replay"})]),
        (
            ['Bearer realm="https://a.example/token",service="a",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a.example/token", "service": "a", "scope": "repository:a/b:pull,push"})],
        ),
        (['BEARER Realm = "x" ,  SERVICE=y'], [("bearer", {"realm": "x", "service": "y"})]),
        (['Bearer realm="a \\"b\\", \\\\c"'], [("bearer", {"realm": 'a "b", \\c'})]),
        (['Bearer realm="first", realm="second"'], [("bearer", {"realm": "first"})]),
        (
            ['Negotiate, Basic realm=x, Bearer realm="y"'],
            [("negotiate", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        (["NTLM TlRMTVNTUAAC==, Basic realm=x"], [("ntlm", {}), ("basic", {"realm": "x"})]),
        (["Basic realm=x", 'Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        ([" , ,Basic realm=x,, "], [("basic", {"realm": "x"})]),
        (['Bearer realm=""'], [("bearer", {"realm": ""})]),
    ],
)
def test_challenges_are_read_as_the_rfc_writes_them(
    headers: list[str], found: list[tuple[str, dict[str, str]]]
) -> None:
    assert parse_challenges(headers) == tuple(Challenge(scheme, parameters) for scheme, parameters in found)


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="unclosed',
        "realm=x",
        '"x"',
        "Bearer realm=x;y=z",
        'Bearer realm="a"service="b"',
        "=",
        "x" * 9000,
        'Bearer realm="' + "\\" * 5001,
        "Bearer " + "a=" * 4000 + '"',
    ],
)
def test_other_challenges_are_garbage(header: str) -> None:
    with pytest.raises(RegistryFault):
        parse_challenges([header])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Basic", "Bearer", "Negotiate", "Digest"]),
            st.dictionaries(
                st.from_regex(r"[a-z]{1,8}", fullmatch=True),
                st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
                max_size=4,
            ),
        ),
        max_size=4,
    )
)
def test_whatever_is_quoted_comes_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    written = [
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    ]
    expected = tuple(Challenge(scheme.lower(), parameters) for scheme, parameters in challenges)
    assert parse_challenges(written) == expected


@given(st.text(max_size=200))
def test_any_header_is_read_or_refused(header: str) -> None:
    with suppress(RegistryFault):
        parse_challenges([header])


@pytest.mark.parametrize(
    ("registry", "realm", "trusted"),
    [
        ("https://r.example.org", "https://auth.example.net/token", True),
        ("https://r.example.org", "https://auth.example.net:8443/token?a=b", True),
        ("https://r.example.org", "http://r.example.org/token", False),
        ("https://r.example.org", "http://127.0.0.1/token", False),
        ("http://r.example.org", "https://auth.example.net/token", True),
        ("http://r.example.org", "http://R.example.org:8080/token", True),
        ("http://r.example.org", "http://127.0.0.1:5001/token", True),
        ("http://r.example.org", "http://[::1]:5001/token", True),
        ("http://r.example.org", "http://localhost/token", True),
        ("http://[fd00::1]:5000", "http://[fd00::1]/token", True),
        ("http://r.example.org", "http://auth.example.net/token", False),
        ("http://r.example.org", "http://r.example.org.evil.example/token", False),
        ("http://r.example.org", "http://r.example.org@evil.example/token", False),
        ("http://r.example.org", "http://127.0.0.1.evil.example/token", False),
        ("http://r.example.org", "http://169.254.169.254/token", False),
        ("https://r.example.org", "https://user:password@auth.example.net/token", False),
        ("https://r.example.org", "https://auth.example.net/token#part", False),
        ("https://r.example.org", "https://auth.example.net:99999/token", False),
        ("https://r.example.org", "https:///token", False),
        ("https://r.example.org", "https://" + "a" * 9000, False),
        ("https://r.example.org", "/token", False),
        ("https://r.example.org", "file:///etc/passwd", False),
        ("https://r.example.org", "", False),
        ("https://r.example.org", "https://[::1", False),
    ],
)
def test_passwords_go_to_encrypted_or_near_realms_alone(registry: str, realm: str, trusted: bool) -> None:
    assert is_trusted_realm(realm, RegistrySettings(registry)) is trusted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 12:00:30 -0000", 30.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("9" * 5000, None),
        ("Fri, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
    assert retry_after(httpx.Headers({"Retry-After": text}), now) == seconds


# ---- documents


def manifest_document(**changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "config": {"mediaType": OCI.configuration, "digest": A_DIGEST, "size": 7},
        "layers": [
            {"mediaType": OCI.layer, "digest": B_DIGEST, "size": 10},
            {"mediaType": "", "digest": A_DIGEST, "size": 5},
        ],
    }
    return {name: value for name, value in (document | changes).items() if value is not ...}


def index_document(**changes: Any) -> dict[str, Any]:
    entry = {
        "mediaType": OCI.manifest,
        "digest": A_DIGEST,
        "size": 7,
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    document = {"schemaVersion": 2, "mediaType": OCI.index, "manifests": [entry]}
    return {name: value for name, value in (document | changes).items() if value is not ...}


def test_a_manifest_says_what_an_image_is_made_of() -> None:
    written = json.dumps(manifest_document(annotations={"a": "b", "A": "c"}, subject=None)).encode()
    manifest = parse_manifest(written, OCI.manifest, A_DIGEST)
    assert manifest == Manifest(A_DIGEST, OCI.manifest, A_DIGEST, (Layer(B_DIGEST, 10), Layer(A_DIGEST, 5)), 7)
    assert isinstance(manifest, Manifest)
    assert manifest.size == 15


def test_an_index_leads_to_the_first_image_of_a_platform() -> None:
    entries = [
        {"mediaType": OCI.manifest, "digest": digest, "size": 1, "platform": platform}
        for digest, platform in (
            ("sha256:" + "0" * 64, None),
            ("sha256:" + "1" * 64, {"os": "unknown", "architecture": "unknown"}),
            ("sha256:" + "2" * 64, {"os": "windows", "architecture": "amd64", "os.version": "10"}),
            ("sha256:" + "3" * 64, {"os": "linux", "architecture": "arm64", "variant": "v8"}),
            ("sha256:" + "4" * 64, {"os": "linux", "architecture": "amd64"}),
            ("sha256:" + "5" * 64, {"os": "linux", "architecture": "amd64"}),
        )
    ]
    written = json.dumps(index_document(manifests=entries, mediaType=...)).encode()
    index = parse_manifest(written, OCI.index, A_DIGEST)
    assert isinstance(index, Index)
    assert index.entry_for("linux/arm64").digest == "sha256:" + "3" * 64
    assert index.entry_for("linux/amd64").digest == "sha256:" + "4" * 64
    with pytest.raises(RegistryFault, match=r"not made for the machines here \(linux/s390x\)"):
        index.entry_for("linux/s390x")


SCHEMA_1 = {
    "schemaVersion": 1,
    "name": "a/b",
    "tag": "t",
    "architecture": "amd64",
    "fsLayers": [{"blobSum": A_DIGEST}],
    "history": [{"v1Compatibility": "{}"}],
    "signatures": [],
}


@pytest.mark.parametrize(
    ("media_type", "document"),
    [
        ("application/vnd.docker.distribution.manifest.v1+json", SCHEMA_1),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", SCHEMA_1),
        (DOCKER.manifest, SCHEMA_1),
        ("application/json", manifest_document()),
        ("text/html", manifest_document()),
        ("", manifest_document()),
        (OCI.manifest, None),
        (OCI.manifest, []),
        (OCI.manifest, manifest_document(schemaVersion=1)),
        (OCI.manifest, manifest_document(schemaVersion="2")),
        (OCI.manifest, manifest_document(schemaVersion=True)),
        (OCI.manifest, manifest_document(mediaType=DOCKER.manifest)),
        (OCI.manifest, manifest_document(mediaType=OCI.index)),
        (OCI.manifest, manifest_document(config=None)),
        (OCI.manifest, manifest_document(config=...)),
        (OCI.manifest, manifest_document(layers=None)),
        (OCI.manifest, manifest_document(layers={})),
        (OCI.manifest, manifest_document(manifests=[])),
        (OCI.manifest, manifest_document(Layers=[])),
        (OCI.manifest, manifest_document(CONFIG={})),
        (OCI.manifest, manifest_document(layers=[{"mediaType": "", "digest": "sha256:../../x", "size": 1}])),
        (OCI.manifest, manifest_document(layers=[{"mediaType": "", "digest": A_DIGEST + "\n", "size": 1}])),
        (OCI.manifest, manifest_document(layers=[{"mediaType": "", "digest": A_DIGEST, "size": -1}])),
        (OCI.manifest, manifest_document(layers=[{"mediaType": "", "digest": A_DIGEST, "size": 1.5}])),
        (OCI.manifest, manifest_document(layers=[{"mediaType": "", "digest": A_DIGEST, "size": True}])),
        (OCI.manifest, manifest_document(layers=[{"mediaType": "", "digest": A_DIGEST, "size": 10**30}])),
        (OCI.manifest, manifest_document(layers=[{"mediaType": "", "digest": A_DIGEST, "size": 1}] * 501)),
        (OCI.index, index_document(manifests=None)),
        (OCI.index, index_document(mediaType=OCI.manifest)),
        (OCI.index, index_document(config={})),
        (OCI.index, index_document(layers=[])),
        (OCI.index, index_document(manifests=["x"])),
        (DOCKER.index, index_document()),
    ],
)
def test_other_manifests_are_garbage(media_type: str, document: object) -> None:
    with pytest.raises(RegistryFault, match="makes no sense"):
        parse_manifest(json.dumps(document).encode(), media_type, A_DIGEST)


def test_an_artifact_is_no_image() -> None:
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": A_DIGEST, "size": 2}
    with pytest.raises(RegistryFault, match="something else than an image"):
        parse_manifest(json.dumps(manifest_document(config=empty)).encode(), OCI.manifest, A_DIGEST)


@pytest.mark.parametrize(
    ("document", "configuration"),
    [
        ({}, ImageConfiguration()),
        ({"config": None}, ImageConfiguration()),
        ({"config": {}}, ImageConfiguration()),
        (
            {"config": dict.fromkeys(("User", "WorkingDir", "Env", "Entrypoint", "Cmd", "ExposedPorts", "Labels"))},
            ImageConfiguration(),
        ),
        (
            {
                "architecture": "amd64",
                "config": {
                    "User": "1000:100",
                    "WorkingDir": "/home/ada/work",
                    "Env": ["PATH=/bin", "HOME=/home/ada", "EQUALS=a=b", "NEITHER"],
                    "Entrypoint": ["/usr/bin/tini", "--"],
                    "Cmd": ["jupyter", "lab", "--ip", "0.0.0.0"],
                    "ExposedPorts": {"8888/tcp": {}, "9999": None},
                    "Labels": {"Maintainer": "a", "maintainer": "b", "replay.top-level": "datahub/index.ipynb"},
                    "Healthcheck": {"Test": ["NONE"]},
                },
                "history": [{"created_by": "x", "empty_layer": True}],
            },
            ImageConfiguration(
                user="1000:100",
                working_dir="/home/ada/work",
                home="/home/ada",
                entrypoint=("/usr/bin/tini", "--"),
                command=("jupyter", "lab", "--ip", "0.0.0.0"),
                exposed_ports=("8888/tcp", "9999"),
                top_level=("datahub", "index.ipynb"),
            ),
        ),
        ({"config": {"Env": ["HOME=/a", "HOME=/b"]}}, ImageConfiguration(home="/b")),
        ({"config": {"Env": ["HOME=", "HOMES=/x", "home=/y"]}}, ImageConfiguration(home=None)),
        ({"config": {"Cmd": ["", "ü", "a\nb"]}}, ImageConfiguration(command=("", "ü", "a\nb"))),
    ],
)
def test_a_configuration_says_how_an_image_runs(document: object, configuration: ImageConfiguration) -> None:
    text = json.dumps(document)
    assert parse_configuration(text) == configuration
    assert parse_configuration(text.encode()) == configuration


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"config"',
        "{",
        '{"config": []}',
        '{"config": ""}',
        '{"config": {"User": 1000}}',
        '{"config": {"WorkingDir": ["/"]}}',
        '{"config": {"Env": {"HOME": "/"}}}',
        '{"config": {"Env": "HOME=/"}}',
        '{"config": {"Env": [null]}}',
        '{"config": {"Entrypoint": "sh"}}',
        '{"config": {"Cmd": [1]}}',
        '{"config": {"ExposedPorts": ["8888/tcp"]}}',
        '{"config": {"Cmd": ["a\\u0000b"]}}',
        '{"config": {"User": "\\u0000"}}',
        '{"config": {"Cmd": ["\\ud800"]}}',
        '{"config": {"User": "a"}, "config": {}}',
        '{"config": {"User": "a", "User": "b"}}',
        '{"config": {"User": "a", "user": "root"}}',
        '{"config": {"uſer": "root"}}',
        '{"Config": {"User": "root"}}',
        '{"config": {"User": "%s"}}' % ("a" * 257),
        '{"config": {"WorkingDir": "/%s"}}' % ("a" * 4096),
        '{"config": {"Cmd": ["%s"]}}' % ("a" * (128 * 1024 + 1)),
        json.dumps({"config": {"Env": ["A=b"] * 4097}}),
        json.dumps({"config": {"ExposedPorts": {f"{port}/tcp": {} for port in range(4097)}}}),
        '{"x": NaN}',
        '{"x": Infinity}',
        '{"x": ' + "1" * 5000 + "}",
        "[" * 90_000,
        '{"a":' * 90_000,
        '{"x": [' + "[]," * 60_000 + "[]]}",
        " " * CONFIGURATION_LIMIT + "{}",
        b"\xff\xfe{}",
        '{"config": {}}'.encode("utf-16"),
        b"\x1f\x8b\x08",
    ],
)
def test_other_configurations_are_garbage(text: str | bytes) -> None:
    with pytest.raises(RegistryFault, match="makes no sense"):
        parse_configuration(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["config", "User", "Env", "Cmd", "Entrypoint", "ExposedPorts", "x"]), inner)
    ),
    max_leaves=12,
)


@given(_JSON | st.binary(max_size=40))
def test_whatever_comes_is_a_configuration_or_a_fault(document: object) -> None:
    text = document if isinstance(document, bytes) else json.dumps(document)
    with suppress(RegistryFault):
        assert isinstance(parse_configuration(text), ImageConfiguration)


# ---- servers


@dataclass
class Clock:
    """Time that passes when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


Answering = Callable[[Asked], Reply | Awaitable[Reply]]


@asynccontextmanager
async def registry_that(
    answer: Answering, *, clock: Clock | None = None, **settings: Any
) -> AsyncGenerator[tuple[Registry, ScriptedServer]]:
    """Replay's client, and a server that answers like that."""
    async with (
        ScriptedServer(answer) as server,
        Registry(RegistrySettings(server.url, **settings), architecture="amd64", clock=clock or Clock()) as registry,
    ):
        yield registry, server


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER.manifest,
        "config": {"mediaType": DOCKER.configuration, "digest": digest_of(b"{}"), "size": 2},
        "layers": [],
    }
).encode()
VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
GOOD = {"Content-Type": DOCKER.manifest, "Docker-Content-Digest": digest_of(MANIFEST)} | VERSION
IMAGE = Manifest(digest_of(MANIFEST), DOCKER.manifest, digest_of(b"{}"), (), 2)
NOT_FOUND = Reply(404, VERSION)


def good(asked: Asked) -> Reply:
    """A registry with one image under every name."""
    if asked.target == "/v2/":
        return Reply(200, VERSION, b"{}")
    if "/blobs/" in asked.target:
        return Reply(200, VERSION, b"{}")
    return Reply(202, VERSION) if asked.method == "DELETE" else Reply(200, GOOD, MANIFEST)


Question = Callable[[Registry], Awaitable[object]]
QUESTIONS: dict[str, Question] = {
    "ping": lambda registry: registry.ping(),
    "exists": lambda registry: registry.exists("a/b", "tag"),
    "manifest": lambda registry: registry.manifest("a/b", "tag"),
    "configuration": lambda registry: registry.configuration("a/b", IMAGE),
    "missing_blobs": lambda registry: registry.missing_blobs("a/b", IMAGE),
    "delete": lambda registry: registry.delete("a/b", A_DIGEST),
}
each_question = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())


@each_question
async def test_a_good_registry_is_understood(question: Question) -> None:
    async with registry_that(good) as (registry, server):
        assert await question(registry) in (None, True, IMAGE, ImageConfiguration(), ())
        assert len(server.asked) == 1


@each_question
@pytest.mark.parametrize(
    ("status", "sentence", "attempts"),
    [
        (401, "asks who Replay is in a way", 1),
        (403, "does not allow Replay", 1),
        (405, "does not", 1),
        (302, "sends Replay elsewhere", 3),
        (400, "gave an answer that makes no sense", 3),
        (408, "a problem of its own", 3),
        (418, "gave an answer that makes no sense", 3),
        (429, "asked too much", 3),
        (500, "a problem of its own", 3),
        (502, "a problem of its own", 3),
        (503, "a problem of its own", 3),
        (504, "a problem of its own", 3),
    ],
)
async def test_a_refusal_is_told_and_a_fault_is_asked_again_first(
    question: Question, status: int, sentence: str, attempts: int
) -> None:
    def answer(asked: Asked) -> Reply:
        # A page like those of the proxies that give such answers.
        return Reply(status, {"Content-Type": "text/html"}, b"<h1>Sorry</h1>")

    async with registry_that(answer) as (registry, server):
        with pytest.raises(SourceFault) as caught:
            await question(registry)
        assert sentence in str(caught.value)
        assert len(server.asked) == attempts


@each_question
async def test_one_fault_is_got_over(question: Question) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(503, {"Retry-After": "0"}) if len(server.asked) == 1 else good(asked)

    async with registry_that(answer) as (registry, server):
        await question(registry)
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wait", ["3600", "Fri, 20 Nov 2126 12:00:30 GMT"])
async def test_a_registry_that_wants_to_be_left_alone_for_long_is(status: int, wait: str) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(status, {"Retry-After": wait})

    async with registry_that(answer) as (registry, server):
        with pytest.raises(RegistryFault, match=r"asked too much|problem of its own"):
            await registry.exists("a", "tag")
        assert len(server.asked) == 1


async def test_a_short_wait_that_the_registry_asks_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    def answer(asked: Asked) -> Reply:
        return Reply(429, {"Retry-After": "2"}) if len(server.asked) == 1 else good(asked)

    async with registry_that(answer) as (registry, server):
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "sleep", noted)
            assert await registry.exists("a", "tag")
    assert 2.0 in waits


@each_question
async def test_a_404_that_is_not_the_registrys_own_is_a_fault(question: Question) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(404, {"Content-Type": "text/html"}, b"<h1>404</h1> nginx")

    async with registry_that(answer) as (registry, _):
        with pytest.raises(RegistryFault):
            await question(registry)


@pytest.mark.parametrize("code", ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"])
async def test_a_404_with_the_registrys_own_word_is_an_answer(code: str) -> None:
    """The header that says it first is optional (distribution specification, “Legacy Docker support HTTP headers”)."""

    def answer(asked: Asked) -> Reply:
        return Reply(404, {}, json.dumps({"errors": [{"code": code, "message": "m", "detail": {}}]}).encode())

    async with registry_that(answer) as (registry, server):
        assert await registry.exists("a", "tag") is False
        assert [asked.method for asked in server.asked] == ["HEAD", "GET"]
        assert await registry.manifest("a", "tag") is None
        assert await registry.delete("a", A_DIGEST) is False
        assert await registry.missing_blobs("a", IMAGE) == (IMAGE.config_digest,)
        with pytest.raises(RegistryFault, match="lost a part of this image"):
            await registry.configuration("a", IMAGE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"errors": []}',
        b'{"errors": [{"code": "DENIED"}]}',
        b'{"errors": "NAME_UNKNOWN"}',
        b"[" * 60_000,
        b'{"errors": [{"code": "NAME_UNKNOWN"}], "x": "' + b"x" * 70_000 + b'"}',
    ],
)
async def test_a_404_with_another_word_is_a_fault(body: bytes) -> None:
    async with registry_that(lambda asked: Reply(404, {}, body)) as (registry, _):
        with pytest.raises(RegistryFault):
            await registry.exists("a", "tag")


SCHEMA_1_TYPE = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OTHER = MANIFEST + b" "


@pytest.mark.parametrize(
    ("reference", "reply"),
    [
        pytest.param("tag", Reply(200, {"Content-Type": "text/html"}, b"<h1>Welcome</h1>"), id="a page"),
        pytest.param("tag", Reply(200, VERSION, MANIFEST), id="no type"),
        pytest.param("tag", Reply(200, {"Content-Type": SCHEMA_1_TYPE}, json.dumps(SCHEMA_1).encode()), id="schema 1"),
        pytest.param("tag", Reply(200, GOOD | {"Docker-Content-Digest": "x"}, MANIFEST), id="no digest"),
        pytest.param("tag", Reply(206, GOOD, MANIFEST), id="a part"),
        pytest.param("tag", Reply(204, GOOD), id="nothing"),
        pytest.param(A_DIGEST, Reply(200, GOOD, MANIFEST), id="another image"),
    ],
)
async def test_strange_answers_are_no_image_and_no_missing_image(reference: str, reply: Reply) -> None:
    async with registry_that(lambda asked: reply) as (registry, server):
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.exists("a", reference)
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.manifest("a", reference)
        assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("reference", "reply"),
    [
        pytest.param("tag", Reply(200, GOOD, OTHER), id="not the digest of the header"),
        pytest.param(digest_of(MANIFEST), Reply(200, GOOD, OTHER), id="not the digest of the header and reference"),
        pytest.param(
            digest_of(MANIFEST),
            Reply(200, {"Content-Type": DOCKER.manifest}, OTHER),
            id="not the digest of the reference",
        ),
        pytest.param("tag", Reply(200, GOOD, b""), id="empty"),
        pytest.param("tag", Reply(200, GOOD | {"Content-Encoding": "gzip"}, gzip.compress(MANIFEST)), id="packed"),
        pytest.param("tag", Reply(200, GOOD, MANIFEST + b" " * MANIFEST_LIMIT), id="too long"),
    ],
)
async def test_a_body_is_believed_by_its_digest_alone(reference: str, reply: Reply) -> None:
    async with registry_that(lambda asked: reply) as (registry, server):
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.manifest("a", reference)
        assert len(server.asked) == 3


async def test_a_digest_that_the_registry_does_not_name_is_computed() -> None:
    reply = Reply(200, {"Content-Type": f"{DOCKER.manifest.upper()} ; charset=utf-8"}, MANIFEST)
    async with registry_that(lambda asked: reply) as (registry, _):
        assert await registry.manifest("a", "tag") == IMAGE
        assert await registry.exists("a", "tag")


async def test_all_four_kinds_of_manifest_are_asked_for() -> None:
    async with registry_that(good) as (registry, server):
        await registry.exists("a", "tag")
        await registry.manifest("a", "tag")
        for asked in server.asked:
            types = {part.strip() for part in asked.headers["accept"].split(",")}
            assert types == {DOCKER.manifest, DOCKER.index, OCI.manifest, OCI.index}
            assert asked.headers["accept-encoding"] == "identity"


async def test_an_index_whose_image_is_gone_names_no_image() -> None:
    index = json.dumps(index_document()).encode()

    def answer(asked: Asked) -> Reply:
        return NOT_FOUND if A_DIGEST in asked.target else Reply(200, {"Content-Type": OCI.index}, index)

    async with registry_that(answer) as (registry, _):
        assert await registry.manifest("a", "tag") is None


async def test_an_index_of_indexes_is_told() -> None:
    inner = json.dumps(index_document()).encode()
    entry = {
        "mediaType": OCI.index,
        "digest": digest_of(inner),
        "size": len(inner),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    outer = json.dumps(index_document(manifests=[entry])).encode()

    def answer(asked: Asked) -> Reply:
        return Reply(200, {"Content-Type": OCI.index}, inner if digest_of(inner) in asked.target else outer)

    async with registry_that(answer) as (registry, server):
        with pytest.raises(RegistryFault, match="index of indexes"):
            await registry.manifest("a", "tag")
        assert len(server.asked) == 2


async def test_an_image_of_another_size_than_its_index_says_is_a_fault() -> None:
    entry = {
        "mediaType": DOCKER.manifest,
        "digest": digest_of(MANIFEST),
        "size": len(MANIFEST) + 1,
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    index = json.dumps(index_document(manifests=[entry])).encode()

    def answer(asked: Asked) -> Reply:
        return good(asked) if "sha256:" in asked.target else Reply(200, {"Content-Type": OCI.index}, index)

    async with registry_that(answer) as (registry, _):
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.manifest("a", "tag")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}" + b" " * CONFIGURATION_LIMIT])
async def test_a_configuration_of_another_digest_is_a_fault(body: bytes) -> None:
    async with registry_that(lambda asked: Reply(200, VERSION, body)) as (registry, server):
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.configuration("a", IMAGE)
        assert len(server.asked) == 3


async def test_a_configuration_too_large_is_not_fetched() -> None:
    async with registry_that(good) as (registry, server):
        with pytest.raises(RegistryFault, match="far too large"):
            await registry.configuration("a", replace(IMAGE, config_size=CONFIGURATION_LIMIT + 1))
        assert server.asked == []


async def test_blobs_are_asked_for_once_each_a_few_at_a_time() -> None:
    go_on = asyncio.Event()

    async def answer(asked: Asked) -> Reply:
        await go_on.wait()
        return Reply(200, VERSION | {"Content-Length": "1"})

    layers = tuple(Layer(digest_of(b"%d" % number), 1) for number in range(30))
    image = replace(IMAGE, layers=layers + layers[:10], config_size=1)
    async with registry_that(answer) as (registry, server):
        asking = asyncio.create_task(registry.missing_blobs("a", image))
        await server.until(lambda asked: len(asked) == client.BLOBS_AT_ONCE)
        with pytest.raises(TimeoutError):  # a chance for one more, which must not come
            await asyncio.wait_for(server.until(lambda asked: len(asked) > client.BLOBS_AT_ONCE), 0.2)
        go_on.set()
        assert await asking == ()
        assert sorted(asked.target for asked in server.asked) == sorted(
            f"/v2/a/blobs/{digest}" for digest in {image.config_digest, *(layer.digest for layer in layers)}
        )


async def test_one_faulty_blob_is_one_fault() -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(403) if A_DIGEST in asked.target else Reply(200, {"Content-Length": "1"})

    image = replace(IMAGE, layers=(Layer(A_DIGEST, 1), Layer(B_DIGEST, 1)), config_size=1)
    async with registry_that(answer) as (registry, _):
        with pytest.raises(RegistryFault, match="does not allow"):
            await registry.missing_blobs("a", image)


async def test_a_registry_that_deletes_nothing_says_so() -> None:
    for status, body in (
        (405, b""),
        (405, b'{"errors": [{"code": "UNSUPPORTED"}]}'),
        (400, b'{"errors": [{"code": "UNSUPPORTED"}]}'),
    ):
        async with registry_that(lambda asked, s=status, b=body: Reply(s, VERSION, b)) as (registry, server):
            with pytest.raises(RegistryFault, match="does not allow anything to be deleted"):
                await registry.delete("a", A_DIGEST)
            assert len(server.asked) == 1


async def test_a_page_is_no_registry() -> None:
    async with registry_that(lambda asked: Reply(200, {"Content-Type": "text/html"}, b"<h1>Hello</h1>")) as (
        registry,
        _,
    ):
        with pytest.raises(RegistryFault, match="no image registry at the address"):
            await registry.ping()


# ---- slow and endless servers


async def silent(asked: Asked) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def dripping(asked: Asked) -> Reply:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    return Reply(200, {"Content-Type": DOCKER.manifest}, parts=drops())


@pytest.mark.parametrize("answer", [silent, dripping], ids=["silent", "dripping"])
@pytest.mark.parametrize("question", [QUESTIONS["manifest"], QUESTIONS["configuration"], QUESTIONS["ping"]])
async def test_a_slow_registry_is_given_up(answer: Answering, question: Question) -> None:
    async with registry_that(answer, timeout=0.3) as (registry, server):
        with pytest.raises(RegistryFault, match="too long to answer"):
            await question(registry)
        # Each of three attempts may take half of the time, and all of them no more than the whole.
        assert len(server.asked) <= 2


@pytest.mark.parametrize("first", [silent, dripping], ids=["silent", "dripping"])
async def test_an_attempt_that_hangs_leaves_time_for_another(first: Callable[[Asked], Awaitable[Reply]]) -> None:
    async def answer(asked: Asked) -> Reply:
        return await first(asked) if len(server.asked) == 1 else good(asked)

    async with registry_that(answer, timeout=4.0) as (registry, server):
        assert await registry.manifest("a", "tag") == IMAGE
        assert len(server.asked) == 2


async def test_blobs_are_given_up_together() -> None:
    image = replace(IMAGE, layers=tuple(Layer(digest_of(b"%d" % number), 1) for number in range(30)))
    async with registry_that(silent, timeout=0.3) as (registry, _):
        with pytest.raises(RegistryFault, match="too long to answer"):
            await registry.missing_blobs("a", image)


async def test_blobs_that_each_come_in_time_may_take_too_long_together() -> None:
    async def answer(asked: Asked) -> Reply:
        await asyncio.sleep(0.1)
        return Reply(200, {"Content-Length": "1"})

    layers = tuple(Layer(digest_of(b"%d" % number), 1) for number in range(300))
    async with registry_that(answer, timeout=0.5) as (registry, _):
        with pytest.raises(RegistryFault, match="too long to answer"):
            await registry.missing_blobs("a", replace(IMAGE, layers=layers, config_size=1))


async def test_a_registry_that_is_not_there_is_a_fault() -> None:
    async with ScriptedServer(good) as server:
        url = server.url
    async with Registry(RegistrySettings(url)) as registry:
        for question in QUESTIONS.values():
            with pytest.raises(RegistryFault, match="does not answer"):
                await question(registry)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65536


@pytest.mark.parametrize("status", [200, 404, 500, 401])
async def test_an_endless_answer_is_cut_off(status: int) -> None:
    async with registry_that(lambda asked: Reply(status, parts=endless())) as (registry, server):
        with pytest.raises(RegistryFault):
            await registry.manifest("a", "tag")
        # Three times the limit, and what the machine's buffers take.
        assert server.sent < 64 * 2**20


async def test_an_endless_redirect_is_not_read() -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(200, {}, b"{}") if asked.target == "/here" else Reply(307, {"Location": "/here"}, parts=endless())

    async with registry_that(answer) as (registry, server):
        assert await registry.configuration("a", IMAGE) == ImageConfiguration()
        assert server.sent < 64 * 2**20


async def test_connections_are_kept() -> None:
    async with registry_that(good) as (registry, server):
        for _ in range(3):
            assert await registry.exists("a", "tag")
            assert await registry.manifest("a", "tag")
            assert await registry.configuration("a", IMAGE)
        assert server.connections == 1


async def test_no_cookie_is_kept() -> None:
    def answer(asked: Asked) -> Reply:
        answered = good(asked)
        return replace(answered, headers=dict(answered.headers) | {"Set-Cookie": "a=b; Path=/"})

    async with registry_that(answer) as (registry, server):
        await registry.exists("a", "tag")
        await registry.exists("a", "tag")
        assert not any("cookie" in asked.headers for asked in server.asked)


async def test_nothing_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with registry_that(good) as (registry, _):
        assert await registry.exists("a", "tag")


# ---- redirects


@asynccontextmanager
async def redirecting(
    location: Callable[[str, str], str], **settings: Any
) -> AsyncGenerator[tuple[Registry, ScriptedServer, ScriptedServer]]:
    """A registry with basic authentication, and storage elsewhere that it may lead to."""

    def answer(asked: Asked) -> Reply:
        if asked.authorization is None:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
        if "/blobs/" in asked.target:
            return Reply(307, {"Location": location(server.url, storage.url)})
        return good(asked)

    async with (
        ScriptedServer(lambda asked: Reply(200, {}, b"{}"), "127.0.0.2") as storage,
        registry_that(answer, username=USER, password=PASSWORD, **settings) as (registry, server),
    ):
        yield registry, server, storage


async def test_storage_elsewhere_gets_no_credentials() -> None:
    async with redirecting(lambda registry, storage: f"{storage}/object?signature=s") as (registry, server, storage):
        assert await registry.configuration("a", IMAGE) == ImageConfiguration()
        assert await registry.missing_blobs("a", IMAGE) == ()
        assert [(asked.method, asked.target) for asked in storage.asked] == [
            ("GET", "/object?signature=s"),
            ("HEAD", "/object?signature=s"),
        ]
        assert not any("authorization" in asked.headers for asked in storage.asked)
        assert any(asked.authorization for asked in server.asked)


async def test_another_port_of_the_same_host_gets_no_credentials() -> None:
    async with ScriptedServer(lambda asked: Reply(200, {}, b"{}")) as storage:
        async with redirecting(lambda *_: storage.url) as (registry, _, _):
            assert await registry.configuration("a", IMAGE) == ImageConfiguration()
        assert [asked.authorization for asked in storage.asked] == [None]


async def test_a_redirect_within_the_registry_keeps_the_credentials() -> None:
    async with redirecting(lambda registry, storage: "/elsewhere/") as (registry, server, _):
        server.answer = _answered_once_elsewhere(server.answer)
        assert await registry.configuration("a", IMAGE) == ImageConfiguration()
        assert server.asked[-1].target == "/elsewhere/"
        assert server.asked[-1].authorization is not None


def _answered_once_elsewhere(answer: Answering) -> Answering:
    return lambda asked: Reply(200, {}, b"{}") if asked.target == "/elsewhere/" else answer(asked)


@pytest.mark.parametrize(
    ("origin", "target", "carried"),
    [
        ("http://r.example", "http://r.example/elsewhere", True),
        ("http://r.example", "https://r.example/elsewhere", False),
        ("https://r.example", "http://r.example/elsewhere", False),
        ("https://r.example", "https://r.example:8443/elsewhere", False),
        ("https://r.example", "https://s.r.example/elsewhere", False),
    ],
)
async def test_credentials_stay_with_the_exact_origin(origin: str, target: str, carried: bool) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(307, headers={"Location": target}) if len(seen) == 1 else httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as asking:
        request = asking.build_request("GET", origin, headers={"Authorization": "Basic x"})
        assert (await send(asking, request, limit=None, follow=True)).redirected
    assert str(seen[1].url) == target
    assert ("Authorization" in seen[1].headers) is carried


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        f"http://{USER}:{PASSWORD}@127.0.0.2/",
        "http://[::1",
        "http://",
        "javascript:alert(1)",
        "http://" + "a" * 70 + ".example/",
        "http://host/" + "a" * 9000,
        "\x7f",
    ],
)
async def test_a_redirect_to_what_cannot_be_asked_is_a_fault(location: str) -> None:
    async with redirecting(lambda *_: location, timeout=5.0) as (registry, _, storage):
        with pytest.raises(RegistryFault):
            await registry.configuration("a", IMAGE)
        assert storage.asked == []


async def test_a_circle_of_redirects_ends() -> None:
    async with redirecting(lambda registry, storage: f"{registry}/v2/a/blobs/{A_DIGEST}") as (registry, server, _):
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.configuration("a", IMAGE)
        assert len([asked for asked in server.asked if "/blobs/" in asked.target]) == 3 * (MAX_REDIRECTS + 1)


@pytest.mark.parametrize(("status", "missing"), [(404, True), (401, None), (403, None), (500, None)])
async def test_storage_that_has_lost_a_blob_is_believed_and_storage_that_refuses_is_not(
    status: int, missing: bool | None
) -> None:
    async with redirecting(lambda registry, storage: f"{storage}/object") as (registry, _, storage):
        storage.answer = lambda asked: Reply(status, {"WWW-Authenticate": 'Basic realm="give me your password"'})
        if missing is None:
            with pytest.raises(RegistryFault):
                await registry.missing_blobs("a", IMAGE)
        else:
            assert await registry.missing_blobs("a", IMAGE) == (IMAGE.config_digest,)
        assert not any("authorization" in asked.headers for asked in storage.asked)


@pytest.mark.parametrize("challenge", ['Basic realm="r"', 'Bearer realm="{url}/token",service="s"'])
async def test_storage_that_asks_who_is_there_is_not_told(challenge: str) -> None:
    """Only the registry's own question is answered, even where the registry never asked one."""

    def storage_answer(asked: Asked) -> Reply:
        return Reply(401, {"WWW-Authenticate": challenge.format(url=storage.url)})

    def answer(asked: Asked) -> Reply:
        return Reply(307, {"Location": f"{storage.url}/object"}) if "/blobs/" in asked.target else good(asked)

    async with (
        ScriptedServer(storage_answer) as storage,
        registry_that(answer, username=USER, password=PASSWORD) as (registry, server),
    ):
        for question in ("configuration", "missing_blobs"):
            with pytest.raises(RegistryFault):
                await QUESTIONS[question](registry)
        assert not any(asked.authorization for asked in (*server.asked, *storage.asked))
        assert {asked.target for asked in storage.asked} == {"/object"}


async def test_manifests_and_deletions_are_not_redirected() -> None:
    async with ScriptedServer(good, "127.0.0.2") as elsewhere:
        async with registry_that(lambda asked: Reply(307, {"Location": f"{elsewhere.url}{asked.target}"})) as (
            registry,
            _,
        ):
            for question in ("ping", "exists", "manifest", "delete"):
                with pytest.raises(RegistryFault):
                    await QUESTIONS[question](registry)
        assert elsewhere.asked == []


# ---- who asks


class TokenRegistry:
    """A registry that takes the tokens of a token server, which are numbered, and both in one."""

    def __init__(self, **answer: Any) -> None:
        self.given = 0
        self.taken: set[str] | None = None
        """Tokens that the registry takes; all that were given where it is none."""
        self.document: dict[str, Any] = answer
        self.server: ScriptedServer | None = None
        self.realm = "/token"
        self.error = ""

    def __call__(self, asked: Asked) -> Reply | Awaitable[Reply]:
        assert self.server is not None
        if asked.target.startswith("/token"):
            return self.give(asked)
        token = (asked.authorization or "").removeprefix("Bearer ")
        if token.startswith("token-") and (self.taken is None or token in self.taken):
            return good(asked)
        return Reply(
            401,
            {
                "WWW-Authenticate": f'Bearer realm="{self.server.url}{self.realm}",service="a, \\"b\\"",scope="x"{self.error}'
            },
        )

    def give(self, asked: Asked) -> Reply | Awaitable[Reply]:
        self.given += 1
        return Reply(200, {}, json.dumps({"token": f"token-{self.given}"} | self.document).encode())

    @property
    def asked_for_tokens(self) -> list[Asked]:
        assert self.server is not None
        return [asked for asked in self.server.asked if asked.target.startswith("/token")]


@asynccontextmanager
async def token_registry(
    made: TokenRegistry, *, account: bool = False, clock: Clock | None = None, **settings: Any
) -> AsyncGenerator[tuple[Registry, ScriptedServer]]:
    if account:
        settings |= {"username": USER, "password": PASSWORD}
    async with registry_that(made, clock=clock, **settings) as (registry, server):
        made.server = server
        yield registry, server


async def test_a_token_is_asked_for_once_for_each_scope() -> None:
    made = TokenRegistry()
    async with token_registry(made) as (registry, server):
        for _ in range(2):
            await registry.exists("a/b", "tag")
            await registry.manifest("a/b", "tag")
            await registry.exists("c", "tag")
            await registry.delete("a/b", A_DIGEST)
        queries = [dict(httpx.URL(asked.target).params) for asked in made.asked_for_tokens]
        assert queries == [
            {"service": 'a, "b"', "scope": scope}
            for scope in ("repository:a/b:pull", "repository:c:pull", "repository:a/b:pull,delete")
        ]
        assert all(asked.authorization is None for asked in made.asked_for_tokens)
        before = len(server.asked)
        assert await registry.exists("a/b", "other")
        assert len(server.asked) == before + 1


async def test_the_password_goes_to_the_realm_alone() -> None:
    made = TokenRegistry()
    async with token_registry(made, account=True) as (registry, server):
        await registry.exists("a/b", "tag")
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert [(asked.target.partition("?")[0], asked.authorization) for asked in server.asked] == [
            ("/v2/", None),
            ("/token", basic),
            ("/v2/a/b/manifests/tag", "Bearer token-1"),
        ]


@pytest.mark.parametrize(
    ("document", "fresh_for"),
    [
        ({}, 54),
        ({"expires_in": None}, 54),
        ({"expires_in": 300}, 290),
        ({"expires_in": 300.5}, 290.5),
        ({"expires_in": 10**6}, 3590),
        ({"expires_in": 10}, 9),
        ({"expires_in": 0}, 0),
        ({"expires_in": -5}, 0),
        ({"token": "", "access_token": "token-x"}, 54),
        ({"token": None, "access_token": "token-x"}, 54),
    ],
)
async def test_a_token_is_used_until_shortly_before_its_end(document: dict[str, Any], fresh_for: float) -> None:
    clock = Clock()
    made = TokenRegistry(**document)
    async with token_registry(made, clock=clock) as (registry, _):
        await registry.exists("a", "tag")
        if fresh_for:
            clock.now += fresh_for - 0.1
            await registry.exists("a", "tag")
            assert made.given == 1
            clock.now += 0.2
        await registry.exists("a", "tag")
        assert made.given == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 1}',
        b'{"token": ""}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX-Evil: b"}',
        b'{"token": "a\\n"}',
        '{"token": "ä"}'.encode(),
        b'{"token": "token", "expires_in": "long"}',
        b'{"token": "token", "expires_in": NaN}',
        b'{"token": "' + b"a" * 40_000 + b'"}',
        b'{"token": "a", "x": "' + b"a" * 2**20 + b'"}',
        b"<h1>Log in</h1>",
    ],
)
async def test_a_strange_token_is_a_fault(body: bytes) -> None:
    made = TokenRegistry()
    made.give = lambda asked: Reply(200, {}, body)
    async with token_registry(made) as (registry, _):
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.exists("a", "tag")
        assert len(made.asked_for_tokens) == 3


@pytest.mark.parametrize(
    ("account", "status", "sentence", "attempts"),
    [
        (True, 401, "refused Replay's credentials", 1),
        (False, 401, "Replay has no account there", 1),
        (True, 403, "does not allow Replay", 1),
        (True, 404, "makes no sense", 3),
        (True, 307, "sends Replay elsewhere", 3),
        (True, 429, "asked too much", 3),
        (True, 500, "problem of its own", 3),
    ],
)
async def test_a_token_server_that_gives_none_is_told(account: bool, status: int, sentence: str, attempts: int) -> None:
    made = TokenRegistry()
    made.give = lambda asked: Reply(status, {"Location": "/elsewhere"})
    async with token_registry(made, account=account) as (registry, server):
        with pytest.raises(RegistryFault, match=sentence):
            await registry.exists("a", "tag")
        assert len(made.asked_for_tokens) == attempts
        assert not any(asked.target == "/elsewhere" for asked in server.asked)


async def test_a_token_that_is_no_longer_taken_is_replaced_once() -> None:
    made = TokenRegistry()
    async with token_registry(made) as (registry, _):
        assert await registry.exists("a", "tag")
        made.taken = {"token-2"}
        assert await registry.exists("a", "tag")
        assert made.given == 2
        made.taken = set()
        with pytest.raises(RegistryFault, match="refused Replay's credentials"):
            await registry.exists("a", "tag")
        assert made.given == 3
        made.taken = None
        assert await registry.exists("a", "tag")
        assert made.given == 4


async def test_a_new_token_that_is_not_taken_is_not_replaced() -> None:
    made = TokenRegistry()
    made.taken = set()
    async with token_registry(made, account=True) as (registry, _):
        with pytest.raises(RegistryFault, match="refused Replay's credentials"):
            await registry.exists("a", "tag")
        assert made.given == 1


async def test_a_token_for_less_than_was_asked_is_told_as_such() -> None:
    made = TokenRegistry()
    made.taken = set()
    made.error = ',error="insufficient_scope"'
    async with token_registry(made, account=True) as (registry, _):
        with pytest.raises(RegistryFault, match="does not allow Replay"):
            await registry.exists("a", "tag")


async def test_a_realm_that_moves_is_found_again() -> None:
    made = TokenRegistry(expires_in=300)
    clock = Clock()
    async with token_registry(made, account=True, clock=clock) as (registry, _):
        assert await registry.exists("a", "tag")
        clock.now += 1000
        give = made.give
        made.give = lambda asked: give(asked) if asked.target.startswith("/token/new") else Reply(404)
        made.realm = "/token/new"
        assert await registry.exists("a", "tag")


async def test_many_who_need_one_token_share_it() -> None:
    made = TokenRegistry()
    all_here = asyncio.Event()
    give = made.give

    async def patient(asked: Asked) -> Reply:
        await all_here.wait()
        answer = give(asked)
        assert isinstance(answer, Reply)
        return answer

    made.give = patient
    async with token_registry(made) as (registry, server):
        # More would wait for a connection, and the token server needs one too.
        asking = [asyncio.create_task(registry.exists("a", f"tag-{number}")) for number in range(12)]
        await server.until(lambda asked: len([each for each in asked if each.method == "HEAD"]) == 12)
        all_here.set()
        assert all(await asyncio.gather(*asking))
        assert made.given == 1


async def test_many_who_need_one_token_share_its_refusal() -> None:
    made = TokenRegistry()
    all_here = asyncio.Event()

    async def refusing(asked: Asked) -> Reply:
        await all_here.wait()
        return Reply(401)

    made.give = refusing
    async with token_registry(made, account=True) as (registry, server):
        asking = [asyncio.create_task(registry.exists("a", f"tag-{number}")) for number in range(5)]
        await server.until(lambda asked: any("/token" in each.target for each in asked))
        all_here.set()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert all("refused Replay's credentials" in str(outcome) for outcome in outcomes)


async def test_one_who_leaves_takes_no_token_from_the_others() -> None:
    made = TokenRegistry()
    give = made.give
    asked_once = asyncio.Event()

    async def first_never(asked: Asked) -> Reply:
        if len(made.asked_for_tokens) == 1:
            asked_once.set()
            await asyncio.Event().wait()
        answer = give(asked)
        assert isinstance(answer, Reply)
        return answer

    made.give = first_never
    async with token_registry(made) as (registry, _):
        leaving = asyncio.create_task(registry.exists("a", "first"))
        await asked_once.wait()
        staying = asyncio.create_task(registry.exists("a", "second"))
        await asyncio.sleep(0)  # it now waits for the token of the one who leaves
        leaving.cancel()
        assert await staying
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert len(made.asked_for_tokens) == 2


async def test_one_who_waits_for_a_token_and_leaves_takes_it_from_nobody() -> None:
    made = TokenRegistry()
    give = made.give
    asked_once, go_on = asyncio.Event(), asyncio.Event()

    async def patient(asked: Asked) -> Reply:
        asked_once.set()
        await go_on.wait()
        answer = give(asked)
        assert isinstance(answer, Reply)
        return answer

    made.give = patient
    async with token_registry(made) as (registry, _):
        asking = [asyncio.create_task(registry.exists("a", "first"))]
        await asked_once.wait()
        asking += [asyncio.create_task(registry.exists("a", f"tag-{number}")) for number in range(3)]
        await asyncio.sleep(0)  # they now wait for the first one's token
        asking[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking[1]
        go_on.set()
        assert all([await asking[0], await asking[2], await asking[3]])
        assert made.given == 1


async def test_a_token_that_somebody_else_replaced_is_not_replaced_again() -> None:
    made = TokenRegistry()
    held, go_on = asyncio.Event(), asyncio.Event()

    async def answer(asked: Asked) -> Reply:
        if asked.target.endswith("slow") and asked.authorization == "Bearer token-1":
            held.set()
            await go_on.wait()
        answered = made(asked)
        assert isinstance(answered, Reply)
        return answered

    async with token_registry(made) as (registry, server):
        server.answer = answer
        assert await registry.exists("a", "tag")
        made.taken = {"token-2"}
        slow = asyncio.create_task(registry.exists("a", "slow"))
        await held.wait()
        assert await registry.exists("a", "tag")
        go_on.set()
        assert await slow
        assert made.given == 2


async def test_a_realm_that_is_not_trusted_gets_nothing() -> None:
    made = TokenRegistry()
    async with token_registry(made, account=True) as (registry, server):
        made.realm = "@evil.example/token"
        with pytest.raises(RegistryFault, match="does not trust with its account"):
            await registry.exists("a", "tag")
        assert [asked.target for asked in server.asked] == ["/v2/"]


async def test_an_account_is_used_before_a_registry_can_hide_what_strangers_may_not_see() -> None:
    def answer(asked: Asked) -> Reply:
        if asked.authorization is None:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'}) if asked.target == "/v2/" else NOT_FOUND
        return good(asked)

    async with registry_that(answer, username=USER, password=PASSWORD) as (registry, server):
        assert await registry.exists("a", "tag")
        assert await registry.exists("a", "tag")
        assert [asked.target for asked in server.asked] == ["/v2/"] + ["/v2/a/manifests/tag"] * 2


async def test_a_registry_that_asks_nobody_gets_no_password() -> None:
    async with registry_that(good, username=USER, password=PASSWORD) as (registry, server):
        assert await registry.exists("a", "tag")
        assert not any(asked.authorization for asked in server.asked)


async def test_a_registry_that_changes_how_it_asks_is_followed() -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="r"'}

    def basic(asked: Asked) -> Reply:
        return good(asked) if (asked.authorization or "").startswith("Basic ") else Reply(401, challenge)

    made = TokenRegistry()
    async with token_registry(made, account=True) as (registry, server):
        server.answer = basic
        assert await registry.exists("a", "tag")
        server.answer = made
        assert await registry.exists("a", "tag")
        server.answer = basic
        assert await registry.exists("a", "tag")


async def test_tokens_are_preferred_to_the_password() -> None:
    made = TokenRegistry()
    async with token_registry(made, account=True) as (registry, server):
        made.error = ', Basic realm="r"'
        assert await registry.exists("a", "tag")
        assert server.asked[-1].authorization == "Bearer token-1"


@pytest.mark.parametrize("bearer", [True, False])
@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 429, 500])
@each_question
async def test_nothing_that_is_said_or_logged_holds_a_secret(
    question: Question, status: int, bearer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even of a server that repeats all that it was told."""
    caplog.set_level(logging.INFO)
    made = TokenRegistry()
    secrets = [PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), "token-1"]

    def echo(asked: Asked) -> Reply | Awaitable[Reply]:
        if asked.authorization is None or asked.target.startswith("/token"):
            return made(asked) if bearer else Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
        told = f"{asked.authorization} {PASSWORD}"
        headers = {"WWW-Authenticate": f'Bearer {told}, realm="', "Content-Type": told, "Docker-Content-Digest": told}
        return Reply(status, headers | {"Location": f"ftp://{PASSWORD}/", "Retry-After": told}, told.encode())

    async with token_registry(made, account=True) as (registry, server):
        server.answer = echo
        try:
            await question(registry)
        except RegistryFault as fault:
            said = f"{fault} {fault!r} {fault.detail} {fault.__cause__!r}"
        else:
            said = ""
        assert any(asked.authorization for asked in server.asked)
        for secret in secrets:
            assert secret not in said
            assert secret not in caplog.text
