"""The researchers' guides: each repository in them is read by the real builders, each link parsed, each promise looked up."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from repo2docker.buildpacks import RBuildPack
from repo2docker.engine import BuildError

from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.docker.steps import check_checkout
from replay_build_service.builders.venv.repository_files import EnvironmentRequest, read_checkout
from replay_build_service.domain import BuildRecipe, ImageName, Phase, ResolvedRef
from replay_build_service.git import MAX_ENTRIES
from replay_build_service.links import Repository, RepoSpec, safe_urlpath
from replay_build_service.settings import ServiceSettings
from replay_build_service.web.share import share_links
from tests.requirements import ROOT
from tests.unit.builder_cases import checkout
from tests.unit.test_buildpacks import documented, far_away, picked, written
from tests.unit.test_errors_doc import SAID

pytestmark = pytest.mark.one_hub_version

__all__ = ["documented", "far_away", "picked"]  # fixtures

MAKING, PUBLISHING, SPEED = (
    (ROOT / "docs" / name).read_text() for name in ("making-a-repository.md", "publishing.md", "speed.md")
)
GUIDES = {"making": MAKING, "publishing": PUBLISHING, "speed": SPEED}

_FENCED = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"^(?P<indent> *)`(?P<name>[^`\n]+)`\n\n *```\w*\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    return re.split(r"^#+ .*$", page.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def all_files(text: str) -> list[tuple[str, str]]:
    """The files that a text shows, each below its name."""
    return [
        (match["name"], re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE))
        for match in _FILE.finditer(text)
    ]


def files(text: str) -> dict[str, str]:
    """The same where each name is there once."""
    shown = all_files(text)
    assert len(dict(shown)) == len(shown)
    return dict(shown)


def words(text: str) -> str:
    """Without what depends on where lines end."""
    return " ".join(text.split())


def table(text: str) -> list[list[str]]:
    """The cells of a text's tables without their heads."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in re.findall(r"^\|.*$", text, re.MULTILINE)
    ]
    return [row for number, row in enumerate(rows) if not set(row[0]) <= set("- ") and number > 0]


# --- Repositories -----------------------------------------------------------------------------------------------------

EXAMPLES: Mapping[str, tuple[str, str, str]] = {
    # What the builder of environments, stock repo2docker, and our buildpack for PyPI and Debian make of each.
    "The smallest one": ("", "PythonBuildPack", "PyPIBuildPack"),
    "Packages of the system": ("binder/apt.txt asks for system packages", "PythonBuildPack", "PyPIBuildPack"),
    "Conda packages": (
        "binder/environment.yml asks for conda",
        "CondaBuildPack",
        "binder/environment.yml asks for conda",
    ),
    "A package of your own, with notebooks": ("", "PythonBuildPack", "PyPIBuildPack"),
    "R": ("binder/install.R asks for R", "RBuildPack", "binder/install.R asks for R"),
    "A Dockerfile": ("binder/Dockerfile asks for a container image", "DockerBuildPack", "DockerBuildPack"),
}


def test_all_repositories_of_the_guide_are_tried() -> None:
    shown = {heading for heading in re.findall(r"^#+ (.*)$", MAKING, re.MULTILINE) if files(section(MAKING, heading))}
    assert shown - {"Pin versions"} == set(EXAMPLES)


@pytest.mark.parametrize("heading", EXAMPLES)
@pytest.mark.usefixtures("far_away")
def test_each_builder_makes_of_an_example_what_the_guide_says(
    tmp_path: Path, picked: list[str], documented: str, heading: str
) -> None:
    for_environments, stock, ours = EXAMPLES[heading]
    folder = checkout(tmp_path, files(section(MAKING, heading)))
    check_checkout(folder)
    if for_environments:
        with pytest.raises(Unbuildable, match=for_environments):
            read_checkout(folder)
    else:
        assert read_checkout(folder).requirement_files == ("binder/requirements.txt",)
    written(folder)
    assert set(picked) == {stock}
    picked.clear()
    if ours.endswith("BuildPack"):
        written(folder, "--config", documented)
        assert set(picked) == {ours}
    else:
        with pytest.raises(BuildError, match=ours):
            written(folder, "--config", documented)


def test_the_smallest_example_asks_for_the_python_that_it_names(tmp_path: Path) -> None:
    request = read_checkout(checkout(tmp_path, files(section(MAKING, "The smallest one"))))
    assert request.python is not None
    assert str(request.python.specifiers) == "==3.12.*"


def test_the_example_of_r_takes_packages_of_the_day_that_it_names(tmp_path: Path) -> None:
    with contextlib.chdir(checkout(tmp_path, files(section(MAKING, "R")))):
        pack = RBuildPack("localhost/base:1")
        assert (pack.r_version.rpartition(".")[0], pack.checkpoint_date) == ("4.4", date(2025, 9, 1))


