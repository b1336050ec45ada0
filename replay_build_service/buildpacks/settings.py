"""What a site sets of its builds: authorities, mirrors, Pythons. No setting may hold a secret.

Whatever a build is given, every repository that is built can read. So a setting with credentials is refused and not
hidden; proxies, which may have some, are build arguments that BuildKit keeps out of images and their history.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9._~:/\[\]%+-]+")
_LOCK = Path(__file__).with_name("session.txt")


class UnfitSetting(Exception):
    """A setting that cannot be used. The message names it, and never what it holds."""


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """Set as ``PyPIBuildPack.settings = BuildSettings(…)`` in repo2docker's configuration.

    Nothing is checked here: traitlets goes on without the whole configuration where its file raises an error, so that
    the stock buildpacks would build. `check` is called with each build, and ends it.
    """

    certificates: str | Path | None = None
    """A PEM file, or a folder of ``*.pem`` and ``*.crt``: authorities to trust beside the system's."""
    certificates_in_sessions: bool = True
    """Whether sessions trust them too. Otherwise they are removed at the end of the build."""
    index_url: str | None = None
    """Takes the place of https://pypi.org/simple, in builds and in sessions."""
    debian_mirrors: Mapping[str, str] = field(default_factory=dict[str, str])
    """Addresses in the base image's apt sources, and what takes their place, in builds and in sessions."""
    debian_packages: tuple[str, ...] = ("ca-certificates", "curl", "git", "python3", "python3-venv", "wget")
    """In every image, beside those of repo2docker. Compilers are not among them: they are as large as all the rest."""
    downloads_pythons: bool = False
    """Whether uv downloads a Python that the base image does not have."""
    python_mirror: str | None = None
    """Takes the place of https://github.com/astral-sh/python-build-standalone/releases/download."""
    session_lock: str | Path = _LOCK
    """Pinned requirements that every environment begins with, for ``uv pip install``; pip and uv among them."""
    session_packages: tuple[str, ...] = ("jupyter-server>=2", "jupyterhub>=5", "jupyterlab", "notebook")
    """What a repository's own packages have to agree with; they may change all else of the lock."""

    def check(self) -> None:
        """Raises `UnfitSetting`, and `OSError` for a file that cannot be read."""
        for name, url in (("index_url", self.index_url), ("python_mirror", self.python_mirror)):
            if url is not None:
                _check_url(name, url)
        for replaced, mirror in self.debian_mirrors.items():
            _check_url("debian_mirrors", replaced)
            _check_url("debian_mirrors", mirror)
        if not all(_DEBIAN_PACKAGE.fullmatch(name) for name in self.debian_packages):
            raise UnfitSetting("debian_packages has what is no name of a Debian package.")
        for package in self.session_packages:
            try:
                Requirement(package)
            except InvalidRequirement as error:
                raise UnfitSetting("session_packages has what is no requirement.") from error
        if not Path(self.session_lock).is_file():
            raise UnfitSetting("session_lock is not the path of a file.")
        self.read_certificates()

    def read_certificates(self) -> list[str]:
        """Each authority as PEM. Raises as `check`."""
        if self.certificates is None:
            return []
        path = Path(self.certificates)
        files = sorted([*path.glob("*.crt"), *path.glob("*.pem")]) if path.is_dir() else [path]
        texts = [file.read_text(encoding="ascii", errors="replace") for file in files]
        if any("PRIVATE KEY" in text for text in texts):
            raise UnfitSetting("certificates has a private key, which must not come into an image.")
        found = [match[0].replace("\r", "") for text in texts for match in _CERTIFICATE.finditer(text)]
        if not found:
            raise UnfitSetting("certificates has no certificate in PEM.")
        return list(dict.fromkeys(found))


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        has_credentials = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise UnfitSetting(f"{name} is no address.") from error
    if has_credentials:
        raise UnfitSetting(
            f"{name} holds a user name or a password, which every repository that is built could read. "
            "Use a mirror that builds reach without."
        )
    if _PLAIN_URL.fullmatch(url) is None:
        raise UnfitSetting(f"{name} is no plain http or https address.")
