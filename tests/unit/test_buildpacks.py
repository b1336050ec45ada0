"""What repo2docker writes for a repository: with its own configuration, and with the one that has our buildpack."""

import contextlib
import io
import json
import os
import re
import string
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of repo2docker's logging
    from repo2docker.__main__ import make_r2d

from repo2docker.app import Repo2Docker
from repo2docker.buildpacks import DockerBuildPack
from repo2docker.buildpacks.base import BuildPack
from repo2docker.contentproviders import Local
from repo2docker.engine import BuildError

from replay_build_service.builders.detached.failures import Unbuildable as RefusedCheckout
from replay_build_service.builders.docker.instructions import command_line as command_line_of_a_build
from replay_build_service.builders.docker.instructions import configuration_text
from replay_build_service.builders.docker.steps import check_checkout
from replay_build_service.buildpacks import BuildSettings, PyPIBuildPack
from replay_build_service.buildpacks.repository import Unbuildable, read_repository
from tests.unit.builder_cases import APT, CASES, PROJECT, SYSTEM, BuilderCase, Dockerfile, Refusal, checkout, staged
from tests.unit.test_docker_parts import JOB

ROOT = Path(__file__).resolve().parents[2]
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


@pytest.fixture
def picked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The buildpacks that have written. repo2docker does not say which it takes where it is not to build."""
    names: list[str] = []
    for pack in (BuildPack, DockerBuildPack):

        def render(self: Any, build_args: Any = None, written: Callable[..., str] = pack.render) -> str:
            names.append(type(self).__name__)
            return written(self, build_args)

        monkeypatch.setattr(pack, "render", render)
    return names


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two lists of versions that repo2docker fetches while it writes."""
    versions = {"1.10.4": {}, "1.6.7": {}}
    monkeypatch.setattr(requests, "get", lambda *_: SimpleNamespace(json=lambda: versions))
    monkeypatch.setattr(requests, "post", lambda *_, **__: SimpleNamespace(json=lambda: {"upsi": "2024-01-01+x"}))


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The configuration of the page for administrators, as a file."""
    page = (ROOT / "docs" / "buildpack.md").read_text()
    path = tmp_path_factory.mktemp("configuration") / "repo2docker_config.py"
    path.write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    return str(path)


def written(folder: Path, *arguments: str) -> str:
    """The Dockerfile: the whole way of the command line, to where it would build."""
    return decided(["--user-id", "1000", "--user-name", "jovyan", *arguments, str(folder)])[1]


def decided(arguments: Sequence[str]) -> tuple[Repo2Docker, str]:
    app = make_r2d(["--no-build", "--Repo2Docker.platform=linux/amd64", *arguments])
    app.initialize()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        app.start()
    app.close_handlers()
    return app, printed.getvalue()


def written_by_a_build(folder: Path, admins: str | None = None) -> str:
    """The Dockerfile, with all that the docker builder puts around repo2docker: its look at the checkout, its
    configuration file with the administrator's own in it, and its command line, to where an engine would be asked."""
    job = replace(JOB, configuration_file=admins, network="none", cache_from=[f"{JOB.image}@cached"])
    check_checkout(folder)
    configuration = folder.parent / "repo2docker_config.py"
    configuration.write_text(configuration_text(job, str(folder.parent / "metadata.json"), "/replay-builds/1"))
    _python, _m, _repo2docker, *arguments = command_line_of_a_build(job, str(configuration), str(folder))
    app, dockerfile = decided(arguments)
    # A file that cannot be loaded is passed over: then this would try nothing of ours.
    assert (app.content_providers, app.base_image) == ([Local], job.base_image)
    assert app.output_image_spec == job.image
    return dockerfile


def check(dockerfile: str, picked: list[str], expected: Dockerfile) -> None:
    assert set(picked) == {expected.buildpack}
    for line in expected.has:
        assert line in dockerfile
    for line in expected.lacks:
        assert line not in dockerfile


@pytest.mark.parametrize("case", [case for case in CASES if case.stock is not None], ids=str)
@pytest.mark.usefixtures("far_away")
def test_nothing_of_ours_is_between_a_repository_and_stock_repo2docker(
    tmp_path: Path, picked: list[str], case: BuilderCase
) -> None:
    assert case.stock is not None
    check(written(case.checkout(tmp_path)), picked, case.stock)


