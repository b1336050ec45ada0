"""The steps of an image, as Dockerfile and shell. Pure: what the site sets and what a repository asks, and no file.

What comes from outside is either of a form that neither language takes for anything but a word, or quoted; see
``repository`` and ``settings``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from enum import IntEnum

from replay_build_service.buildpacks.repository import PythonWish
from replay_build_service.buildpacks.settings import BuildSettings

ENVIRONMENT = "${NB_PYTHON_PREFIX}"
LOCK = "/usr/local/share/replay/session.txt"

_CERTIFICATES = "/usr/local/share/ca-certificates/site"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_TRUST_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
_UV_SETTINGS = "/etc/uv/uv.toml"
_FIRST_UV = "/tmp/uv"  # noqa: S108 - of a build's container, where nobody else is
"""An environment with uv alone, that makes the other and goes."""


class Failed(IntEnum):
    """What a step that fails ends with: statuses that no shell, apt-get or uv has."""

    SESSION_PACKAGES = 81
    PYTHON = 82
    DEBIAN_PACKAGES = 83
    PACKAGES = 84
    PACKAGES_WITH_SOURCES = 85
    SESSION = 86
    SESSION_PACKAGES_OF_PYTHON = 87


def trust_and_mirrors(settings: BuildSettings) -> str:
    """What comes before all that is downloaded. Empty where the site sets nothing of it."""
    lines: list[str] = []
    certificates = settings.read_certificates()
    if certificates:
        names = [f"site-{number}.crt" for number in range(1, len(certificates) + 1)]
        contents = " ".join(f'<<"{name}"' for name in names)
        lines.append(f"COPY {contents} {_CERTIFICATES}/")
        for name, certificate in zip(names, certificates, strict=True):
            lines += [certificate, name]
        # An image without the program has no bundle either, and makes one of all when it is installed.
        lines.append(
            "RUN if command -v update-ca-certificates > /dev/null; then update-ca-certificates; "
            f"else mkdir -p {_BUNDLE.rpartition('/')[0]} && cat {_CERTIFICATES}/*.crt >> {_BUNDLE}; fi"
        )
        kind = "ENV" if settings.certificates_in_sessions else "ARG"
        lines += [f"{kind} {name}={_BUNDLE}" for name in _TRUST_VARIABLES]
    for replaced, mirror in settings.debian_mirrors.items():
        pattern = re.sub(r"([.+\[\]])", r"\\\1", replaced.rstrip("/"))
        replacement = rf"s#{pattern}/?([[:space:]]|$)#{mirror.rstrip('/')}\1#g"
        lines.append(
            r"RUN find /etc/apt -type f \( -name '*.list' -o -name '*.sources' \) "
            f"-exec sed -E -i {shlex.quote(replacement)} {{}} +"
        )
    return "".join(f"{line}\n" for line in lines)


def forget_certificates() -> str:
    """A command for root, after all that is downloaded."""
    # Not the image's PATH: the repository is in it, and so would have its own programs run as root.
    return f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin && rm -rf {_CERTIFICATES} && update-ca-certificates --fresh"


def prepare_environment(settings: BuildSettings) -> str:
    """For root: the folders of the environment, and where uv and pip find the mirror, in sessions too."""
    folders = [ENVIRONMENT, *(["${APP_BASE}/python"] if settings.downloads_pythons else [])]
    commands = [f"install -d -o ${{NB_USER}} -g ${{NB_USER}} {' '.join(folders)}"]
    url = settings.index_url
    if url is not None:
        trusted = [f"trusted-host = {url.split('/')[2]}"] if url.startswith("http:") else []
        commands += [
            "mkdir -p /etc/uv",
            _written(["[[index]]", f'url = "{url}"', "default = true"], _UV_SETTINGS),
            _written(["[global]", f"index-url = {url}", *trusted], "/etc/pip.conf"),
        ]
    return _all(*commands)


def make_environment(settings: BuildSettings) -> str:
    """For the user: an environment with what every session needs, of the base image's first Python."""
    return _all(
        f"python3 -m venv {_FIRST_UV}",
        f"sed -n '/^uv==/,/[^\\]$/p' {LOCK} > {_FIRST_UV}/requirements.txt",
        _or_end(
            f"{_FIRST_UV}/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps "
            f"--requirement {_FIRST_UV}/requirements.txt",
            Failed.SESSION_PACKAGES,
        ),
        *_fill_environment(settings, f"{_FIRST_UV}/bin/uv", "--no-python-downloads", Failed.SESSION_PACKAGES),
        f"rm -rf {_FIRST_UV}",
    )


