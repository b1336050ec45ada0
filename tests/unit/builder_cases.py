"""What repositories hold, and what each builder is to make of it: one table that the tests of all builders go through.

The venv builder is told by its request, repo2docker's buildpacks by the Dockerfile that they write. What a builder passes
over or refuses is in the table as well: people rely on that, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from replay_build_service.builders.venv.repository_files import EnvironmentRequest, PythonRequest
from replay_build_service.domain import FailureReason

PROJECT = "[project]\nname='x'\nversion='1'\n"
SYSTEM = "[build-system]\nrequires=['setuptools']\n"


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """What is to be written, and by which buildpack."""

    buildpack: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing is built. ``words`` are of the sentence that says why."""

    words: str
    reason: FailureReason = FailureReason.CANNOT_BUILD
    """The venv builder's; repo2docker knows no reasons."""


@dataclass(frozen=True, slots=True)
class BuilderCase:
    files: Mapping[str, str | bytes]
    """By path; a content that starts with ``->`` makes a link."""
    venv: EnvironmentRequest | Refusal
    stock: Dockerfile | None
    """With repo2docker's own configuration. None where that is not ours to say: it fails in its own words, or later."""
    pypi: Dockerfile | Refusal
    """With DockerBuildPack and PyPIBuildPack, as ``docs/buildpack.md`` configures them."""
    name: str = ""

    def __str__(self) -> str:
        return self.name or ", ".join(self.files) or "nothing"

    def checkout(self, root: Path) -> Path:
        """The repository as a folder below ``root``, beside another folder that its links may lead to."""
        return checkout(root, self.files)


def checkout(root: Path, files: Mapping[str, str | bytes]) -> Path:
    folder = root / "checkout"
    folder.mkdir()
    (root / "outside").mkdir()
    (root / "outside" / "requirements.txt").write_text("six\n")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("->"):
            path.symlink_to(content[2:])
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def asked(specifiers: str, wording: str) -> PythonRequest:
    return PythonRequest(SpecifierSet(specifiers), wording)


def by_pip(*lines: str) -> Dockerfile:
    """Stock repo2docker's buildpack for Python, which it also takes where a repository says nothing."""
    return Dockerfile("PythonBuildPack", lines)


def by_uv(*lines: str) -> Dockerfile:
    return Dockerfile("PyPIBuildPack", lines)


APT = "apt-get install --yes --no-install-recommends"
PIP = "${KERNEL_PYTHON_PREFIX}/bin/pip install"
UV = "uv pip install --no-config --python ${NB_PYTHON_PREFIX} --no-cache --compile-bytecode --index-strategy"
"""How the line begins that installs a repository's packages."""

NOTHING_BY_PIP = Dockerfile("PythonBuildPack", lacks=(PIP, APT, "RUN ./", "R2D_ENTRYPOINT", "env update", "decoy"))
NOTHING_BY_UV = Dockerfile("PyPIBuildPack", lacks=(UV, APT, "RUN ./", "R2D_ENTRYPOINT", "SpecifierSet", "decoy"))


def wanted(*words: str) -> str:
    """All that uv installs of a repository, up to where the command ends."""
    return f"jupyterlab notebook {' '.join(words)} ||"


def staged(file: str) -> str:
    """Copied before the sources."""
    return f"COPY --chown=1000:1000 src/{file} ${{REPO_DIR}}/{file}\n"