@pytest.mark.parametrize("admins", [None, "c.Repo2Docker.appendix = 'LABEL by=us'\n"], ids=["no file", "admin's file"])
@pytest.mark.parametrize("case", [case for case in CASES if case.stock is not None], ids=str)
@pytest.mark.usefixtures("far_away")
def test_a_build_of_the_docker_builder_leaves_it_to_stock_repo2docker(
    tmp_path: Path, picked: list[str], case: BuilderCase, admins: str | None
) -> None:
    assert case.stock is not None
    file = tmp_path / "of the admin.py"
    file.write_text(admins or "")
    dockerfile = written_by_a_build(case.checkout(tmp_path), str(file) if admins else None)
    check(dockerfile, picked, case.stock)
    if case.stock.buildpack != "DockerBuildPack":  # which has the repository's own Dockerfile and nothing else
        assert f"FROM {JOB.base_image}\n" in dockerfile
        assert ("LABEL by=us" in dockerfile) is (admins is not None)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.pypi, Dockerfile)], ids=str)
def test_a_build_of_the_docker_builder_takes_the_buildpacks_of_the_admin(
    tmp_path: Path, picked: list[str], documented: str, case: BuilderCase
) -> None:
    assert isinstance(case.pypi, Dockerfile)
    check(written_by_a_build(case.checkout(tmp_path), documented), picked, case.pypi)


def test_what_the_docker_builder_refuses_before_repo2docker_sees_it_is_what_leads_out_or_is_huge(
    tmp_path: Path,
) -> None:
    refused: set[str] = set()
    for number, case in enumerate(CASES):
        root = tmp_path / str(number)
        root.mkdir()
        try:
            check_checkout(case.checkout(root))
        except RefusedCheckout:
            refused.add(str(case))
            assert (case.stock, type(case.pypi)) == (None, Refusal)
    assert refused == {
        "binder beside the repository", "binder of the system", "linked requirements", "requirements in a loop",
        "2 MB of requirements",
    }  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.pypi, Dockerfile)], ids=str)
def test_debian_and_pypi_give_what_a_repository_asks_for(
    tmp_path: Path, picked: list[str], documented: str, case: BuilderCase
) -> None:
    assert isinstance(case.pypi, Dockerfile)
    check(written(case.checkout(tmp_path), "--config", documented), picked, case.pypi)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.pypi, Refusal)], ids=str)
def test_what_they_do_not_have_is_refused_by_name(
    tmp_path: Path, documented: str, case: BuilderCase, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(case.pypi, Refusal)
    folder = case.checkout(tmp_path)
    if case.name == "binder and .binder":  # DockerBuildPack looks first, and says it in repo2docker's words
        with pytest.raises(RuntimeError, match=r"both a 'binder' and a '\.binder'"):
            written(folder, "--config", documented)
        with pytest.raises(Unbuildable, match="both"):
            read_repository(folder)
        return
    with pytest.raises(BuildError) as refused:
        written(folder, "--config", documented)
    assert case.pypi.words in str(refused.value)
    assert str(refused.value).endswith(".")
    assert caplog.records[-1].getMessage() == f"{refused.value}\n"
    assert str(caplog.records[-1].phase) == "failed"  # type: ignore[attr-defined]


def command_line(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", *arguments, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"})


def test_the_command_line_writes_the_same(tmp_path: Path, documented: str) -> None:
    folder = checkout(tmp_path, {"binder/requirements.txt": "six", "binder/start": "", "apt.txt": "decoy"})
    stock = command_line(folder)
    assert (stock.returncode, 'install --no-cache-dir -r "binder/requirements.txt"' in stock.stdout) == (0, True)
    ours = command_line(folder, "--config", documented, "--user-id", "1000", "--user-name", "jovyan")
    assert ours.returncode == 0
    assert ours.stdout.split() == written(folder, "--config", documented).split()


