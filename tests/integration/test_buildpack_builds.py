"""Images by PyPIBuildPack, made by repo2docker's command line on a real engine, and what a session finds in them."""

from __future__ import annotations

import http.server
import ipaddress
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.containers.engine import ContainerEngine
from tests.containers.tools import build_variables, mirror

pytestmark = [pytest.mark.needs("engine"), pytest.mark.hub_independent]

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/base:1"
PROXIES = {name: value for name, value in build_variables().items() if name.lower().endswith("_proxy")}
INDEX = next((value for name, value in build_variables().items() if "INDEX" in name), None)


@dataclass(frozen=True)
class Built:
    """One run of repo2docker."""

    image: str
    status: int
    log: str
    """What it wrote, as text."""
    last: Mapping[str, str]
    """The last record of its log."""
    seconds: float

    @property
    def steps(self) -> dict[str, str]:
        """``CACHED`` or ``DONE`` by a step's instruction. The last stage is the only one."""
        numbered = dict(re.findall(r"^#(\d+) \[ *\d+/\d+\] (.*)$", self.log, re.MULTILINE))
        ended = dict(re.findall(r"^#(\d+) (CACHED|DONE)\b", self.log, re.MULTILINE))
        return {instruction: ended[number] for number, instruction in numbered.items() if number in ended}

    def run_again(self) -> list[str]:
        """The ``RUN`` instructions that were not cached."""
        return [step for step, end in self.steps.items() if step.startswith("RUN ") and end != "CACHED"]


@dataclass
class Builds:
    engine: ContainerEngine
    folder: Path
    count: int = 0

    def repository(self, files: Mapping[str, str]) -> Path:
        self.count += 1
        root = self.folder / f"repository-{self.count}"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("->"):
                path.symlink_to(content[2:])
            else:
                path.write_text(content)
        return root

    def build(
        self, repository: Path | Mapping[str, str], *, settings: str = "", proxies: Mapping[str, str] = PROXIES
    ) -> Built:
        root = repository if isinstance(repository, Path) else self.repository(repository)
        image = f"localhost/{root.name}:{time.monotonic_ns()}"
        own_index = f"index_url={INDEX!r}, " if INDEX is not None and "index_url" not in settings else ""
        config = self.folder / "config.py"
        config.write_text(
            f"""
from repo2docker.buildpacks import DockerBuildPack
from replay_build_service.buildpacks import BuildSettings, PyPIBuildPack

PyPIBuildPack.settings = BuildSettings({own_index}{settings})
c.Repo2Docker.buildpacks = [DockerBuildPack, PyPIBuildPack]
c.Repo2Docker.default_buildpack = PyPIBuildPack
c.Repo2Docker.base_image = "{BASE}"
c.Repo2Docker.extra_build_args = {dict(proxies)!r}
"""
        )
        command = [
            sys.executable, "-m", "repo2docker", "--no-run", "--json-logs", "--image-name", image,
            "--user-id", "1000", "--user-name", "jovyan", "--config", str(config), str(root),
        ]  # fmt: skip
        started = time.monotonic()
        environment = {**os.environ, **self.engine.environment, "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        records = [json.loads(line) for line in done.stderr.splitlines()]
        log = "".join(record["message"] for record in records if record.get("phase") == "building")
        return Built(image, done.returncode, log, records[-1], time.monotonic() - started)

    def told(self, built: Built, script: str) -> str:
        """What a command prints in a session, through the image's entrypoint."""
        assert built.status == 0, built.log
        return self.engine.docker("run", "--rm", built.image, "bash", "-c", script)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    with ContainerEngine() as engine:
        engine.import_base(BASE)
        yield Builds(engine, tmp_path_factory.mktemp("builds"))


@pytest.fixture(scope="module")
def whole(builds: Builds) -> Built:
    """An image of a repository with nearly everything."""
    return builds.build(
        {
            "requirements.txt": "six==1.16.0\n-c pins/attrs.txt\nattrs\n",
            "pins/attrs.txt": "attrs==23.1.0\n",
            "apt.txt": "hello\n",
            "postBuild": "#!/bin/bash\nhello > built.txt && id -u >> built.txt && which python >> built.txt\n",
            "start": '#!/bin/bash\nexport STARTED="with $(cat built.txt | head -1)"\nexec "$@"\n',
            "notebook.ipynb": "{}",
        }
    )


def test_a_session_finds_what_the_repository_asks_for(builds: Builds, whole: Built) -> None:
    told = builds.told(
        whole,
        'id -u; python -c \'from importlib.metadata import version; print(version("six"), version("attrs"))\'; cat built.txt; echo $STARTED',
    )
    assert told.splitlines() == [
        "1000", "1.16.0 23.1.0", "Hello, world!", "1000", "/srv/venv/bin/python", "with Hello, world!",
    ]  # fmt: skip


def test_a_session_starts_as_the_hub_starts_it(builds: Builds, whole: Built) -> None:
    assert re.fullmatch(
        r"[56]\.\d+\.\d+", builds.engine.docker("run", "--rm", whole.image, "jupyterhub-singleuser", "--version")
    )
    assert "Jupyter Notebook" in builds.engine.docker("run", "--rm", whole.image, "jupyter", "notebook", "--help")


def test_the_path_is_the_images_in_every_kind_of_shell(builds: Builds, whole: Built) -> None:
    given = "/home/jovyan/.local/bin:/home/jovyan/.local/bin:/srv/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    told = builds.told(
        whole, "echo $PATH; bash -lc 'echo $PATH'; sh -lc 'echo $PATH'; env -u PATH /bin/bash -lc 'echo $PATH'"
    )
    *with_path, without = told.splitlines()
    assert with_path == [given] * 3
    assert without.startswith("/srv/venv/bin:/usr/local/bin:/usr/bin")
    of_a_spawner = builds.engine.docker(
        "run", "--rm", "-e", "PATH=/opt/site/bin:/usr/bin:/bin", whole.image, "bash", "-c", "echo $PATH"
    )
    assert of_a_spawner == "/srv/venv/bin:/opt/site/bin:/usr/bin:/bin"


