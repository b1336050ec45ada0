"""The walk from a link to a cell that ran, once over containers: built by repo2docker, kept by a registry, run by its digest."""

import re
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from demo.people import ADA
from tests.containers.engine import ContainerEngine
from tests.containers.site import NOTEBOOK_TAG, session_container
from tests.e2e.test_walk import notebook, phase_now
from tests.registry_server import RegistryServer
from tests.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = [
    pytest.mark.needs("browser", "engine", "registry", "proxy", "git-server"),
    pytest.mark.timeout(900),
    pytest.mark.one_hub_version,
]

BUILD_MS = 400_000


def test_from_a_link_to_a_cell_that_ran_in_a_container(
    container_site: Site,
    container_engine: ContainerEngine,
    image_registry: RegistryServer,
    context: "BrowserContext",
    picture: "Callable[[Page, str], None]",
) -> None:
    from playwright.sync_api import expect

    site = container_site
    in_notebook, in_dependency, in_image = (secrets.token_hex(8) for _ in range(3))
    analysis = site.repository(
        "container-analysis",
        {
            "requirements.txt": "six==1.17.0\n./marker\n",
            "marker/pyproject.toml": '[project]\nname = "marker"\nversion = "1"\n'
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[tool.setuptools]\npy-modules = ["marker"]\n',
            "marker/marker.py": f'VALUE = "{in_dependency}"\n',
            "index.ipynb": notebook(
                (
                    "code",
                    "import os, subprocess, marker, six\n"
                    f'print("{in_notebook}", marker.VALUE, six.__version__, os.getuid())\n'
                    'print(subprocess.check_output(["git", "rev-parse", "HEAD"], text=True))',
                )
            ),
        },
    )
    custom = site.repository(
        "container-custom",
        {
            "Dockerfile": f"FROM {image_registry.settings().host}/{NOTEBOOK_TAG}\nCOPY . /home/jovyan/\nUSER 1000\n",
            "value": in_image,
            "index.ipynb": notebook(("code", 'print(open("value").read(), 6 * 7)')),
        },
    )
    page = context.new_page()
    page.goto(f"{site.url}/v2/{analysis.spec}?labpath=index.ipynb")
    page.get_by_role("link", name="Log in").or_(page.get_by_role("button", name="Log in")).first.click()
    page.get_by_role("button", name=ADA.name).click()
    expect(page.get_by_text("Sessions on this site are containers").first).to_be_visible()
    picture(page, "container-consent")
    page.get_by_role("button", name=re.compile("Build and launch")).click()
    page.wait_for_url("**/launches/*")
    expect(phase_now(page)).to_contain_text("Building", timeout=60_000)
    picture(page, "container-launch")
    page.wait_for_url("**/user/**/index.ipynb*", timeout=BUILD_MS)
    run_first_cell(page)
    output = page.locator(".jp-OutputArea-output").first
    expect(output).to_contain_text(f"{in_notebook} {in_dependency} 1.17.0 1000", timeout=60_000)
    expect(output).to_contain_text(analysis.commit)
    picture(page, "container-notebook")
    first = session_container(container_engine, site, ADA)
    page.close()

    page = context.new_page()
    page.goto(f"{site.url}/v2/{custom.spec}?labpath=index.ipynb")
    page.get_by_role("button", name="Stop it and launch this").click()
    page.wait_for_url("**/user/**/index.ipynb*", timeout=BUILD_MS)
    run_first_cell(page)
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text(f"{in_image} 42", timeout=60_000)
    second = session_container(container_engine, site, ADA)
    assert second["Id"] != first["Id"]
    assert container_engine.docker("ps", "--all", "--quiet", "--filter", f"id={first['Id']}") == ""
    page.close()
    site.stop_server(ADA)


def run_first_cell(page: "Page") -> None:
    from playwright.sync_api import expect

    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible(timeout=90_000)
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click(timeout=60_000)
    page.keyboard.press("Control+Enter")