def test_a_refusal_is_the_last_record_of_the_log_and_no_trace(tmp_path: Path, documented: str) -> None:
    folder = checkout(tmp_path, {"environment.yml": "name: x"})
    done = subprocess.run(
        [sys.executable, "-m", "repo2docker", "--json-logs", "--no-build", "--config", documented, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    last = json.loads(done.stderr.splitlines()[-1])
    assert done.returncode == 1
    assert last["message"].startswith("environment.yml asks for conda packages")
    assert (last["phase"], "exc_info" in last, "Traceback" in done.stderr) == ("failed", False, False)


# --- The order of an image --------------------------------------------------------------------------------------------


def ours(root: Path, files: dict[str, str | bytes], **changed: Any) -> str:
    class Pack(PyPIBuildPack):
        settings = BuildSettings(**changed)

    folder = checkout(root, files)
    with contextlib.chdir(folder):
        return Pack("localhost/base:1").render({"NB_UID": "1000"})


def test_content_comes_after_all_that_can_be_installed_without_it(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"requirements.txt": "six", "pyproject.toml": PROJECT + SYSTEM, "apt.txt": "hello"}
    before, after = ours(tmp_path, {**files, "postBuild": "", "start": ""}).split(
        "COPY --chown=1000:1000 src/ ${REPO_DIR}/\n"
    )
    assert before.index("session.txt") < before.index(f"{APT} hello") < before.index(staged("requirements.txt"))
    assert before.index(staged("requirements.txt")) < before.index("--requirements requirements.txt")
    assert "./." not in before
    assert (
        after.index("./.")
        < after.index("RUN ./postBuild")
        < after.index("R2D_ENTRYPOINT")
        < after.index("ENTRYPOINT [")
    )


@pytest.mark.parametrize(
    ("requirements", "stands_alone"),
    [
        ("six==1.16.0 --hash=sha256:00", True),
        ("numpy[extra] >= 1 ; python_version < '4'", True),
        ("six \\\n  --hash=sha256:00", True),
        ("# only words", True),
        ("--pre\n--no-binary :all:\nsix", True),
        ("--extra-index-url https://example.org/simple\nsix", True),
        ("six @ https://example.org/six.whl", True),
        ("git+https://example.org/six@v1#egg=six", True),
        ("-r https://example.org/requirements.txt", True),
        ("-r more.txt", True),
        ("-c folder/pins.txt", True),
        ("--constraint=folder/../more.txt", True),
        ("-e .", False),
        (".", False),
        ("./package", False),
        ("folder/package.tar.gz", False),
        ("package-1.0-py3-none-any.whl", False),
        ("six @ file:///srv/six.whl", False),
        ("six @ ${PROJECT}/six.whl", False),
        ("-r file:///srv/requirements.txt", False),
        ("--find-links wheels", False),
        ("--find-links file:///srv", False),
        ("-i file:///srv", False),
        ("-r link.txt", False),
        ("-r 'with a space.txt'", False),
        ("-r nested.txt", False),
        ("--unknown", False),
        ("six ; what", False),
    ],
)
def test_requirements_are_installed_first_where_they_stand_alone(
    tmp_path: Path, requirements: str, stands_alone: bool
) -> None:
    folder = checkout(
        tmp_path,
        {
            "requirements.txt": requirements, "more.txt": "six", "folder/pins.txt": "six==1", "link.txt": "->more.txt",
            "with a space.txt": "six", "nested.txt": "-r deeper.txt", "deeper.txt": "-e .",
        },
    )  # fmt: skip
    request = read_repository(folder)
    assert (request.standing_alone, request.needing_sources) == (
        (("requirements.txt",), ()) if stands_alone else ((), ("requirements.txt",))
    )
    assert ("requirements.txt" in request.staged) is stands_alone


@pytest.mark.parametrize(
    ("project", "stands_alone"),
    [
        (PROJECT + "dependencies=['six', 'x @ https://example.org/x.whl']", True),
        (PROJECT + "dependencies=['x @ file:///srv/x.whl']", False),
        (PROJECT + "dynamic=['dependencies']", False),
        ("[project]\nname='x'\ndynamic=['version']\ndependencies=['six']", True),
        (PROJECT + "dependencies='six'", False),
    ],
)
@pytest.mark.parametrize("system", ["", SYSTEM])
def test_a_projects_dependencies_are_installed_first_where_they_can_be_read(
    tmp_path: Path, project: str, stands_alone: bool, system: str
) -> None:
    request = read_repository(checkout(tmp_path, {"pyproject.toml": f"{system}{project}"}))
    assert request.package == ("." if system else None)
    assert (request.standing_alone == ("pyproject.toml",)) is stands_alone
    # What is installed itself brings what it depends on.
    assert (request.needing_sources == ("pyproject.toml",)) is (not stands_alone and not system)


@pytest.mark.parametrize("name", ["requirements.txt", "postBuild", "start"])
def test_what_an_ignore_file_leaves_out_is_told(tmp_path: Path, name: str) -> None:
    folder = checkout(tmp_path, {name: "six", ".dockerignore": "# big\n*.csv\n", "data.csv": ""})
    read_repository(folder)
    (folder / ".dockerignore").write_text(f"{name}\n")
    with pytest.raises(Unbuildable, match=rf"^{name} does not come into the image, for .dockerignore leaves it out"):
        read_repository(folder)


def test_scripts_with_the_line_ends_of_windows_are_known(tmp_path: Path) -> None:
    folder = checkout(tmp_path, {"postBuild": "#!/bin/sh\r\necho\r\n"})
    assert read_repository(folder).post_build_has_windows_lines
    (folder / "postBuild").write_text("#!/bin/sh\necho\n")
    assert not read_repository(folder).post_build_has_windows_lines


# --- Untrusted --------------------------------------------------------------------------------------------------------

HOSTILE = ("six\nRUN touch /pwned", "hello; touch /pwned", "$(touch /pwned)", "`id`", "a && b", "<<EOF", "\\", "'", '"', "x\rRUN y",
           "--allow-unauthenticated", "python3-", "../x", "a\x00b", "é", "{{ 7 * 7 }}", "${HOME}", "# syntax=evil\n", "a\u2028RUN b")  # fmt: skip
VARYING = (
    re.compile(r"COPY --chown=1000:1000 src/[\w./-]+ \$\{REPO_DIR\}/[\w./-]+"),
    re.compile(r"RUN \$\{NB_PYTHON_PREFIX\}/bin/python -c '[^']+' ('[\w.*!<>=~,]+'|[\w.=,]+) \|\| \\"),
    re.compile(r"\{ /tmp/uv/uv venv [\w -]+ --python ('[\w.*!<>=~,]+'|[\w.=,]+) --no-python-downloads .*"),
    re.compile(
        r"RUN \{ \{ apt-get -qq update && apt-get install --yes --no-install-recommends( [\w.+:=/'~*-]+)+; \} .*"
    ),
    re.compile(
        r"RUN \{ \$\{NB_PYTHON_PREFIX\}/bin/uv pip install [^;]* jupyterlab notebook"
        r"( --requirements (\.?binder/)?(requirements\.txt|pyproject\.toml))*( \./(\.|\.?binder))? \|\| \{ exit 8[45]; \}; \} && \\"
    ),
)
"""All lines of a Dockerfile in which words of a repository are."""


@cache
def usual_lines(folder: str) -> set[str]:
    harmless = {
        "apt.txt": "hello", "requirements.txt": "six", "runtime.txt": "python-3.11", "setup.py": "", "postBuild": "", "start": "",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        return lines_of(ours(Path(root), {f"{folder}{name}": text for name, text in harmless.items()}))


def lines_of(dockerfile: str) -> set[str]:
    return {line.strip() for line in re.split("[\n\r]", dockerfile)}


WORDS = st.builds(
    str.__add__, st.sampled_from(("", "six", "hello=1", "python-3.11", "python-", ">=3.10", "===3.11", "==3.11,", "x @ ")),
    st.sampled_from(HOSTILE) | st.text(max_size=8) | st.text(".*!<>=~,0123456789abc+-:/", max_size=8),
)  # fmt: skip
HOSTILE_FILES = st.one_of(
    st.lists(WORDS, max_size=3).map(lambda words: {"apt.txt": "\n".join(words)}),
    st.lists(WORDS, max_size=3).map(lambda words: {"requirements.txt": "\n".join(words)}),
    WORDS.map(lambda word: {"runtime.txt": word}),
    WORDS.map(lambda word: {"pyproject.toml": f"{PROJECT}requires-python={json.dumps(word)}\n"}),
    WORDS.map(lambda word: {"pyproject.toml": f"{PROJECT}dependencies=[{json.dumps(word)}]\n"}),
    st.text(string.ascii_letters + " ./-$`'\"\\;*?[]{}()<>&|!#@=", min_size=1, max_size=12).map(
        lambda name: {"requirements.txt": f"-r {name}", name: "six"}
    ),
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(("", "binder/", ".binder/")), HOSTILE_FILES)
def test_nothing_of_a_repository_reaches_the_dockerfile_but_words_of_a_known_form(
    folder: str, files: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        try:
            dockerfile = ours(
                Path(root), {f"{folder}{name}": text.encode(errors="replace") for name, text in files.items()}
            )
        except (BuildError, OSError):  # or a name that this system does not take
            return
    for line in lines_of(dockerfile) - usual_lines(folder):
        assert any(form.fullmatch(line) for form in VARYING), line


@pytest.mark.parametrize("word", [word for word in HOSTILE if not word.startswith("#")])
def test_a_word_that_is_no_package_is_refused(tmp_path: Path, word: str) -> None:
    folder = checkout(tmp_path, {"apt.txt": word})
    with pytest.raises(Unbuildable, match=r"is no name of a Debian package|not UTF-8"):
        read_repository(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"pyproject.toml": "x = " + "[" * 100_000},
        {"pyproject.toml": "x = " + "9" * 10_000},
        {"pyproject.toml": PROJECT + f"requires-python='==={'9' * 10_000}'"},
        {"pyproject.toml": PROJECT + "requires-python='===3.11$(id)'"},
        {"pyproject.toml": PROJECT + 'requires-python="===3.11\'"'},
        {"requirements.txt": f"-r {'x' * 5000}"},
        {"requirements.txt": "-r a\x00b"},
        {"requirements.txt": "-r loop", "loop": "->loop"},
        {"requirements.txt": "-r /etc/passwd"},
        {"runtime.txt": "python-3.11; id"},
        {"start": "->/bin/sh"},
        {"postBuild": "->../../etc/passwd"},
        {"apt.txt": "->/etc/hostname"},
        {".dockerignore": "->/etc/passwd"},
    ],
)
def test_what_no_honest_repository_holds_is_refused_with_a_sentence(
    tmp_path: Path, files: dict[str, str | bytes]
) -> None:
    with pytest.raises(Unbuildable) as refused:
        read_repository(checkout(tmp_path, files))
    assert str(refused.value).isprintable()
    assert str(refused.value).endswith(".")
    assert len(str(refused.value)) < 400


def test_deep_markers_and_links_to_folders_do_no_harm(tmp_path: Path) -> None:
    deep = f"six ; {'(' * 5000}python_version > '3'{')' * 5000}"
    folder = checkout(tmp_path, {"requirements.txt": f"{deep}\n-r a/b.txt", "a": "->.", "b.txt": "-r a/a/b.txt"})
    assert read_repository(folder).needing_sources == ("requirements.txt",)


# --- What a site sets -------------------------------------------------------------------------------------------------


def test_authorities_and_mirrors_come_before_the_first_download(tmp_path: Path) -> None:
    authorities = tmp_path / "authorities"
    authorities.mkdir()
    (authorities / "a.crt").write_text(f"A comment\n{AUTHORITY}\n")
    (authorities / "b.pem").write_text(f"{AUTHORITY.replace('MIIB', 'MIIC')}\r\n{AUTHORITY}\n")
    (authorities / "README").write_text("no authority")
    dockerfile = ours(
        tmp_path,
        {},
        certificates=authorities,
        index_url="http://pypi.example.org:8080/simple",
        debian_mirrors={"http://deb.debian.org/debian": "https://debian.example.org/debian/"},
    )
    before = dockerfile.partition("apt-get")[0]
    assert before.count("BEGIN CERTIFICATE") == 2
    assert "comment" not in before
    assert "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n" in before
    assert r"s#http://deb\.debian\.org/debian/?([[:space:]]|$)#https://debian.example.org/debian\1#g" in before
    assert "'url = \"http://pypi.example.org:8080/simple\"'" in dockerfile
    assert "'trusted-host = pypi.example.org:8080'" in dockerfile
    assert "--no-config" not in dockerfile
    assert dockerfile.count("--config-file /etc/uv/uv.toml") == 2


def test_authorities_of_builds_alone_leave_the_image_again(tmp_path: Path) -> None:
    (tmp_path / "site.pem").write_text(AUTHORITY)
    dockerfile = ours(tmp_path, {"postBuild": ""}, certificates=tmp_path / "site.pem", certificates_in_sessions=False)
    assert "ENV SSL_CERT_FILE" not in dockerfile
    assert "ARG SSL_CERT_FILE=" in dockerfile
    end = dockerfile.partition("CMD [")[2]
    assert (
        end.index("jupyterhub-singleuser") < end.index("update-ca-certificates --fresh") < end.rindex("USER ${NB_USER}")
    )


def test_the_administrators_own_last_steps_stay_last(tmp_path: Path) -> None:
    with contextlib.chdir(checkout(tmp_path, {"postBuild": ""})):
        pack = PyPIBuildPack("localhost/base:1")
        pack.appendix = "RUN true\n"
        first, second = pack.render({}), pack.render({})
    assert first == second
    assert first.rstrip().endswith("RUN true")
    assert first.index("RUN ./postBuild") < first.rindex("jupyterhub-singleuser") < first.rindex("RUN true")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"index_url": "https://me:hunter2@pypi.example.org/simple"}, "index_url holds a user name or a password"),
        ({"python_mirror": "https://hunter2@example.org/"}, "python_mirror holds a user name or a password"),
        ({"debian_mirrors": {"http://a": "http://me:hunter2@b"}}, "debian_mirrors holds a user name or a password"),
        ({"index_url": "ftp://hunter2"}, "index_url is no plain"),
        ({"index_url": "https://hunter2/'; id"}, "index_url is no plain"),
        ({"index_url": "https://hunter2/?token=x"}, "index_url is no plain"),
        ({"index_url": "https://[hunter2"}, "index_url is no address"),
        ({"debian_packages": ("hunter2; id",)}, "debian_packages has"),
        ({"session_packages": ("hunter2 !",)}, "session_packages has"),
        ({"session_lock": "/hunter2"}, "session_lock is not"),
        ({"certificates": "/nowhere/hunter2.pem"}, "No such file"),
    ],
)
def test_settings_that_cannot_be_used_end_the_build_and_are_not_told(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(BuildError) as refused:
        ours(tmp_path, {}, **changed)
    assert named in str(refused.value)
    assert str(refused.value).endswith("Tell those who run it.")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [("nothing", "has no certificate"), (f"{AUTHORITY}\n-----BEGIN EC PRIVATE KEY-----\n", "a private key")],
)
def test_only_certificates_come_into_an_image(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "site.pem").write_text(text)
    with pytest.raises(BuildError, match=named):
        ours(tmp_path, {}, certificates=tmp_path / "site.pem")