def test_the_examples_pin_what_they_name() -> None:
    shown = [text for name, text in all_files(MAKING) if name.endswith("requirements.txt")]
    assert len(shown) == 3
    for line in (line for text in shown for line in text.splitlines()):
        assert str(Requirement(line).specifier).startswith("=="), line


# --- Which files there are --------------------------------------------------------------------------------------------

BESIDE: Mapping[str, str] = {
    "requirements.txt": "six\n",
    "pyproject.toml": "[build-system]\nrequires=['setuptools']\n[project]\nname='x'\nversion='1'\n",
    "setup.py": "",
    "runtime.txt": "python-3.12\n",
    "postBuild": "#!/bin/sh\n",
    "environment.yml": "dependencies: [six]\n",
    "apt.txt": "graphviz\n",
    "start": "#!/bin/sh\n",
    "install.R": "install.packages('x')\n",
    "Project.toml": "[deps]\n",
    "Pipfile": "[packages]\n",
    "default.nix": "{}\n",
    "Dockerfile": "FROM scratch\nUSER 1000\n",
}


def rows() -> list[list[str]]:
    return table(section(MAKING, "Which files there are"))


def test_the_table_has_every_kind_of_file() -> None:
    assert [re.findall(r"`([^`]+)`", row[0])[0] for row in rows()] == list(BESIDE)


@pytest.mark.parametrize("row", rows(), ids=lambda row: re.findall(r"`([^`]+)`", row[0])[0])
@pytest.mark.usefixtures("far_away")
def test_a_file_is_taken_or_refused_as_the_table_says(tmp_path: Path, documented: str, row: list[str]) -> None:
    name = re.findall(r"`([^`]+)`", row[0])[0]
    beside = {"runtime.txt": "r-4.4-2025-09-01\n"} if name == "install.R" else {}
    folder = checkout(tmp_path, {name: BESIDE[name], **beside})
    check_checkout(folder)
    says = {"yes": "", "refused": f"{name} asks for"}
    environments, containers, ours = (says[cell] for cell in row[2:])
    with refusing(Unbuildable, environments):
        assert read_checkout(folder) != EnvironmentRequest()
    (root := tmp_path / "nothing").mkdir()
    nothing = checkout(root, {})
    with refusing(BuildError, containers):
        assert written(folder) != written(nothing)
    with refusing(BuildError, ours):
        assert written(folder, "--config", documented) != written(nothing, "--config", documented)


def refusing(error: type[Exception], words: str) -> contextlib.AbstractContextManager[object]:
    """Where there are words, what is done has to be refused with them."""
    return pytest.raises(error, match=f"^{re.escape(words)}") if words else contextlib.nullcontext()


# --- Content-only commits ---------------------------------------------------------------------------------------------

COPIED = "COPY --chown=1000:1000 src/ ${REPO_DIR}/\n"


@pytest.mark.parametrize(
    "heading", ["The smallest one", "Conda packages", "A package of your own, with notebooks", "Packages of the system"]
)
@pytest.mark.usefixtures("far_away", "picked")
def test_packages_of_the_examples_are_installed_before_the_repositorys_files_are_there(
    tmp_path: Path, heading: str
) -> None:
    shown = files(section(MAKING, heading))
    before, after = written(checkout(tmp_path, shown)).replace("jovyan:jovyan", "1000:1000").split(COPIED)
    named = "environment.yml" if "binder/environment.yml" in shown else "requirements.txt"
    assert f'"binder/{named}"' in before
    assert f"binder/{named}" not in after
    assert ("RUN ./binder/postBuild" in after) is ("binder/postBuild" in shown)
    assert "graphviz" in before or "binder/apt.txt" not in shown


@pytest.mark.parametrize(
    "shown",
    [
        {"requirements.txt": "pandas\n-e ."},
        {"requirements.txt": "pandas\n./folder"},
        {"requirements.txt": "pandas", "setup.py": ""},
        {"requirements.txt": "pandas", "pyproject.toml": BESIDE["pyproject.toml"]},
    ],
    ids=["editable", "a folder", "setup.py", "pyproject.toml"],
)
@pytest.mark.usefixtures("far_away", "picked")
def test_packages_that_lie_in_the_repository_are_installed_with_each_commit(
    tmp_path: Path, documented: str, shown: dict[str, str]
) -> None:
    folder = checkout(tmp_path, shown)
    before, after = written(folder).replace("jovyan:jovyan", "1000:1000").split(COPIED)
    assert "requirements.txt" in after
    assert "pip install" not in before.rpartition("WORKDIR")[2]
    if "pyproject.toml" in shown:  # and what the guide says of our own buildpack
        before, after = written(folder, "--config", documented).split(COPIED)
        assert "--requirements pyproject.toml" in before
        assert "./." in after


def test_of_the_two_dockerfiles_one_copies_the_repository_last() -> None:
    slow, fast = (match["text"] for match in _FENCED.finditer(SPEED) if match["language"] == "dockerfile")
    everything = "COPY --chown=1000:1000 . /home/jovyan/"
    assert slow.index(everything) < slow.index("RUN pip install")
    assert fast.index("COPY requirements.txt") < fast.index("RUN pip install") < fast.index(everything)