# --- Each kind of file, and where it may lie --------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of file. In the expectations ``{at}`` is put before its name, and ``{folder}`` is what it lies in."""

    file: str
    content: str
    venv: EnvironmentRequest | Refusal
    stock: Dockerfile
    pypi: Dockerfile | Refusal
    stock_in_folder: Dockerfile | None = None
    """Where stock repo2docker reads it in the root alone."""
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

    def cases(self) -> Iterator[BuilderCase]:
        """In the root; in both folders, with and without another one in the root; and beside a folder without one."""
        yield self.case("", "", self.file)
        for folder in ("binder", ".binder"):
            yield self.case(f"{folder}/", "", f"{folder}/{self.file}")
            yield self.case(f"{folder}/", "decoy", f"{folder}/{self.file} before the root")
            yield BuilderCase(
                {**self.beside, self.file: self.content, f"{folder}/README.md": "Nothing here."},
                EnvironmentRequest(),
                NOTHING_BY_PIP,
                NOTHING_BY_UV,
                name=f"{self.file} beside {folder}",
            )

    def case(self, at: str, decoy: str, name: str) -> BuilderCase:
        own = {f"{at}{file}": text for file, text in self.beside.items()} | {f"{at}{self.file}": self.content}
        decoys = dict.fromkeys((self.file, *self.beside), decoy) if decoy else {}
        folder = at.rstrip("/") or "."
        stock = self.stock if self.stock_in_folder is None or not at else self.stock_in_folder
        return BuilderCase(
            decoys | own,
            _refused(self.venv, at) if isinstance(self.venv, Refusal) else _requested(self.venv, at, folder),
            _written(stock, at, folder),
            _refused(self.pypi, at) if isinstance(self.pypi, Refusal) else _written(self.pypi, at, folder),
            name,
        )


def _put(text: str, at: str, folder: str) -> str:
    """Not by ``format``: Dockerfiles are full of braces."""
    return text.replace("{at}", at).replace("{/folder}", f"/{folder}" if at else "").replace("{folder}", folder)


def _requested(told: EnvironmentRequest, at: str, folder: str) -> EnvironmentRequest:
    return EnvironmentRequest(
        tuple(_put(file, at, folder) for file in told.requirement_files),
        tuple(_put(package, at, folder) for package in told.packages),
        told.python and PythonRequest(told.python.specifiers, _put(told.python.wording, at, folder)),
        told.post_build and _put(told.post_build, at, folder),
    )


def _refused(told: Refusal, at: str) -> Refusal:
    return Refusal(_put(told.words, at, ""), told.reason)


def _written(told: Dockerfile, at: str, folder: str) -> Dockerfile:
    of_the_root = tuple(_put(line, "", ".") for line in told.has if at and "{at}" in line)
    lacks = (*(_put(line, at, folder) for line in told.lacks), *of_the_root, "decoy")
    return Dockerfile(told.buildpack, tuple(_put(line, at, folder) for line in told.has), lacks)


def other_engine(file: str, content: str, what: str, stock: Dockerfile, **more: Mapping[str, str]) -> Kind:
    """What takes more than Debian's and PyPI's packages."""
    return Kind(
        file, content, Refusal(f"{{at}}{file} asks for {what}"), stock, Refusal(f"{{at}}{file} asks for {what}"), **more
    )