def test_other_pythons_are_downloaded_where_a_site_lets_them(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert ours(plain, {"runtime.txt": "python-3.12"}).count("--no-python-downloads") == 2
    dockerfile = ours(
        tmp_path, {"runtime.txt": "python-3.12"}, downloads_pythons=True, python_mirror="https://python.example.org/x"
    )
    assert dockerfile.count("--no-python-downloads") == 1  # all repositories begin with the base image's own
    assert "UV_PYTHON_INSTALL_MIRROR=https://python.example.org/x /tmp/uv/uv venv" in dockerfile
    assert "-d -o ${NB_USER} -g ${NB_USER} ${NB_PYTHON_PREFIX} ${APP_BASE}/python" in dockerfile


def test_another_template_of_repo2docker_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "repo2docker.buildpacks.base.TEMPLATE", "FROM scratch AS other\nFROM {{ base_image }} AS base\n"
    )
    with pytest.raises(BuildError, match="not the one that its buildpack knows"):
        ours(tmp_path, {})


# --- What a failed build says -----------------------------------------------------------------------------------------


class Engine:
    """Prints what BuildKit would, and fails as repo2docker's engine does."""

    string_output = True

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    def build(self, **_: Any) -> Iterator[str]:
        yield from (f"{line}\n" for line in self.lines)
        raise subprocess.CalledProcessError(1, ["docker", "--build-arg", "http_proxy=http://me:hunter2@proxy"])


