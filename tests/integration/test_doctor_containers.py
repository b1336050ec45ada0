"""The doctor at a deployment of containers: with its engine and its registry, and without."""

import json

import pytest

from tests.containers.engine import ContainerEngine
from tests.integration.test_doctor import environment_of, examine
from tests.registry_server import RegistryServer
from tests.site import Site

pytestmark = [
    pytest.mark.needs("engine", "registry", "proxy", "git-server", "linux"),
    pytest.mark.timeout(600),
    pytest.mark.one_hub_version,
]


def test_one_that_is_well(
    container_site: Site, container_engine: ContainerEngine, image_registry: RegistryServer
) -> None:
    examined = examine(container_site)
    assert examined.failed == set(), examined.text
    assert examined.status == 0
    assert {examined.states[name] for name in ("registry", "engine", "service", "token", "database")} == {"ok"}
    assert f"{image_registry.settings().host}/replay/doctor" in examined.sentences["registry"]
    assert container_engine.host in examined.sentences["engine"]
    assert (examined.states["rights"], examined.states["build pods"]) == ("not used", "not used")


def test_one_whose_engine_and_registry_are_elsewhere(container_site: Site, container_engine: ContainerEngine) -> None:
    examined = examine(
        container_site,
        more=f"""
c.ReplayBuildService.docker_host = "unix://{container_engine.folder}/none.sock"
c.ReplayBuildService.registry = "http://127.0.0.1:9"
""",
    )
    assert examined.failed == {"engine", "registry"}, examined.text
    assert "systemctl start docker" in examined.sentences["engine"]
    assert "does not answer just now" in examined.sentences["registry"]
    assert json.loads(examined.text)["ok"] is False


def test_one_whose_registry_asks_for_an_account(container_site: Site) -> None:
    own = environment_of(container_site)
    config = container_site.folder / "no_account"
    config.mkdir(exist_ok=True)
    (config / "config.json").write_text('{"credsStore": "none"}')
    examined = examine(container_site, own, more=f"c.ReplayBuildService.docker_config = {str(config)!r}")
    assert examined.states["registry"] == "ok", "this one asks for none"
