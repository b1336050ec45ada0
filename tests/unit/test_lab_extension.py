"""The files of JupyterLab's extension: whole, small, and as JupyterLab itself finds them."""

import json
import os
from pathlib import Path

import pytest
from jupyter_core import paths
from jupyterlab_server.config import get_federated_extensions, get_page_config

from replay_spawner import lab

pytestmark = [pytest.mark.one_hub_version, pytest.mark.needs("pages")]


def test_the_files_are_whole_and_small() -> None:
    files = lab.lab_files()
    package = json.loads(files["package.json"])
    assert package["name"] == lab.NAME
    assert package["jupyterlab"]["_build"]["load"] in files, "what JupyterLab loads is among the files"
    assert {str(path.relative_to(lab.DATA / "labextensions" / lab.NAME)) for path in made_files()} == set(files)
    assert sum(len(content) for content in files.values()) < 20_000


def made_files() -> list[Path]:
    return [path for path in (lab.DATA / "labextensions").rglob("*") if path.is_file()]


def test_jupyterlab_finds_it() -> None:
    (loaded,) = get_page_config([str(lab.DATA / "labextensions")])["federated_extensions"]
    assert (loaded["name"], loaded["load"], loaded["extension"]) == (lab.NAME, "session.js", "./extension")


def test_jupyterlab_finds_it_among_the_links_of_a_mounted_secret(tmp_path: Path) -> None:
    """The kubelet lays a volume's files out behind links: file → ..data/file → ..2026_…/file."""
    mounted = tmp_path / lab.NAME
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..data").symlink_to("..2026")
    for name, content in lab.lab_files().items():
        (mounted / "..2026" / name).write_bytes(content)
        (mounted / name).symlink_to(f"..data/{name}")
    assert list(get_federated_extensions([str(tmp_path)])) == [lab.NAME]


@pytest.mark.parametrize("named", ["", "/images/own"], ids=["none", "the image's own"])
@pytest.mark.parametrize("platform_dirs", ["", "1"], ids=["jupyter's folders", "the platform's folders"])
def test_the_folder_in_a_container_is_on_every_data_path(
    monkeypatch: pytest.MonkeyPatch, named: str, platform_dirs: str
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", named)
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", platform_dirs)
    assert str(lab.CONTAINER_FOLDER.parent) in paths.jupyter_path("labextensions")


def test_a_session_of_this_machine_keeps_its_own_data_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.data_path({}) == str(lab.DATA)
    monkeypatch.setenv("JUPYTER_PATH", lab.data_path({"JUPYTER_PATH": os.pathsep.join(["/own", "/another"])}))
    assert paths.jupyter_path("labextensions")[:3] == [
        "/own/labextensions",
        "/another/labextensions",
        str(lab.DATA / "labextensions"),
    ]


def test_what_was_not_bundled_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lab, "DATA", tmp_path)
    with pytest.raises(lab.LabExtensionMissing, match=r"package\.json.*npm run build"):
        lab.lab_files()