def step_failed(command: str, status: int) -> str:
    return f'ERROR: failed to solve: process "/bin/sh -c {command}" did not complete successfully: exit code: {status}'


CONFLICT = (
    "#19 2.256 error: No solution found when resolving dependencies",
    "#19 2.256   cause: Because there is no six==99 and you require six==99, we can conclude that your requirements are unsatisfiable.",
)


@pytest.mark.parametrize(
    ("files", "lines", "sentence"),
    [
        ({"requirements.txt": "six==99"}, (*CONFLICT, step_failed("uv", 84)), "The packages of requirements.txt could not be installed: there is no six==99 and you require six==99."),
        ({"requirements.txt": "x"}, ("#9 0.1 error: Failed to fetch: `https://x`", step_failed("uv", 84)), "The packages of requirements.txt could not be installed: Failed to fetch: `https://x`."),
        ({"requirements.txt": "x"}, (step_failed("uv", 84),), "The packages of requirements.txt could not be installed. The end of the log says why."),
        ({"requirements.txt": "-e .", "setup.py": ""}, (step_failed("uv", 85),), "The packages of requirements.txt and the project itself could not be installed. The end of the log says why."),
        ({"binder/setup.py": ""}, (step_failed("uv", 85),), "The packages of the project in binder could not be installed. The end of the log says why."),
        ({"runtime.txt": "python-3.12"}, ("#9 1.0 This image has Python 3.11.2.", step_failed("x", 82)), "runtime.txt asks for Python 3.12, which cannot be had here. This image has Python 3.11.2. Ask for another."),
        ({"runtime.txt": "python-3.12"}, ("#9 1.0 This image has Python 3.1 at http://evil.", step_failed("x", 82)), "runtime.txt asks for Python 3.12, which cannot be had here. Ask for another."),
        ({"runtime.txt": "python-3.9"}, (step_failed("x", 87),), "runtime.txt asks for Python 3.9, but the packages that every session needs could not be installed for it. The end of the log says why."),
        ({}, (step_failed("x", 81),), "The packages that every session needs could not be installed; the end of the log says why. Try again later, and tell those who run this service if it stays so."),
        ({"apt.txt": "hello"}, (step_failed("x", 83),), "The Debian packages of apt.txt could not be installed. The end of the log says why."),
        ({"requirements.txt": "x"}, (step_failed("x", 86),), "With this repository's packages jupyterhub-singleuser does not work, so no session would start; the end of the log says why. Allow other versions of jupyterhub and of what it needs."),
        ({"postBuild": ""}, (step_failed("./postBuild", 3),), "postBuild failed with status 3. The end of the log shows what it said."),
        ({"binder/postBuild": "#!/bin/sh\r\n"}, (step_failed("./binder/postBuild", 127),), "binder/postBuild failed with status 127. The end of the log shows what it said. Its lines end as on Windows: save it with Unix line ends."),
        # A script that ends as a step of ours does is still a script.
        ({"postBuild": ""}, (step_failed("./postBuild", 84),), "postBuild failed with status 84. The end of the log shows what it said."),
        ({}, ("ERROR: failed to solve: localhost/base:1: not found",), "The image could not be built. The end of the log says why."),
        ({}, (), "The image could not be built. The end of the log says why."),
        ({"requirements.txt": "x"}, ("#9 1.0 error: \x1b]0;evil\x07 words" + "x" * 9000, step_failed("uv", 84)), "The packages of requirements.txt could not be installed: ]0;evil words" + "x" * 385 + "."),
        ({}, ("#9 1.0 " + "because " * 100_000, "ERROR: " + 'process "/bin/sh -c ' * 50_000), "The image could not be built. The end of the log says why."),
    ],
)  # fmt: skip
def test_a_failed_build_is_told_in_a_sentence_without_its_command(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    files: dict[str, str | bytes],
    lines: tuple[str, ...],
    sentence: str,
) -> None:
    with contextlib.chdir(checkout(tmp_path, files)):
        pack = PyPIBuildPack("localhost/base:1")
        passed_on: list[str] = []
        with pytest.raises(BuildError) as failed:
            passed_on.extend(pack.build(Engine(*lines), "x", 0, {"NB_UID": "1000"}, [], {}))
    assert str(failed.value) == sentence
    assert caplog.records[-1].getMessage() == f"{sentence}\n"
    assert "hunter2" not in caplog.text
    assert failed.value.__suppress_context__
    assert passed_on == [f"{line}\n" for line in lines]