def change_python(settings: BuildSettings, wish: PythonWish) -> str:
    """For the user: the same environment of another Python, where the first will not do.

    A step of its own, so that all repositories whose wish the first Python meets share what is made of it.
    """
    uv = f"{_FIRST_UV}/uv"
    wanted = shlex.quote(wish.specifiers)
    making = f"--python {wanted} --no-python-downloads"
    if settings.downloads_pythons:
        mirror = settings.python_mirror
        variables = ["UV_PYTHON_INSTALL_DIR=${APP_BASE}/python"]
        variables += [f"UV_PYTHON_INSTALL_MIRROR={mirror}"] if mirror is not None else []
        uv = f"{' '.join(variables)} {uv}"
        making = f"--python {wanted} --python-preference system"
    remade = _all(
        f"mkdir {_FIRST_UV}",
        f"cp {ENVIRONMENT}/bin/uv {_FIRST_UV}",
        f"find {ENVIRONMENT} -mindepth 1 -delete",
        *_fill_environment(settings, uv, making, Failed.SESSION_PACKAGES_OF_PYTHON),
        f"rm -rf {_FIRST_UV}",
    )
    return f"{ENVIRONMENT}/bin/python -c {shlex.quote(_WILL_DO)} {wanted} || \\\n{{ {remade}; }}"


def _fill_environment(settings: BuildSettings, uv: str, making: str, status: Failed) -> list[str]:
    config = _uv_settings(settings)
    # Wheels alone: nothing that is downloaded runs here.
    installing = f"--quiet --no-build --no-deps --requirements {LOCK}"
    return [
        _or_end(
            f"{uv} venv {config} --no-cache --no-project {making} {ENVIRONMENT}",
            Failed.PYTHON,
            say='"This image has $(python3 --version)."',
        ),
        _or_end(f"{uv} pip install {config} {_INTO_ENVIRONMENT} {installing}", status),
        check_session(status),
    ]


def install_packages(
    settings: BuildSettings, files: Sequence[str], status: Failed, *, package: str | None = None
) -> str:
    """For the user, in the repository: its packages, in one resolution with those that a session cannot do without.

    So what does not go together is told, and what a session needs gives way to a repository's versions where it can.
    ``files`` are requirements, ``package`` the folder of a project.
    """
    wanted = [shlex.quote(package) for package in settings.session_packages]
    for file in files:
        wanted += ["--requirements", shlex.quote(file)]
    if package is not None:
        wanted.append(f"./{shlex.quote(package)}")
    config = _uv_settings(settings)
    # pip chooses among the versions of all indexes, and repositories are written for it.
    install = (
        f"{ENVIRONMENT}/bin/uv pip install {config} {_INTO_ENVIRONMENT} --index-strategy unsafe-best-match --no-sources"
    )
    return _all(_or_end(" ".join([install, *wanted]), status), check_session())


def install_debian_packages(packages: Sequence[str]) -> str:
    """For root."""
    names = " ".join(map(shlex.quote, packages))
    return _all(
        _or_end(
            f"{{ apt-get -qq update && apt-get install --yes --no-install-recommends {names}; }}",
            Failed.DEBIAN_PACKAGES,
        ),
        "apt-get -qq clean",
        "rm -rf /var/lib/apt/lists/*",
    )


def check_session(status: Failed = Failed.SESSION) -> str:
    """For the user: whether a session would start."""
    return _or_end(f"{ENVIRONMENT}/bin/jupyterhub-singleuser --version > /dev/null", status)


_INTO_ENVIRONMENT = f"--python {ENVIRONMENT} --no-cache --compile-bytecode"
_WILL_DO = (
    "import platform, sys; from packaging.specifiers import SpecifierSet; "
    "sys.exit(not SpecifierSet(sys.argv[1]).contains(platform.python_version(), prereleases=True))"
)


def _uv_settings(settings: BuildSettings) -> str:
    """The site's own, or none: never those of a repository."""
    return f"--config-file {_UV_SETTINGS}" if settings.index_url is not None else "--no-config"


def _all(*commands: str) -> str:
    return " && \\\n".join(commands)


def _or_end(command: str, status: Failed, *, say: str | None = None) -> str:
    said = f"echo {say}; " if say is not None else ""
    return f"{{ {command} || {{ {said}exit {status}; }}; }}"


def _written(lines: Sequence[str], path: str) -> str:
    return f"printf '%s\\n' {' '.join(map(shlex.quote, lines))} > {path}"