KINDS = (
    Kind(
        "requirements.txt", "six", EnvironmentRequest(("{at}requirements.txt",)),
        by_pip(f'{PIP} --no-cache-dir -r "{{at}}requirements.txt"'),
        by_uv(staged("{at}requirements.txt"), wanted("--requirements {at}requirements.txt")),
    ),
    Kind(
        "pyproject.toml", PROJECT + SYSTEM, EnvironmentRequest(packages=("{folder}",)),
        by_pip(f"{PIP} --no-cache-dir .\n"),
        by_uv(staged("{at}pyproject.toml"), wanted("--requirements {at}pyproject.toml"), wanted("--requirements {at}pyproject.toml ./{folder}")),
        stock_in_folder=NOTHING_BY_PIP,
    ),
    Kind(
        "setup.py", "", EnvironmentRequest(packages=("{folder}",)),
        by_pip(f"{PIP} --no-cache-dir .\n"), by_uv(wanted("./{folder}")),
        stock_in_folder=NOTHING_BY_PIP,
    ),
    Kind(
        "runtime.txt", "python-3.12\n", EnvironmentRequest(python=asked("==3.12.*", "python-3.12 ({at}runtime.txt)")),
        by_pip("conda-2fenvironment-2epy-2d3-2e12-2dlinux-2d64-2elock"), by_uv(" '==3.12.*' || "),
    ),
    Kind("postBuild", "", EnvironmentRequest(post_build="{at}postBuild"), by_pip("RUN ./{at}postBuild\n"), by_uv("RUN ./{at}postBuild\n")),
    Kind(
        "start", "", Refusal("{at}start asks for"),
        by_pip('ENV R2D_ENTRYPOINT="${REPO_DIR}/{at}start"\n'), by_uv('ENV R2D_ENTRYPOINT="${REPO_DIR}/{at}start"\n'),
    ),
    Kind("apt.txt", "# tools\nhello\n", Refusal("{at}apt.txt asks for system packages (hello)"), by_pip(f"{APT} hello &&"), by_uv(f"{APT} hello;")),
    Kind(
        "Dockerfile", "FROM scratch\n", Refusal("{at}Dockerfile asks for a container image"),
        Dockerfile("DockerBuildPack", ("FROM scratch\n",)), Dockerfile("DockerBuildPack", ("FROM scratch\n",)),
    ),
    *(
        other_engine(file, "name: x\ndependencies: [six]\n", "conda packages", Dockerfile("CondaBuildPack", (f'env update -p ${{NB_PYTHON_PREFIX}} --file "{{at}}{file}"',)))
        for file in ("environment.yml", "environment.yaml")
    ),
    *(
        other_engine(file, "[deps]\n", "Julia packages", Dockerfile("JuliaProjectTomlBuildPack", ("ENV JULIA_PROJECT=${REPO_DIR}{/folder}\n",)))
        for file in ("Project.toml", "JuliaProject.toml")
    ),
    other_engine("REQUIRE", "julia 0.6\n", "Julia packages", Dockerfile("JuliaRequireBuildPack")),
    other_engine(
        "install.R", "install.packages('x')\n", "R packages",
        Dockerfile("RBuildPack", ("Rscript --no-save --no-restore --no-init-file --no-environ {at}install.R &&",)),
        beside={"runtime.txt": "r-4.4-2024-01-01\n"},
    ),
    other_engine("default.nix", "{}\n", "Nix packages", Dockerfile("NixBuildPack", ("nix-shell {at}default.nix\n",))),
    other_engine("Pipfile", "[packages]\n", "packages by Pipenv", Dockerfile("PipfileBuildPack", ("(cd {folder} &&", "--skip-lock"))),
    other_engine("Pipfile.lock", "{}", "packages by Pipenv", Dockerfile("PipfileBuildPack", ("(cd {folder} &&", "--ignore-pipfile"))),
)  # fmt: skip


# --- What lies beside each other, what is spelled otherwise, and what cannot be read ----------------------------------

LINKED = "../outside/requirements.txt"