def test_people_install_packages_in_their_sessions(builds: Builds, whole: Built) -> None:
    script = """
        uv pip install --quiet attrs==23.2.0 && pip install --quiet --disable-pip-version-check six==1.17.0 &&
        python -c 'from importlib.metadata import version; print(version("attrs"), version("six"))'; uv pip check 2>&1 | tail -1
    """
    assert builds.told(whole, script).splitlines() == ["23.2.0 1.17.0", "All installed packages are compatible"]


def test_nothing_is_left_in_the_home_but_the_repository(builds: Builds, whole: Built) -> None:
    left = builds.told(whole, "ls -A ~ /tmp /srv").split()
    assert set(left) - {".bash_logout", ".bashrc", ".profile", ".jupyter-server-log.txt"} == {
        "/home/jovyan:", "apt.txt", "built.txt", "notebook.ipynb", "pins", "postBuild", "requirements.txt", "start",
        "/tmp:", "/srv:", "venv",
    }  # fmt: skip


def test_content_alone_builds_nothing_of_the_environment_again(builds: Builds) -> None:
    repository = builds.repository({"requirements.txt": "six==1.16.0\n", "notebook.ipynb": "{}"})
    first = builds.build(repository)
    assert first.status == 0, first.log
    (repository / "notebook.ipynb").write_text('{"cells": []}')
    second = builds.build(repository)
    assert second.status == 0
    assert any("requirements.txt" in step and step.startswith("RUN") for step in second.steps)
    assert second.run_again() == []
    assert builds.told(second, "cat notebook.ipynb") == '{"cells": []}'


def test_what_every_session_needs_is_made_once_for_all_repositories(builds: Builds, whole: Built) -> None:
    another = builds.build(
        {
            "requirements.txt": "attrs==23.1.0\n",
            "pyproject.toml": "[project]\nname='x'\nrequires-python='>=3.9'\nversion='1'",
        }
    )
    assert whole.status == another.status == 0, another.log
    ran = another.run_again()
    assert any("SpecifierSet" in step for step in ran)
    assert any("--requirements pyproject.toml" in step for step in ran)
    assert [step for step in ran if step.startswith("RUN python3 -m venv")] == []


PROJECT = '[project]\nname = "thing"\nversion = "1"\ndependencies = ["six==1.16.0"]\n'
SYSTEM = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


@pytest.mark.parametrize(
    "files",
    [
        {"pyproject.toml": PROJECT + SYSTEM, "src/thing/__init__.py": ""},
        {"pyproject.toml": PROJECT + SYSTEM, "src/thing/__init__.py": "", "requirements.txt": "-e .\n"},
        {"setup.py": "from setuptools import setup\nsetup(name='thing', py_modules=['thing'], install_requires=['six==1.16.0'])", "thing.py": ""},
        {"binder/pyproject.toml": PROJECT + SYSTEM, "binder/thing/__init__.py": ""},
    ],
    ids=["pyproject.toml", "editable", "setup.py", "binder"],
)  # fmt: skip
def test_a_project_is_installed_with_what_it_depends_on(builds: Builds, files: Mapping[str, str]) -> None:
    told = builds.told(builds.build(files), "cd / && python -c 'import six, thing; print(six.__version__)'")
    assert told == "1.16.0"


