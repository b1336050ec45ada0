"""The guide's repository that does the most is built, and what the guide pins goes together with what sessions need."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from uv import find_uv_bin

from demo.git_server import GitServer
from replay_build_service.builders.venv.builder import VenvBuilder, VenvBuilderSettings
from replay_build_service.buildpacks import BuildSettings
from tests.integration.test_venv_builder import (
    built,
    cache,
    forge,
    is_as_built,
    job_for,
    lines,
    nothing_left,
    python_says,
    settings,
)
from tests.site import UV_CACHE
from tests.unit.test_guides import MAKING, all_files, files, section

pytestmark = pytest.mark.one_hub_version

__all__ = ["cache", "forge", "nothing_left", "settings"]  # fixtures


@pytest.mark.usefixtures("nothing_left")
async def test_a_package_with_notebooks_is_built_as_the_guide_has_it(
    forge: GitServer, settings: VenvBuilderSettings
) -> None:
    builder = VenvBuilder(replace(settings, cache_dir=Path(UV_CACHE), base_requirements=("pip",)))
    shown = files(section(MAKING, "A package of your own, with notebooks"))
    module = "import pandas\n\ndef total() -> int:\n    return int(pandas.Series([20, 22]).sum())\n"
    image, log = await built(builder, job_for(forge, builder, {**shown, "rainfall.py": module}))
    assert is_as_built(image)
    assert "Running binder/postBuild" in lines(log)
    told = "import pandas, rainfall; print(pandas.__version__, rainfall.total(), 'site-packages' in rainfall.__file__)"
    assert python_says(image, told).split() == ["3.1.1", "42", "True"]


def test_what_the_guide_pins_goes_together_with_what_sessions_need() -> None:
    pinned = {
        line for name, text in all_files(MAKING) if name.endswith("requirements.txt") for line in text.splitlines()
    }
    wanted = "\n".join({*pinned, *VenvBuilderSettings(Path()).base_requirements, *BuildSettings().session_packages})
    command = [find_uv_bin(), "pip", "compile", "--no-config", "--cache-dir", UV_CACHE, "--python-version", "3.12", "-"]
    done = subprocess.run(command, input=wanted, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert pinned <= set(done.stdout.splitlines())
