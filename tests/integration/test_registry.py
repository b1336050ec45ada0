"""The registry's client and a real registry: for anybody, with a password, with tokens; with all that it promises.

What a real registry does not do at will (faults, garbage, slowness) is in ``tests/unit/test_registry.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from replay_build_service.domain import ImageConfiguration
from replay_build_service.registry import Layer, Manifest, Registry, RegistryFault, client
from tests.registry_server import (
    DOCKER,
    OCI,
    PASSWORD,
    Family,
    Key,
    Login,
    RegistryServer,
    Storage,
    TokenServer,
    digest_of,
)

pytestmark = [pytest.mark.needs("registry"), pytest.mark.hub_independent]

NAME = "replay/gh-some-repository"
UNKNOWN = digest_of(b"nobody pushed this")

each_family = pytest.mark.parametrize("family", [DOCKER, OCI], ids=["docker", "oci"])
with_account = pytest.mark.parametrize("login", [Login.BASIC, Login.TOKEN])


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)


@dataclass
class Bench:
    """Starts registries, and the token server that all of them share. All end with the test."""

    folder: Path
    tokens: TokenServer
    stack: ExitStack

    def start(self, login: Login = Login.ANONYMOUS, **options: Any) -> RegistryServer:
        made = RegistryServer(self.folder / "registry", login=login, token_server=self.tokens, **options)
        return self.stack.enter_context(made)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack.enter_context(TokenServer()), stack)


@pytest.fixture(params=list(Login))
def server(request: pytest.FixtureRequest, bench: Bench) -> RegistryServer:
    """One registry of each kind."""
    return bench.start(request.param)


async def every_question(registry: Registry, image: Manifest) -> list[object]:
    """What each method says, or the fault that it raises."""
    asked = (
        registry.ping(),
        registry.exists(NAME, "tag"),
        registry.exists(NAME, "no-such-tag"),
        registry.manifest(NAME, "tag"),
        registry.manifest(NAME, "no-such-tag"),
        registry.configuration(NAME, image),
        registry.missing_blobs(NAME, image),
        registry.delete(NAME, UNKNOWN),
    )
    return await asyncio.gather(*asked, return_exceptions=True)


def assert_all_faults(outcomes: list[object], sentence: str) -> None:
    for outcome in outcomes:
        assert isinstance(outcome, RegistryFault), outcome
        assert sentence in str(outcome)


ANY_IMAGE = Manifest(UNKNOWN, DOCKER.manifest, UNKNOWN, (Layer(UNKNOWN, 1),), 1)


# ---- images


@each_family
async def test_an_image_is_known_by_its_tag_and_digest(server: RegistryServer, family: Family) -> None:
    pushed = server.push_image(NAME, "tag", family=family, layers=(b"one", b"two, longer"))
    async with Registry(server.settings()) as registry:
        await registry.ping()
        for reference in ("tag", pushed.digest):
            assert await registry.exists(NAME, reference)
            manifest = await registry.manifest(NAME, reference)
            assert manifest is not None
            assert (manifest.digest, manifest.media_type) == (pushed.digest, family.manifest)
            assert manifest.config_digest == pushed.config_digest
            assert manifest.layers == (Layer(digest_of(b"one"), 3), Layer(digest_of(b"two, longer"), 11))
            assert manifest.size == 14
            assert manifest.index_digest is None


async def test_what_nobody_pushed_is_missing(server: RegistryServer) -> None:
    server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings()) as registry:
        for repository, reference in (
            (NAME, "other"),
            (NAME, UNKNOWN),
            ("nobody/knows", "tag"),
            ("nobody/knows", UNKNOWN),
        ):
            assert await registry.exists(repository, reference) is False
            assert await registry.manifest(repository, reference) is None


@each_family
async def test_the_configuration_says_how_the_image_runs(server: RegistryServer, family: Family) -> None:
    written = {
        "User": "1000",
        "WorkingDir": "/home/jovyan",
        "Env": ["PATH=/srv/conda/bin:/bin", "HOME=/home/jovyan"],
        "Entrypoint": ["/usr/local/bin/repo2docker-entrypoint"],
        "Cmd": ["jupyter", "notebook", "--ip", "0.0.0.0"],
        "ExposedPorts": {"8888/tcp": {}},
    }
    server.push_image(NAME, "tag", family=family, configuration=written)
    server.push_image(NAME, "bare", family=family, configuration=None)
    async with Registry(server.settings()) as registry:
        manifest, bare = await registry.manifest(NAME, "tag"), await registry.manifest(NAME, "bare")
        assert manifest is not None
        assert bare is not None
        assert await registry.configuration(NAME, manifest) == ImageConfiguration(
            user="1000",
            working_dir="/home/jovyan",
            home="/home/jovyan",
            entrypoint=("/usr/local/bin/repo2docker-entrypoint",),
            command=("jupyter", "notebook", "--ip", "0.0.0.0"),
            exposed_ports=("8888/tcp",),
        )
        assert await registry.configuration(NAME, bare) == ImageConfiguration()


@each_family
async def test_an_index_leads_to_the_image_for_this_machine(server: RegistryServer, family: Family) -> None:
    images = {
        f"linux/{architecture}": server.push_image(NAME, architecture, family=family, architecture=architecture)
        for architecture in ("arm64", "amd64")
    }
    index = server.push_index(NAME, "tag", family=family, images=images)
    for architecture in ("amd64", "arm64"):
        async with Registry(server.settings(), architecture=architecture) as registry:
            for reference in ("tag", index):
                assert await registry.exists(NAME, reference)
                manifest = await registry.manifest(NAME, reference)
                assert manifest is not None
                assert manifest.digest == images[f"linux/{architecture}"].digest
                assert manifest.index_digest == index
                assert await registry.missing_blobs(NAME, manifest) == ()
    async with Registry(server.settings(), architecture="s390x") as registry:
        with pytest.raises(RegistryFault, match="not made for the machines here"):
            await registry.manifest(NAME, "tag")


async def test_an_index_may_hold_images_of_both_families(server: RegistryServer) -> None:
    images = {
        "linux/amd64": server.push_image(NAME, "a", family=DOCKER),
        "linux/arm64": server.push_image(NAME, "b", family=OCI, architecture="arm64"),
    }
    server.push_index(NAME, "tag", family=OCI, images=images)
    for architecture, family in (("amd64", DOCKER), ("arm64", OCI)):
        async with Registry(server.settings(), architecture=architecture) as registry:
            manifest = await registry.manifest(NAME, "tag")
            assert manifest is not None
            assert manifest.media_type == family.manifest


# ---- what is lost


@each_family
async def test_a_lost_or_damaged_blob_is_missing(server: RegistryServer, family: Family) -> None:
    pushed = server.push_image(NAME, "tag", family=family, layers=(b"whole", b"lost", b"cut short"))
    whole, lost, cut = pushed.layer_digests
    async with Registry(server.settings()) as registry:
        manifest = await registry.manifest(NAME, "tag")
        assert manifest is not None
        assert await registry.missing_blobs(NAME, manifest) == ()
        server.blob_file(lost).unlink()
        server.blob_file(cut).write_bytes(b"cut")
        assert await registry.missing_blobs(NAME, manifest) == (lost, cut)
        server.blob_file(pushed.config_digest).unlink()
        assert await registry.missing_blobs(NAME, manifest) == (pushed.config_digest, lost, cut)
        with pytest.raises(RegistryFault, match="lost a part of this image"):
            await registry.configuration(NAME, manifest)
        # The name is still there: that is what makes the question above worth asking.
        assert await registry.exists(NAME, "tag")
        assert server.blob_file(whole).exists()


async def test_a_configuration_that_was_changed_is_not_believed(server: RegistryServer) -> None:
    pushed = server.push_image(NAME, "tag", family=OCI, configuration={"User": "1000"})
    async with Registry(server.settings()) as registry:
        manifest = await registry.manifest(NAME, "tag")
        assert manifest is not None
        file = server.blob_file(pushed.config_digest)
        file.write_bytes(file.read_bytes().replace(b"1000", b"root"))
        with pytest.raises(RegistryFault, match="makes no sense"):
            await registry.configuration(NAME, manifest)


async def test_a_manifest_that_was_changed_is_not_believed(server: RegistryServer) -> None:
    pushed = server.push_image(NAME, "tag", family=OCI)
    file = server.blob_file(pushed.digest)
    file.write_bytes(file.read_bytes().replace(pushed.config_digest.encode(), UNKNOWN.encode()))
    async with Registry(server.settings()) as registry:
        for reference in ("tag", pushed.digest):
            with pytest.raises(RegistryFault):
                await registry.manifest(NAME, reference)


# ---- deletion


@each_family
async def test_a_deleted_image_is_gone_with_its_tags(server: RegistryServer, family: Family) -> None:
    pushed = server.push_image(NAME, "tag", family=family)
    server.push_image(NAME, "other", family=family, layers=(b"else",))
    async with Registry(server.settings()) as registry:
        assert await registry.delete(NAME, pushed.digest) is True
        assert await registry.delete(NAME, pushed.digest) is False
        assert await registry.delete(NAME, UNKNOWN) is False
        assert await registry.delete("nobody/knows", UNKNOWN) is False
        assert not await registry.exists(NAME, "tag")
        assert not await registry.exists(NAME, pushed.digest)
        assert await registry.manifest(NAME, "tag") is None
        assert await registry.exists(NAME, "other")


async def test_an_index_without_its_image_is_missing(server: RegistryServer) -> None:
    image = server.push_image(NAME, "a", family=OCI)
    index = server.push_index(NAME, "tag", family=OCI, images={"linux/amd64": image})
    async with Registry(server.settings(), architecture="amd64") as registry:
        assert await registry.delete(NAME, image.digest)
        assert await registry.manifest(NAME, "tag") is None
        assert await registry.delete(NAME, index)
        assert not await registry.exists(NAME, "tag")


@pytest.mark.parametrize("login", list(Login))
async def test_a_registry_that_deletes_nothing_says_so(bench: Bench, login: Login) -> None:
    server = bench.start(login, deletes=False)
    pushed = server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings()) as registry:
        for digest in (pushed.digest, UNKNOWN):
            with pytest.raises(RegistryFault, match="does not allow anything to be deleted"):
                await registry.delete(NAME, digest)
        assert await registry.exists(NAME, "tag")


# ---- who asks


@with_account
async def test_a_wrong_password_is_a_fault_and_nothing_is_missing(bench: Bench, login: Login) -> None:
    server = bench.start(login)
    server.push_image(NAME, "tag", family=DOCKER)
    for wrong in ({"password": "wrong"}, {"username": "nobody"}, {"username": "Replay"}):
        async with Registry(server.settings(**wrong)) as registry:
            outcomes = await every_question(registry, ANY_IMAGE)
            assert_all_faults(outcomes, "refused Replay's credentials")


@with_account
async def test_no_password_is_a_fault_and_nothing_is_missing(bench: Bench, login: Login) -> None:
    server = bench.start(login)
    server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings(username=None, password=None)) as registry:
        assert_all_faults(await every_question(registry, ANY_IMAGE), "Replay has no account there")


async def test_a_token_server_that_knows_strangers_needs_no_password(bench: Bench) -> None:
    bench.tokens = bench.stack.enter_context(TokenServer(anonymous=True))
    server = bench.start(Login.TOKEN)
    server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings(username=None, password=None)) as registry:
        await registry.ping()
        assert await registry.exists(NAME, "tag")
        assert not await registry.exists(NAME, "other")
        assert {request.account for request in bench.tokens.requests} == {None}


async def test_tokens_are_shared_and_kept(bench: Bench) -> None:
    server = bench.start(Login.TOKEN)
    pushed = server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings()) as registry:
        assert all(await asyncio.gather(*(registry.exists(NAME, "tag") for _ in range(30))))
        manifest = await registry.manifest(NAME, "tag")
        assert manifest is not None
        await registry.missing_blobs(NAME, manifest)
        await registry.delete(NAME, pushed.digest)
        assert [(request.service, request.scope, request.account) for request in bench.tokens.requests] == [
            (TokenServer.SERVICE, f"repository:{NAME}:pull", "replay"),
            (TokenServer.SERVICE, f"repository:{NAME}:pull,delete", "replay"),
        ]


async def test_a_token_that_allows_nothing_is_a_fault_and_nothing_is_missing(bench: Bench) -> None:
    server = bench.start(Login.TOKEN)
    server.push_image(NAME, "tag", family=DOCKER)
    bench.tokens.allowed = set()
    async with Registry(server.settings()) as registry:
        outcomes = await every_question(registry, ANY_IMAGE)
        assert outcomes[0] is None  # the account is known
        assert_all_faults(outcomes[1:], "does not allow Replay to do this")


async def test_an_account_that_may_only_read_deletes_nothing(bench: Bench) -> None:
    server = bench.start(Login.TOKEN)
    pushed = server.push_image(NAME, "tag", family=DOCKER)
    bench.tokens.allowed = {"pull"}
    async with Registry(server.settings()) as registry:
        with pytest.raises(RegistryFault, match="does not allow Replay to do this"):
            await registry.delete(NAME, pushed.digest)
        assert await registry.exists(NAME, "tag")


async def test_an_expired_token_is_a_fault_and_nothing_is_missing(bench: Bench) -> None:
    server = bench.start(Login.TOKEN)
    server.push_image(NAME, "tag", family=DOCKER)
    bench.tokens.life = timedelta(hours=-1)
    async with Registry(server.settings()) as registry:
        assert_all_faults(await every_question(registry, ANY_IMAGE), "refused Replay's credentials")
        # With the next token all is well: the expired one was not kept.
        bench.tokens.life = timedelta(minutes=5)
        assert await registry.exists(NAME, "tag")


async def test_a_token_that_the_registry_takes_no_longer_is_replaced(bench: Bench) -> None:
    server = bench.start(Login.TOKEN)
    server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings()) as registry:
        assert await registry.exists(NAME, "tag")
        server.stop()
        bench.tokens.key = Key.new()
        server.start()
        assert await registry.exists(NAME, "tag")
        assert [request.scope for request in bench.tokens.requests] == [f"repository:{NAME}:pull"] * 2


async def test_a_password_that_was_changed_is_a_fault_at_once(bench: Bench) -> None:
    server = bench.start(Login.BASIC)
    server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings()) as registry:
        assert await registry.exists(NAME, "tag")
        (server.folder / "htpasswd").write_text("somebody-else:$2b$04$" + "a" * 53 + "\n")
        with pytest.raises(RegistryFault, match="refused Replay's credentials") as caught:
            await registry.exists(NAME, "tag")
        assert PASSWORD not in f"{caught.value!r} {caught.value.detail}"


# ---- a registry that is not there, and storage elsewhere


async def test_a_stopped_registry_is_a_fault_and_nothing_is_missing(server: RegistryServer) -> None:
    server.push_image(NAME, "tag", family=DOCKER)
    async with Registry(server.settings()) as registry:
        assert await registry.exists(NAME, "tag")
        server.stop()
        assert_all_faults(await every_question(registry, ANY_IMAGE), "does not answer")
        server.start()
        assert await registry.exists(NAME, "tag")


async def test_a_token_server_that_is_gone_is_a_fault_and_nothing_is_missing(bench: Bench) -> None:
    server = bench.start(Login.TOKEN)
    server.push_image(NAME, "tag", family=DOCKER)
    bench.tokens.stop()
    async with Registry(server.settings()) as registry:
        assert_all_faults(await every_question(registry, ANY_IMAGE), "does not answer")


@pytest.mark.parametrize("login", list(Login))
async def test_blobs_are_found_in_storage_that_sees_no_credentials(bench: Bench, login: Login) -> None:
    files = bench.folder / "registry" / "storage"
    files.mkdir(parents=True)
    storage = bench.stack.enter_context(Storage(files))
    server = bench.start(login, storage_url=storage.url)
    pushed = server.push_image(NAME, "tag", family=OCI, configuration={"User": "1000"})
    async with Registry(server.settings()) as registry:
        manifest = await registry.manifest(NAME, "tag")
        assert manifest is not None
        assert await registry.configuration(NAME, manifest) == ImageConfiguration(user="1000")
        assert await registry.missing_blobs(NAME, manifest) == ()
        assert {method for method, _, _ in storage.requests} == {"GET", "HEAD"}
        assert not any("authorization" in headers for _, _, headers in storage.requests)
        server.blob_file(pushed.layer_digests[0]).unlink()
        assert await registry.missing_blobs(NAME, manifest) == pushed.layer_digests[:1]
        storage.stop()
        with pytest.raises(RegistryFault, match="does not answer"):
            await registry.missing_blobs(NAME, manifest)


# ---- TLS


async def test_a_registry_with_an_authority_of_its_own_is_trusted_by_its_file(bench: Bench) -> None:
    server = bench.start(Login.BASIC, key=Key.new("127.0.0.1"))
    server.push_image(NAME, "tag", family=DOCKER)
    authority = bench.folder / "authority.pem"
    authority.write_bytes(server.key.certificate_pem if server.key else b"")
    async with Registry(server.settings(ca_file=str(authority))) as registry:
        assert await registry.exists(NAME, "tag")
    async with Registry(server.settings()) as registry:
        assert_all_faults(await every_question(registry, ANY_IMAGE), "certificate is not one that Replay trusts")


async def test_an_authority_of_the_sites_counts_for_the_registry_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = bench.start(key=Key.new("127.0.0.1"))
    authority = bench.folder / "authority.pem"
    authority.write_bytes(server.key.certificate_pem if server.key else b"")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with Registry(server.settings()) as registry:
        await registry.ping()


async def test_a_certificate_for_another_address_is_not_trusted(bench: Bench) -> None:
    server = bench.start(key=Key.new("127.0.0.2"))
    authority = bench.folder / "authority.pem"
    authority.write_bytes(server.key.certificate_pem if server.key else b"")
    async with Registry(server.settings(ca_file=str(authority))) as registry:
        with pytest.raises(RegistryFault, match="certificate is not one that Replay trusts"):
            await registry.ping()