def test_of_a_project_without_a_build_system_the_dependencies_are_installed(builds: Builds) -> None:
    repository = builds.repository({"pyproject.toml": PROJECT, "thing/__init__.py": ""})
    assert builds.build(repository).status == 0
    (repository / "thing" / "__init__.py").write_text("X = 1\n")
    again = builds.build(repository)
    assert again.run_again() == []
    told = builds.told(again, "python -c 'import six, thing; print(six.__version__, thing.X)'")
    assert told == "1.16.0 1"


def test_requirements_behind_links_are_installed_with_the_sources(builds: Builds) -> None:
    files = {"config/requirements.txt": "-r ../real.txt\n", "binder": "->config", "real.txt": "six==1.16.0\n"}
    assert builds.told(
        builds.build(files), "python -c 'import six; print(six.__version__)'; cat binder/requirements.txt"
    ) == ("1.16.0\n-r ../real.txt")


def test_a_repository_changes_neither_uv_nor_what_runs_as_root(builds: Builds) -> None:
    planted = "#!/bin/sh\nid -u >> /tmp/planted\nexit 0\n"
    programs = {
        f".local/bin/{name}": planted for name in ("uv", "rm", "find", "chown", "jupyterhub-singleuser", "python")
    }
    built = builds.build(
        {
            **programs, "setup.py": "from setuptools import setup\nsetup(name='thing', py_modules=['thing'])", "thing.py": "",
            "uv.toml": "offline = true\n", ".config/uv/uv.toml": "offline = true\n", "pyproject.toml": "[tool.uv]\noffline = true\n",
            "postBuild": "chmod +x .local/bin/*\n",
        }
    )  # fmt: skip
    assert builds.told(built, "cat /tmp/planted 2>/dev/null; /srv/venv/bin/python -c 'import thing; print(1)'") == "1"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"requirements.txt": "six==99\n"}, r"The packages of requirements\.txt could not be installed: there is no version of six==99 and you require six==99\."),
        ({"requirements.txt": "tornado<6\n"}, r"The packages of requirements\.txt could not be installed: .*tornado<6.*\."),
        ({"requirements.txt": "-e .\n", "setup.py": "raise SystemExit('broken')"}, r"The packages of requirements\.txt and the project itself could not be installed: .*\."),
        ({"runtime.txt": "python-3.99\n"}, r"runtime\.txt asks for Python 3\.99, which cannot be had here\. This image has Python 3\.[\d.]+\. Ask for another\."),
        ({"apt.txt": "no-such-package-of-debian\n"}, r"The Debian packages of apt\.txt could not be installed\. The end of the log says why\."),
        ({"postBuild": "#!/bin/sh\necho said; exit 3\n"}, r"postBuild failed with status 3\. The end of the log shows what it said\."),
        ({"postBuild": "#!/bin/sh\nrm /srv/venv/lib/python3*/site-packages/tornado/web.py\n"}, r"With this repository's packages jupyterhub-singleuser does not work, .*\."),
        ({"environment.yml": "dependencies: [six]"}, r"environment\.yml asks for conda packages, but .*\."),
        ({"requirements.txt": "->/etc/passwd"}, r"requirements\.txt leads out of the repository, .*\."),
    ],
    ids=["no version", "conflict", "no build", "no Python", "no Debian package", "postBuild", "no session", "conda", "link"],
)  # fmt: skip
def test_a_failure_is_a_sentence_at_the_end_of_the_log(builds: Builds, files: Mapping[str, str], sentence: str) -> None:
    built = builds.build(files)
    assert built.status == 1
    assert (built.last["phase"], "exc_info" in built.last) == ("failed", False)
    assert re.fullmatch(sentence, built.last["message"].strip())


def test_proxies_reach_builds_and_neither_images_nor_logs(builds: Builds) -> None:
    proxies = {"http_proxy": "http://me:hunter2@127.0.0.1:9", "no_proxy": "example.org"}
    repository = builds.repository({"postBuild": '#!/bin/sh\ntest -n "$http_proxy" && echo yes > proxied\n'})
    assert builds.build(repository, proxies=PROXIES).status == (0 if PROXIES else 1)
    built = builds.build(repository, proxies=proxies)
    assert builds.told(built, "cat proxied; env | grep -ci proxy || true") == "yes\n0"
    history = builds.engine.docker("history", "--no-trunc", built.image)
    assert "hunter2" not in history + builds.engine.docker("image", "inspect", built.image) + built.log
    (repository / "postBuild").write_text("#!/bin/sh\nexit 1\n")
    failed = builds.build(repository, proxies=proxies)
    assert (failed.status, "hunter2" in failed.log + json.dumps(dict(failed.last))) == (1, False)