CASES = (
    *(case for kind in KINDS for case in kind.cases()),
    BuilderCase({}, EnvironmentRequest(), NOTHING_BY_PIP, NOTHING_BY_UV),
    BuilderCase({"README.md": "Hello"}, EnvironmentRequest(), NOTHING_BY_PIP, NOTHING_BY_UV),
    # With a configuration folder, nothing else counts.
    BuilderCase(
        {"binder/postBuild": "", "requirements.txt": "six", "Dockerfile": "", "setup.py": ""},
        EnvironmentRequest(post_build="binder/postBuild"),
        Dockerfile("PythonBuildPack", ("RUN ./binder/postBuild\n",), (PIP,)),
        Dockerfile("PyPIBuildPack", ("RUN ./binder/postBuild\n",), (UV,)),
    ),
    BuilderCase(
        {"binder": "a file", "requirements.txt": "six"}, EnvironmentRequest(("requirements.txt",)),
        by_pip(f'{PIP} --no-cache-dir -r "requirements.txt"'), by_uv(wanted("--requirements requirements.txt")),
    ),
    # What a link stands for cannot be copied in its place, and is installed once the link is there.
    BuilderCase(
        {"config/requirements.txt": "six", "binder": "->config"}, EnvironmentRequest(("binder/requirements.txt",)),
        by_pip(f'{PIP} --no-cache-dir -r "binder/requirements.txt"'),
        Dockerfile("PyPIBuildPack", (wanted("--requirements binder/requirements.txt"),), (staged("binder/requirements.txt"),)),
    ),
    BuilderCase(
        {"real.txt": "six", "requirements.txt": "->real.txt"}, EnvironmentRequest(("requirements.txt",)),
        by_pip(f'{PIP} --no-cache-dir -r "requirements.txt"'),
        Dockerfile("PyPIBuildPack", (wanted("--requirements requirements.txt"),), (staged("requirements.txt"),)),
    ),
    BuilderCase(
        {"requirements.txt": "-r a.txt\n-cb.txt # pins\n--requirement=https://example.org/c.txt", "a.txt": "-r requirements.txt", "b.txt": ""},
        EnvironmentRequest(("requirements.txt",)),
        by_pip(f'{PIP} --no-cache-dir -r "requirements.txt"'),
        by_uv(staged("a.txt"), staged("b.txt"), staged("requirements.txt"), wanted("--requirements requirements.txt")),
    ),
    BuilderCase(
        {"requirements.txt": "six\n-e .", "setup.py": ""}, EnvironmentRequest(("requirements.txt",), (".",)),
        by_pip(f'{PIP} --no-cache-dir -r "requirements.txt"', f"{PIP} --no-cache-dir .\n"),
        Dockerfile("PyPIBuildPack", (wanted("--requirements requirements.txt ./."),), (staged("requirements.txt"),)),
    ),
    BuilderCase(
        {"requirements.txt": "six", "setup.py": ""}, EnvironmentRequest(("requirements.txt",), (".",)),
        by_pip(f'{PIP} --no-cache-dir -r "requirements.txt"', f"{PIP} --no-cache-dir .\n"),
        by_uv(staged("requirements.txt"), wanted("--requirements requirements.txt"), wanted("--requirements requirements.txt ./.")),
    ),
    BuilderCase(
        {"requirements.txt": "six", "pyproject.toml": PROJECT + SYSTEM}, EnvironmentRequest(("requirements.txt",), (".",)),
        by_pip(f'{PIP} --no-cache-dir -r "requirements.txt"', f"{PIP} --no-cache-dir .\n"),
        by_uv(wanted("--requirements requirements.txt --requirements pyproject.toml"), wanted("--requirements requirements.txt --requirements pyproject.toml ./.")),
    ),
    # Stock repo2docker does not read dependencies of what cannot be installed itself.
    BuilderCase(
        {"requirements.txt": "six", "pyproject.toml": PROJECT}, EnvironmentRequest(("requirements.txt",)),
        Dockerfile("PythonBuildPack", (f'{PIP} --no-cache-dir -r "requirements.txt"',), (f"{PIP} --no-cache-dir .",)),
        by_uv(wanted("--requirements requirements.txt --requirements pyproject.toml")),
    ),
    BuilderCase({"pyproject.toml": PROJECT}, EnvironmentRequest(("pyproject.toml",)), NOTHING_BY_PIP, by_uv(staged("pyproject.toml"), wanted("--requirements pyproject.toml"))),
    BuilderCase({"pyproject.toml": "[tool.ruff]\nline-length=100"}, EnvironmentRequest(), NOTHING_BY_PIP, NOTHING_BY_UV),
    BuilderCase(
        {"pyproject.toml": "[tool.ruff]\nline-length=100", "setup.py": ""}, EnvironmentRequest(packages=(".",)),
        by_pip(f"{PIP} --no-cache-dir .\n"), by_uv(wanted("./.")),
    ),
    BuilderCase(
        {"pyproject.toml": PROJECT + "requires-python='>=3.10'"},
        EnvironmentRequest(("pyproject.toml",), python=asked(">=3.10", "requires-python >=3.10 (pyproject.toml)")),
        NOTHING_BY_PIP, by_uv(" '>=3.10' || ", wanted("--requirements pyproject.toml")),
    ),
    BuilderCase(
        {"runtime.txt": "python-3.11", "pyproject.toml": PROJECT + "requires-python='>=3.10,<4'"},
        EnvironmentRequest(("pyproject.toml",), python=asked("==3.11.*,>=3.10,<4", "python-3.11 (runtime.txt) and requires-python >=3.10,<4 (pyproject.toml)")),
        by_pip("conda-2fenvironment-2epy-2d3-2e11-2dlinux-2d64-2elock"), by_uv(" '==3.11.*,<4,>=3.10' || "),
    ),
    BuilderCase(
        {"runtime.txt": "python-3.11\n"}, EnvironmentRequest(python=asked("==3.11.*", "python-3.11 (runtime.txt)")),
        by_pip("conda-2fenvironment-2epy-2d3-2e11-2dlinux-2d64-2elock"), by_uv(" '==3.11.*' || "),
    ),
    # Stock repo2docker wants x.y.
    BuilderCase({"runtime.txt": "python-3.11.4"}, EnvironmentRequest(python=asked("==3.11.4", "python-3.11.4 (runtime.txt)")), None, by_uv(" ==3.11.4 || ")),
    BuilderCase(
        {"runtime.txt": "python-3"}, EnvironmentRequest(python=asked("==3.*", "python-3 (runtime.txt)")),
        Dockerfile("PythonBuildPack"), by_uv(" '==3.*' || "),
    ),
    BuilderCase({"runtime.txt": "\n"}, EnvironmentRequest(), None, NOTHING_BY_UV),
    BuilderCase({"apt.txt": "# nothing yet\n\n"}, EnvironmentRequest(), Dockerfile("PythonBuildPack", lacks=("nothing yet",)), NOTHING_BY_UV),
    BuilderCase(
        {"apt.txt": "hello  less # two\ngit=1:2.39.5-0+deb12u2 tzdata/bookworm libc6:amd64\nhello"}, Refusal("apt.txt asks for system packages"),
        None, by_uv(f"{APT} git=1:2.39.5-0+deb12u2 hello less libc6:amd64 tzdata/bookworm;"),
    ),
    BuilderCase({"DESCRIPTION": "What this is about"}, EnvironmentRequest(), Dockerfile("RBuildPack"), NOTHING_BY_UV),
    BuilderCase({"DESCRIPTION": "Package: thing\n"}, Refusal("R package"), Dockerfile("RBuildPack", ("remotes::install_local()",)), Refusal("R package")),
    BuilderCase({"sub/Dockerfile": "", "sub/environment.yml": ""}, EnvironmentRequest(), NOTHING_BY_PIP, NOTHING_BY_UV),
    # The first of repo2docker's buildpacks decides; here it is refused by name, whatever lies beside it.
    BuilderCase(
        {"environment.yml": "name: x", "requirements.txt": "six"}, Refusal("environment.yml asks for"),
        Dockerfile("CondaBuildPack", lacks=(PIP,)), Refusal("environment.yml asks for"),
    ),
    BuilderCase(
        {"Dockerfile": "FROM scratch\n", "environment.yml": "name: x", "requirements.txt": "six"}, Refusal("Dockerfile asks for"),
        Dockerfile("DockerBuildPack"), Dockerfile("DockerBuildPack"),
    ),
    BuilderCase({"install.R": "x"}, Refusal("install.R asks for"), Dockerfile("PythonBuildPack", lacks=("install.R",)), Refusal("install.R asks for"), name="install.R without an R"),
    *(
        BuilderCase({name: "x"}, Refusal(f"{name} asks for"), None, Refusal(f"{name} asks for"), name=f"{name} without sense")
        for name in (
            "environment.yml", "environment.yaml", "install.R", "Project.toml", "JuliaProject.toml", "REQUIRE",
            "default.nix", "Pipfile", "Pipfile.lock", "conda-lock.yml", "conda-lock.yaml", "conda-linux-64.lock",
        )
    ),
    *(
        BuilderCase({name: "x"}, Refusal(f"{name} asks for"), Dockerfile(pack, (text,)), Dockerfile(other, (text,)), name=f"{name} without sense")
        for name, text, pack, other in (
            ("Dockerfile", "x", "DockerBuildPack", "DockerBuildPack"),
            ("start", "R2D_ENTRYPOINT", "PythonBuildPack", "PyPIBuildPack"),
        )
    ),
    BuilderCase({"apt.txt": "x"}, Refusal("apt.txt asks for"), by_pip(f"{APT} x &&"), Refusal("no name of a Debian package"), name="apt.txt without sense"),
    BuilderCase({"binder/Dockerfile": ""}, Refusal("binder/Dockerfile asks for"), Dockerfile("DockerBuildPack"), Dockerfile("DockerBuildPack")),
    BuilderCase({"runtime.txt": "r-4.2-2024-01-01"}, Refusal("Only Python"), Dockerfile("RBuildPack"), Refusal("Only Python")),
    BuilderCase({"runtime.txt": "python-x"}, Refusal("python-3.12", FailureReason.PYTHON), None, Refusal("python-3.12")),
    BuilderCase({"binder/a": "", ".binder/a": ""}, Refusal("both"), None, Refusal("both"), name="binder and .binder"),
    BuilderCase({"binder": "->../outside"}, Refusal("binder leads out of the repository"), None, Refusal("binder leads out of the repository"), name="binder beside the repository"),
    BuilderCase({"binder": "->/etc"}, Refusal("binder leads out of the repository"), None, Refusal("binder leads out of the repository"), name="binder of the system"),
    BuilderCase({"requirements.txt": f"->{LINKED}"}, Refusal("requirements.txt leads out"), None, Refusal("requirements.txt leads out"), name="linked requirements"),
    BuilderCase({"requirements.txt": "->gone.txt"}, Refusal("not in the repository"), None, Refusal("not in the repository"), name="dangling requirements"),
    BuilderCase({"requirements.txt": "->requirements.txt"}, Refusal("link"), None, Refusal("link"), name="requirements in a loop"),
    BuilderCase({"requirements.txt": f"-r {LINKED}"}, Refusal("not in the repository"), None, Refusal("not in the repository"), name="distant include"),
    BuilderCase({"requirements.txt": "-r sub.txt", "sub.txt": "-c /etc/hosts"}, Refusal("sub.txt includes"), None, Refusal("sub.txt includes")),
    BuilderCase({"requirements.txt": "-r sub.txt"}, Refusal("not there", FailureReason.DEPENDENCIES), None, Refusal("not there"), name="missing include"),
    BuilderCase({"requirements.txt": b"six\ncaf\xe9\n"}, Refusal("line 2", FailureReason.DEPENDENCIES), None, Refusal("line 2"), name="requirements in Latin-1"),
    BuilderCase({"requirements.txt": "six".encode("utf-16")}, Refusal("PowerShell", FailureReason.DEPENDENCIES), None, Refusal("PowerShell"), name="requirements in UTF-16"),
    BuilderCase({"requirements.txt": "#" * 2_000_000}, Refusal("at most 1 MB", FailureReason.DEPENDENCIES), None, Refusal("at most 1 MB"), name="2 MB of requirements"),
    BuilderCase({"pyproject.toml": "[project"}, Refusal("not valid TOML", FailureReason.DEPENDENCIES), None, Refusal("not valid TOML"), name="broken pyproject.toml"),
    BuilderCase(
        {"pyproject.toml": PROJECT + "requires-python='^3.8'"}, Refusal("which is no version", FailureReason.PYTHON), None,
        Refusal("which is no version"), name="requires-python of another tool",
    ),
)  # fmt: skip
"""Each file that repo2docker knows, by itself and in company."""
