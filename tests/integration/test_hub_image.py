"""The image of Zero to JupyterHub's hub with Replay, built for real on a stand-in for that hub's own image."""

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG
from tests.containers.tools import build_variables
from tests.registry_server import RegistryServer
from tests.requirements import ROOT
from tests.unit.chart_rendering import CHART

pytestmark = [pytest.mark.needs("engine", "registry", "pages"), pytest.mark.hub_independent]

STAND_IN = """FROM {base}
RUN python3 -m venv /opt/hub && /opt/hub/bin/pip install --quiet --no-cache-dir 'jupyterhub>=5.5,<6' 'sqlalchemy<2.1' && \
    useradd --create-home --uid 1000 jovyan
ENV PATH=/opt/hub/bin:$PATH
USER 1000
WORKDIR /home/jovyan
"""

LOAD = """
import json, sys
from traitlets.config.loader import PyFileConfigLoader
from jupyterhub.app import JupyterHub
open("hub.py", "w").write(sys.argv[1])
hub = JupyterHub(config=PyFileConfigLoader("hub.py").load_config())
import jupyterhub
print(json.dumps([jupyterhub.__version__, hub.spawner_class.__name__, [handler[0] for handler in hub.extra_handlers]]))
"""


@pytest.fixture(scope="module")
def image(container_engine: ContainerEngine, image_registry: RegistryServer) -> Iterator[str]:
    host = image_registry.settings().host
    container_engine.build("stand-in:1", STAND_IN.format(base=f"{host}/{BASE_TAG}"))
    arguments = [f"--build-arg={name}={value}" for name, value in build_variables().items()]
    container_engine.docker(
        "buildx", "build", "--quiet", "--tag=hub:1", "--target=hub", "--build-arg=BASE=stand-in:1", "--build-arg=HUB_BASE=stand-in:1",
        f"--file={ROOT}/charts/replay/images/Dockerfile", *arguments, str(ROOT),
    )  # fmt: skip
    yield "hub:1"
    container_engine.docker("image", "rm", "--force", "hub:1", "stand-in:1")


def test_the_hub_in_it_loads_the_overlay_with_the_configuration_that_it_has(
    container_engine: ContainerEngine, image: str
) -> None:
    overlay = yaml.safe_load((CHART / "values-z2jh.yaml").read_text())["hub"]
    told = [f"--env={name}={value}" for name, value in overlay["extraEnv"].items()]
    (snippet,) = overlay["extraConfig"].values()
    said = container_engine.docker("run", "--rm", "--network=none", *told, image, "python3", "-c", LOAD, snippet)
    version, spawner, handlers = json.loads(said.splitlines()[-1])
    assert version.startswith("5.5")
    assert (spawner, handlers[:1]) == ("ReplayKubeSpawner", ["/v2/(.+)"])


def test_it_runs_as_the_hubs_own_account(container_engine: ContainerEngine, image: str) -> None:
    assert container_engine.docker("run", "--rm", "--network=none", image, "id", "-u") == "1000"
    container_engine.docker("run", "--rm", "--network=none", image, "python3", "-m", "jupyterhub", "--version")