# --- A site with an authority, and mirrors, of its own ----------------------------------------------------------------


@dataclass
class Mirror:
    """PyPI's and Debian's addresses over TLS of an authority that nobody else knows. The world answers behind it."""

    address: str
    authority: Path
    port: int = 0
    asked: list[str] = field(default_factory=list[str])

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"


@contextmanager
def site_mirror(address: str, folder: Path) -> Iterator[Mirror]:
    now = datetime.now(UTC)
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The site")])
    keys = {is_authority: ec.generate_private_key(ec.SECP256R1()) for is_authority in (True, False)}
    for file, is_authority, name in (("site.pem", True, "The site"), ("server.pem", False, address)):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(authority)
            .public_key(keys[is_authority].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(keys[True], hashes.SHA256())
        )
        (folder / file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = keys[False].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    made = Mirror(address, folder / "site.pem")
    upstream = httpx.Client(follow_redirects=True, timeout=60)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "key.pem")

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 200

        def finish_request(self, request: Any, client_address: Any) -> None:
            # Here and not where connections are accepted: a handshake would hold up all others.
            with suppress(OSError), context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.asked.append(self.path)
            kind, _, path = self.path.lstrip("/").partition("/")
            if kind == "simple":
                self.answer(302, {"Location": f"{(INDEX or 'https://pypi.org/simple').rstrip('/')}/{path}"})
            elif kind == "debian":  # apt does not let itself be led from TLS to none
                found = upstream.get(f"{mirror().rstrip('/')}/{path}")
                self.answer(found.status_code, {}, found.content)
            else:
                self.answer(404, {})

        def answer(self, status: int, headers: Mapping[str, str], content: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with Server((address, 0), Handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
            upstream.close()


@pytest.fixture(scope="module")
def site(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    with site_mirror(builds.engine.gateway, tmp_path_factory.mktemp("site")) as made:
        yield made


def test_builds_and_sessions_use_a_sites_mirrors_and_trust_its_authority(builds: Builds, site: Mirror) -> None:
    built = builds.build(
        {"requirements.txt": "six==1.16.0\n", "apt.txt": "hello\n"},
        settings=(
            f"certificates={str(site.authority)!r}, index_url='{site.url}/simple', "
            f"debian_mirrors={{{mirror()!r}: '{site.url}/debian'}}"
        ),
    )
    assert built.status == 0, built.log
    asked = set(site.asked)
    assert {"/simple/uv/", "/simple/jupyterhub/", "/simple/six/"} <= asked
    assert any(path.startswith("/debian/dists/") for path in asked)
    assert any(path.startswith("/debian/pool/") and "hello" in path for path in asked)
    site.asked.clear()
    script = f"""
        uv pip install --quiet attrs==23.2.0 && pip install --quiet --disable-pip-version-check --no-deps attrs==23.1.0 &&
        python -c 'import urllib.request as u, requests; print(u.urlopen("{site.url}/simple/six/").status, requests.get("{site.url}/simple/six/").status_code)'
    """
    assert builds.told(built, script) == "200 200"
    assert site.asked.count("/simple/attrs/") >= 2


def test_an_authority_of_builds_alone_is_not_in_the_image(builds: Builds, site: Mirror) -> None:
    script = f"import urllib.request as u; u.urlopen('{site.url}/simple/six/')"
    built = builds.build(
        {"postBuild": f'#!/bin/sh\npython -c "{script}" && echo trusted > proof\n'},
        settings=f"certificates={str(site.authority)!r}, certificates_in_sessions=False",
    )
    told = builds.told(
        built, f'cat proof; python -c "{script}" 2>&1 | tail -1; id -u; ls /usr/local/share/ca-certificates'
    )
    assert told.splitlines()[0] == "trusted"
    assert "certificate verify failed" in told.splitlines()[1]
    assert told.splitlines()[2] == "1000"
    assert "site" not in told.splitlines()[3:]


def test_pythons_come_from_where_a_site_says(builds: Builds, site: Mirror) -> None:
    """None is to be had from this one; that it is asked is what there is to see."""
    site.asked.clear()
    built = builds.build(
        {"runtime.txt": "python-3.12\n"},
        settings=f"certificates={str(site.authority)!r}, downloads_pythons=True, python_mirror='{site.url}/pythons'",
    )
    assert built.status == 1
    assert built.last["message"].startswith(
        "runtime.txt asks for Python 3.12, which cannot be had here. This image has"
    )
    assert any(re.match(r"/pythons/\d+/cpython-3\.12\.\d+", path) for path in site.asked)