def test_no_dockerfile_of_the_guides_is_refused(tmp_path: Path) -> None:
    shown = [
        match["text"]
        for page in GUIDES.values()
        for match in _FENCED.finditer(page)
        if match["language"] == "dockerfile"
    ]
    assert len(shown) == 3
    for number, text in enumerate(shown):
        (root := tmp_path / str(number)).mkdir()
        check_checkout(checkout(root, {"Dockerfile": text}))
        # https://docs.docker.com/reference/dockerfile/#user: the last one holds.
        assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "1000"


# --- Links ------------------------------------------------------------------------------------------------------------


def links() -> Iterator[tuple[str, str]]:
    """Each address of Replay's in the guides, in code or not: what follows ``/v2/``, and the path that it opens."""
    for page in GUIDES.values():
        for spec, urlpath in re.findall(r"/v2/([^\s`?)>\]\"|]+)(?:\?urlpath=([^\s`)>\]\"|]+))?", page):
            if not spec.endswith("/"):  # which says how one begins
                yield spec.rstrip("."), urlpath


@pytest.mark.parametrize(("spec", "urlpath"), sorted(set(links())))
def test_a_link_of_the_guides_is_one(spec: str, urlpath: str) -> None:
    assert RepoSpec.parse(spec).text == spec
    assert safe_urlpath(urlpath) == urlpath


def test_the_guides_have_links_of_several_sources() -> None:
    assert {spec.partition("/")[0] for spec, _ in links()} >= {"gh", "zenodo", "swh"}


def test_what_the_page_gives_to_share_is_what_the_guide_shows() -> None:
    """The badge, and the link for exactly one version."""
    spec = RepoSpec.parse("zenodo/10.5281/zenodo.1000000")
    version = re.findall(r"such as `@([^`]+)`", PUBLISHING)[0]
    resolved = ResolvedRef(
        Repository("https://doi.org/10.5281/zenodo.1000000"),
        spec,
        "zenodo+https://zenodo.org/api/records/1000001",
        version,
    )
    as_opened, exactly = share_links("https://hub.example.org", resolved, "")
    assert as_opened.markdown in PUBLISHING
    assert exactly.url == f"{as_opened.url}@{version}"
    assert RepoSpec.parse(exactly.url.partition("/v2/")[2]).ref == version


# --- What is built once -----------------------------------------------------------------------------------------------

SHA = "0123456789abcdef0123456789abcdef01234567"


def image(spec: str, recipe: str = "docker") -> ImageName:
    asked = RepoSpec.parse(spec)
    resolved = ResolvedRef(Repository.of_url(asked.url), asked, asked.url, SHA)
    return ImageName.of(resolved, BuildRecipe(recipe))


def test_all_spellings_of_a_commit_have_one_image_and_a_fork_has_another() -> None:
    spellings = (
        "gh/OWNER/REPOSITORY/HEAD",
        f"gh/owner/repository/{SHA}",
        "git/https%3A%2F%2Fgithub.com%2FOWNER%2FREPOSITORY.git/v1.0",
    )
    assert len({image(spec) for spec in spellings}) == 1
    assert image("gh/somebody/repository/HEAD") != image(spellings[0]) != image(spellings[0], "another recipe")


def test_the_phases_are_those_of_the_page() -> None:
    page = (ROOT / "replay_build_service" / "web" / "templates" / "launch.html").read_text()
    shown = dict(re.findall(r'\("(\w+)", "([^"]+)"\),', page))
    assert [row[0] for row in table(section(SPEED, "What the launch page's phases mean"))] == list(shown.values())
    assert set(shown) == {phase.value for phase in Phase} - {Phase.PUSHING, Phase.FAILED}


# --- Words and figures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", GUIDES)
def test_what_the_guides_quote_is_said(page: str) -> None:
    said = words(SAID)
    not_ours = {"Cite all versions", "Save code now", "latest", "Refused"}
    for quote in set(re.findall(r"“([^”]+)”", words(GUIDES[page]))) - not_ours:
        for part in re.split(r"\s*…\s*", quote):
            assert part in said, quote


def test_the_limits_are_the_defaults() -> None:
    settings = ServiceSettings()
    assert settings.repository_limit == 2 * 1024**3
    making, speed = words(MAKING), words(SPEED)
    assert "more than 2 GB" in making
    assert f"more than {MAX_ENTRIES:,} files" in making
    assert settings.build_timeout == 30 * 60
    assert "longer than half an hour" in speed
    assert settings.builds_at_once == 2
    assert "builds two at a time" in speed


def test_the_citation_is_one() -> None:
    """https://github.com/citation-file-format/citation-file-format/blob/main/schema-guide.md: the keys that must be there."""
    told = yaml.safe_load(files(PUBLISHING)["CITATION.cff"])
    assert {"cff-version", "message", "title", "authors"} <= set(told)
    assert isinstance(told["version"], str)
