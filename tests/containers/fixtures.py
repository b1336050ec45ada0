"""One engine, one registry and one site of containers for all tests that leave them as they found them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG, NOTEBOOK_TAG, ContainerSites
from tests.registry_server import RegistryServer
from tests.site import Site, Sites


@pytest.fixture(scope="session")
def image_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("image-registry")) as started:
        yield started


@pytest.fixture(scope="session")
def container_engine(image_registry: RegistryServer) -> Iterator[ContainerEngine]:
    """With a base image and one that has JupyterLab, both in the registry too."""
    with ContainerEngine() as engine:
        host = image_registry.settings().host
        engine.import_base(f"{host}/{BASE_TAG}")
        engine.make_notebook_image(f"{host}/{BASE_TAG}", f"{host}/{NOTEBOOK_TAG}", "jupyterhub jupyterlab")
        for tag in (BASE_TAG, NOTEBOOK_TAG):
            engine.docker("push", "--quiet", f"{host}/{tag}")
        yield engine


@pytest.fixture(scope="session")
def container_site(
    container_engine: ContainerEngine, image_registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The reference configuration with the docker builder."""
    with Sites(tmp_path_factory.mktemp("container-site")) as made:
        yield ContainerSites(container_engine, image_registry).start(made)


@pytest.fixture
def new_container_site(
    new_site: Callable[..., Site], container_engine: ContainerEngine, image_registry: RegistryServer, tmp_path: Path
) -> Callable[..., Site]:
    """Makes a site of the test's own on the shared engine and registry."""
    return lambda **more: ContainerSites(container_engine, image_registry).start(new_site, **more)
