"""The venv builder for real: uv, git over HTTP, detached processes that are killed, cancelled and found again."""

import asyncio
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import httpx
import psutil
import pytest
import stamina

from demo.git_server import GitServer
from replay_build_service.builders.base import LogRecord, RunningBuild
from replay_build_service.builders.detached import build as detached
from replay_build_service.builders.detached.trees import remove_tree, tree_digest
from replay_build_service.builders.venv.builder import VenvBuilder, VenvBuilderSettings
from replay_build_service.builders.venv.folder import REFERENCE_PREFIX, EnvironmentFolder
from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    EventKind,
    FailureReason,
    ImageName,
    Phase,
    ResolvedRef,
    RunnableImage,
)
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules

pytestmark = pytest.mark.hub_independent

SECRET = "a-token-of-the-service"

PASSED_ON = ("SSL_CERT_FILE", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY")
"""What a site may need to reach its package index, and so gives in the settings."""

Files: TypeAlias = Mapping[str, str | bytes]


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with GitServer(tmp_path_factory.mktemp("forge")) as server:
        yield server


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture
def settings(forge: GitServer, cache: Path, tmp_path: Path) -> VenvBuilderSettings:
    return VenvBuilderSettings(
        builds_dir=tmp_path / "builds",
        cache_dir=cache,
        base_requirements=(),
        environment={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        outgoing=OutgoingRules(exempt_origins=frozenset({forge.url})),
        time_limit=120,
    )


@pytest.fixture
def builder(settings: VenvBuilderSettings) -> VenvBuilder:
    return VenvBuilder(settings)


@pytest.fixture
async def nothing_left(settings: VenvBuilderSettings) -> AsyncIterator[None]:
    """After the test no process works in the builds' folder, and none is left as a zombie."""
    yield
    async for attempt in stamina.retry_context(on=AssertionError, timeout=10, wait_max=0.1, attempts=None):
        with attempt:
            assert processes_of(settings.builds_dir) == []


def processes_of(folder: Path) -> list[str]:
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd(), process.environ().get("HOME", "")]
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(f"{process.pid} {words}")
        except psutil.Error:
            continue
    return found


def job_for(forge: GitServer, builder: VenvBuilder, files: Files, name: str = "build1") -> BuildJob:
    """A build of a new repository with these files. A name that ends in ``*`` makes an executable, a ``->`` a link."""
    work = forge.root.parent / f"work-{time.monotonic_ns()}"
    work.mkdir()
    for path, content in files.items():
        target = work / path.rstrip("*")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("->"):
            target.symlink_to(content[2:])
            continue
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        target.chmod(0o755 if path.endswith("*") else 0o644)
    identity = {
        f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", *arguments), cwd=work, check=True, capture_output=True, text=True, env={**os.environ, **identity}
        ).stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "--allow-empty", "-m", "One")
    git("clone", "-q", "--bare", ".", str(forge.root / f"{work.name}.git"))
    url, version = f"{forge.url}/{work.name}.git", git("rev-parse", "HEAD")
    resolved = ResolvedRef(Repository.of_url(url), RepoSpec("git", url, "HEAD"), url, version)
    return BuildJob(BuildId(name), ImageName.of(resolved, builder.recipe), resolved, builder.recipe)


async def log_of(build: RunningBuild, position: int = 0) -> list[LogRecord]:
    return [record async for chunk in build.follow(position) for record in chunk.records]


async def built(builder: VenvBuilder, job: BuildJob) -> tuple[RunnableImage, list[LogRecord]]:
    build = await builder.start(job)
    log = await log_of(build)
    outcome = await build.outcome()
    assert isinstance(outcome, RunnableImage), (outcome, [record.text for record in log])
    return outcome, log


async def failed(builder: VenvBuilder, job: BuildJob) -> tuple[BuildFailure, list[LogRecord]]:
    build = await builder.start(job)
    log = await log_of(build)
    outcome = await build.outcome()
    assert isinstance(outcome, BuildFailure), [record.text for record in log]
    return outcome, log


async def until_line(build: RunningBuild, text: str) -> int:
    """The position after the chunk with that line."""
    async for chunk in build.follow(0):
        if any(record.text == text for record in chunk.records):
            return chunk.position
    raise AssertionError(f"The build ended without {text!r}: {await build.outcome()}")


def phases(log: list[LogRecord]) -> list[Phase]:
    return [record.phase for record in log if record.kind is EventKind.PHASE]


def lines(log: list[LogRecord]) -> list[str]:
    return [record.text for record in log if record.kind is EventKind.LINE]


def is_as_built(image: RunnableImage) -> bool:
    """Whether every file of the image is as it was when it got its name."""
    folder = EnvironmentFolder(Path(image.location))
    return image.reference == REFERENCE_PREFIX + tree_digest(folder.path, (folder.source.name, folder.environment.name))


def python_says(image: RunnableImage, code: str) -> str:
    python = Path(image.location, "venv/bin/python")
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


WAITS = "#!/bin/sh\necho ready\nexec sleep 600\n"
"""A postBuild that never ends."""

LEAVES_SESSION = (
    "#!/bin/sh\nsetsid sleep 600 &\n(setsid env -i /bin/sleep 600 >/dev/null 2>&1 &)\necho ready\nexec sleep 600\n"
)
"""One whose children leave the session and the process group, and of whom one forgets its environment."""


@pytest.mark.usefixtures("nothing_left")
class TestWhatIsBuilt:
    async def test_the_environment_has_the_dependency_at_its_pinned_version(
        self, forge: GitServer, builder: VenvBuilder
    ) -> None:
        job = job_for(forge, builder, {"requirements.txt": "six==1.16.0\n", "index.ipynb": "{}"})
        image, log = await built(builder, job)
        assert python_says(image, "import six; print(six.__version__)") == "1.16.0"
        assert phases(log) == [Phase.FETCHING, Phase.BUILDING]
        assert any("six==1.16.0" in line for line in lines(log))
        assert Path(image.location, "src/index.ipynb").read_text() == "{}"
        assert not Path(image.location, "home").exists()

    async def test_the_image_is_named_by_what_it_holds(self, forge: GitServer, builder: VenvBuilder) -> None:
        image, _ = await built(builder, job_for(forge, builder, {"requirements.txt": "six==1.16.0\n"}))
        assert await builder.exists(image)
        assert is_as_built(image)
        assert not await builder.exists(replace(image, reference="venv@sha256:" + "0" * 64))
        Path(image.location, "src/requirements.txt").write_text("six\n")
        assert await builder.exists(image)
        assert not is_as_built(image)

    async def test_an_image_without_its_interpreter_does_not_exist(
        self, forge: GitServer, builder: VenvBuilder
    ) -> None:
        image, _ = await built(builder, job_for(forge, builder, {}))
        python = Path(image.location, "venv/bin/python")
        python.parent.chmod(0o755)
        python.unlink()
        python.symlink_to("/no/such/python")
        assert not await builder.exists(image)

    async def test_nobody_may_write_into_the_environment(self, forge: GitServer, builder: VenvBuilder) -> None:
        image, _ = await built(builder, job_for(forge, builder, {"requirements.txt": "six\n"}))
        paths = [path for path in Path(image.location, "venv").rglob("*") if not path.is_symlink()]
        assert [path for path in paths if path.stat().st_mode & 0o222] == []
        assert all(path.stat().st_nlink == 1 for path in paths if path.is_file())

    async def test_git_log_works_in_the_sources(self, forge: GitServer, builder: VenvBuilder) -> None:
        job = job_for(forge, builder, {"README.md": "Hello"})
        image, _ = await built(builder, job)
        command = ("git", "-C", f"{image.location}/src", "log", "--format=%H")
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == [
            job.resolved.version
        ]

    @pytest.mark.parametrize(
        ("files", "code", "says"),
        [
            pytest.param(
                {"binder/requirements.txt": "-r more.txt\n-c ../pins.txt\n", "binder/more.txt": "iniconfig", "pins.txt": "iniconfig==2.0.0\n"},
                "import importlib.metadata as m; print(m.version('iniconfig'))", "2.0.0", id="files that include files",
            ),
            pytest.param(
                {"requirements.txt": "-e .\n", "setup.py": "from setuptools import setup; setup(name='thing', py_modules=['thing'])", "thing.py": "x = 3"},
                "import thing; print(thing.x)", "3", id="an editable project",
            ),
            pytest.param(
                {"pyproject.toml": "[project]\nname='thing'\nversion='1'\ndependencies=['six==1.16.0']\n[build-system]\nrequires=['setuptools']\nbuild-backend='setuptools.build_meta'\n", "thing.py": "x = 4"},
                "import six, thing; print(thing.x, six.__version__)", "4 1.16.0", id="a project that can be installed",
            ),
            pytest.param(
                {"pyproject.toml": "[project]\nname='thing'\nversion='1'\ndependencies=['six==1.16.0']\n", "a/x.py": "", "b/x.py": ""},
                "import six; print(six.__version__)", "1.16.0", id="a project of dependencies alone",
            ),
            pytest.param(
                {"uv.toml": "[[index]]\nurl = 'http://127.0.0.1:9/simple'\ndefault = true\n", "requirements.txt": "six==1.16.0\n", ".python-version": "2.7\n"},
                "import six; print(six.__version__)", "1.16.0", id="uv's configuration is not taken from it",
            ),
            pytest.param(
                {"requirements.txt": b"\xef\xbb\xbfsix==1.16.0\r\n"}, "import six; print(six.__version__)", "1.16.0", id="written on Windows",
            ),
            pytest.param(
                {"requirements.txt": "six==1.16.0 --hash=sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n"},
                "import six; print(six.__version__)", "1.16.0", id="with hashes",
            ),
        ],
    )  # fmt: skip
    async def test_each_way_to_name_packages_works(
        self, forge: GitServer, builder: VenvBuilder, files: Files, code: str, says: str
    ) -> None:
        image, _ = await built(builder, job_for(forge, builder, files))
        assert python_says(image, code) == says

    async def test_post_build_runs_in_the_checkout_with_the_environment_first(
        self, forge: GitServer, builder: VenvBuilder
    ) -> None:
        script = "#!/bin/sh\npwd\ncommand -v python\npython -c 'import six; print(six.__version__)'\ntouch made\n"
        image, log = await built(
            builder, job_for(forge, builder, {"requirements.txt": "six==1.16.0", "postBuild*": script})
        )
        assert lines(log)[-3:] == ["src", "venv/bin/python", "1.16.0"], "paths are told from the build's folder on"
        assert Path(image.location, "src/made").exists()

    async def test_a_build_sees_nothing_of_the_services_environment(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("REPLAY_TOKEN", "JUPYTERHUB_API_TOKEN", "SOMETHING_ELSE", "PYTHONPATH"):
            monkeypatch.setenv(name, SECRET)
        _, log = await built(builder, job_for(forge, builder, {"postBuild*": "#!/bin/sh\nenv\n"}))
        names = {line.partition("=")[0] for line in lines(log) if "=" in line}
        assert SECRET not in "".join(lines(log))
        expected = {
            "PATH",
            "LANG",
            "HOME",
            "TMPDIR",
            "UV_CACHE_DIR",
            "UV_PYTHON_INSTALL_DIR",
            "VIRTUAL_ENV",
            "REPO_DIR",
        }
        assert expected <= names
        assert not {name for name in names if name.startswith(("JUPYTERHUB_", "REPLAY_"))}
        assert {name for name in names if name.isupper()} <= expected | {"PWD", "OLDPWD", "SHLVL", "_"} | set(
            settings.environment
        )


@pytest.mark.usefixtures("nothing_left")
class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("files", "reason", "words"),
        [
            ({"requirements.txt": "six==99\n"}, FailureReason.DEPENDENCIES, "there is no version of six==99"),
            ({"requirements.txt": "six<1\nsix>1.2\n"}, FailureReason.DEPENDENCIES, "unsatisfiable"),
            ({"requirements.txt": b"six # \xe9\n"}, FailureReason.DEPENDENCIES, "Save it as UTF-8"),
            ({"requirements.txt": "--no-such-option\n"}, FailureReason.DEPENDENCIES, "requirements.txt:1:1"),
            ({"requirements.txt": "->/etc/passwd"}, FailureReason.CANNOT_BUILD, "leads out of the repository"),
            ({"environment.yml": "dependencies: []"}, FailureReason.CANNOT_BUILD, "environment.yml asks for conda"),
            ({"runtime.txt": "python-3.99"}, FailureReason.PYTHON, "versions that are there: 3."),
            ({"postBuild": "#!/bin/sh\nexit 3\n"}, FailureReason.POST_BUILD, "status 3"),
            ({"postBuild*": "#!/bin/sh\nexit 7\n"}, FailureReason.POST_BUILD, "status 7"),
            ({"postBuild*": "#!/bin/sh\r\necho x\r\n"}, FailureReason.POST_BUILD, "Unix line ends"),
        ],
    )
    async def test_it_is_told_in_a_sentence(
        self, forge: GitServer, builder: VenvBuilder, files: Files, reason: FailureReason, words: str
    ) -> None:
        failure, _ = await failed(builder, job_for(forge, builder, files))
        assert failure.reason is reason
        assert words in failure.message

    async def test_a_python_that_cannot_be_downloaded_either_is_refused_with_those_that_are_there(
        self, forge: GitServer, settings: VenvBuilderSettings
    ) -> None:
        builder = VenvBuilder(replace(settings, python_downloads=True))
        failure, log = await failed(builder, job_for(forge, builder, {"runtime.txt": "python-2.7"}))
        assert failure.reason is FailureReason.PYTHON
        assert re.search(
            r"needs python-2\.7 \(runtime\.txt\) and it cannot be had here\. .* there: 3\.", failure.message
        ), failure
        assert any("No interpreter found" in line for line in lines(log)), "uv itself was asked"

    async def test_a_commit_that_is_gone_is_a_failure_to_fetch(self, forge: GitServer, builder: VenvBuilder) -> None:
        job = job_for(forge, builder, {})
        failure, _ = await failed(builder, replace(job, resolved=replace(job.resolved, version="0" * 40)))
        assert failure.reason is FailureReason.FETCH

    async def test_what_a_session_needs_is_resolved_together_with_the_repositorys_wishes(
        self, forge: GitServer, settings: VenvBuilderSettings
    ) -> None:
        builder = VenvBuilder(replace(settings, base_requirements=("six>=1.16",)))
        failure, _ = await failed(builder, job_for(forge, builder, {"requirements.txt": "six==1.10.0\n"}))
        assert failure.reason is FailureReason.DEPENDENCIES
        assert "six==1.10.0" in failure.message
        assert "six>=1.16" in failure.message

    async def test_without_a_package_index_nothing_is_said_about_the_packages(
        self, forge: GitServer, settings: VenvBuilderSettings, tmp_path: Path
    ) -> None:
        nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
        builder = VenvBuilder(replace(settings, environment=nowhere, cache_dir=tmp_path / "empty"))
        failure, _ = await failed(builder, job_for(forge, builder, {"requirements.txt": "six"}))
        assert failure.message.startswith("Packages could not be downloaded")
        assert "try again" in failure.message

    async def test_a_folder_that_cannot_be_made_is_a_fault_of_ours(
        self, forge: GitServer, settings: VenvBuilderSettings, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        builder = VenvBuilder(replace(settings, builds_dir=tmp_path / "file" / "builds"))
        failure, log = await failed(builder, job_for(forge, builder, {}))
        assert failure.reason is FailureReason.INTERNAL
        assert "could not work with its files" in failure.message
        assert log == []

    async def test_a_tool_that_is_gone_is_a_fault_of_ours(
        self, forge: GitServer, settings: VenvBuilderSettings, tmp_path: Path
    ) -> None:
        uv = tmp_path / "uv"
        uv.symlink_to(settings.uv)
        builder = VenvBuilder(replace(settings, uv=str(uv)))
        uv.unlink()
        failure, _ = await failed(builder, job_for(forge, builder, {}))
        assert failure.reason is FailureReason.INTERNAL


@pytest.mark.usefixtures("nothing_left")
class TestLimits:
    async def test_a_build_that_hangs_is_ended_by_its_runner(
        self, forge: GitServer, settings: VenvBuilderSettings
    ) -> None:
        for limit in (2, 10, 50):  # A busy machine needs longer to come to where the build hangs.
            builder = VenvBuilder(replace(settings, time_limit=limit))
            job = job_for(forge, builder, {"postBuild*": LEAVES_SESSION}, f"build{limit}")
            failure, log = await failed(builder, job)
            assert failure.reason is FailureReason.TIMEOUT
            assert f"longer than {limit} s" in failure.message
            if "ready" in lines(log):
                return
        raise AssertionError("The build did not come to its postBuild.")

    async def test_the_runner_keeps_the_limit_with_nobody_watching(
        self, forge: GitServer, settings: VenvBuilderSettings
    ) -> None:
        builder = VenvBuilder(replace(settings, time_limit=3))
        await builder.start(job_for(forge, builder, {"postBuild*": WAITS}))
        folder = EnvironmentFolder(settings.builds_dir / "build1")
        async for attempt in stamina.retry_context(on=AssertionError, timeout=20, wait_max=0.1, attempts=None):
            with attempt:
                assert folder.exit.exists()
        assert json.loads(folder.exit.read_text())["reason"] == FailureReason.TIMEOUT

    async def test_a_runner_that_does_not_keep_its_limit_is_ended_by_who_watches(
        self, forge: GitServer, settings: VenvBuilderSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = job_for(forge, VenvBuilder(settings), {"postBuild*": LEAVES_SESSION})
        position = await until_line(await VenvBuilder(settings).start(job), "ready")
        identity = EnvironmentFolder(settings.builds_dir / "build1").read_process()
        assert identity is not None
        os.kill(identity.pid, signal.SIGSTOP)
        monkeypatch.setattr(detached, "BACKSTOP", 0.0)
        build = await VenvBuilder(replace(settings, time_limit=0.1)).start(job)
        await log_of(build, position)
        outcome = await build.outcome()
        assert isinstance(outcome, BuildFailure)
        assert outcome.reason is FailureReason.TIMEOUT

    async def test_a_build_that_prints_without_end_is_ended(
        self, forge: GitServer, settings: VenvBuilderSettings
    ) -> None:
        builder = VenvBuilder(replace(settings, output_limit=1_000_000))
        failure, log = await failed(builder, job_for(forge, builder, {"postBuild*": "#!/bin/sh\nexec yes hello\n"}))
        assert failure.reason is FailureReason.OUTPUT_LIMIT
        assert "more than 1 MB" in failure.message
        assert 1000 < lines(log).count("hello") < 100_000

    async def test_one_line_without_end_counts_too(self, forge: GitServer, settings: VenvBuilderSettings) -> None:
        builder = VenvBuilder(replace(settings, output_limit=1_000_000))
        failure, log = await failed(
            builder, job_for(forge, builder, {"postBuild*": "#!/bin/sh\nexec tr '\\0' x < /dev/zero\n"})
        )
        assert failure.reason is FailureReason.OUTPUT_LIMIT
        assert max(len(line) for line in lines(log)) == 4000

    async def test_a_program_that_takes_too_much_memory_fails_and_is_told_the_limit(
        self, forge: GitServer, settings: VenvBuilderSettings
    ) -> None:
        builder = VenvBuilder(replace(settings, memory_limit=4_000_000_000))
        script = "#!/bin/sh\npython -c 'print(len(bytearray(8_000_000_000)))'\n"
        failure, _ = await failed(builder, job_for(forge, builder, {"postBuild*": script}))
        assert failure.reason is FailureReason.POST_BUILD
        assert "at most 4 GB of memory" in failure.message


@pytest.mark.usefixtures("nothing_left")
class TestDetached:
    async def test_the_log_is_resumed_after_a_restart_without_gap_or_repeat(
        self, forge: GitServer, settings: VenvBuilderSettings, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        script = f"#!/bin/sh\nfor n in $(seq 1 700); do echo $n; done\nuntil [ -e {gate} ]; do sleep 0.02; done\nfor n in $(seq 701 1500); do echo $n; done\n"
        first = VenvBuilder(settings)
        job = job_for(forge, first, {"postBuild*": script})
        position, seen = 0, list[LogRecord]()
        async for chunk in (await first.start(job)).follow(0):
            assert len(chunk.records) <= 500
            seen += chunk.records
            position = chunk.position
            if len(seen) > 300:
                break
        second = VenvBuilder(settings)
        build = await second.start(job)
        gate.touch()
        seen += await log_of(build, position)
        assert isinstance(await build.outcome(), RunnableImage)
        assert [line for line in lines(seen) if line.isdigit()] == [str(n) for n in range(1, 1501)]
        assert seen == await log_of(await VenvBuilder(settings).start(job))

    async def test_a_build_outlives_the_process_that_started_it(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        script = f"#!/bin/sh\necho ready\nuntil [ -e {gate} ]; do sleep 0.02; done\n"
        job = job_for(forge, builder, {"postBuild*": script})
        parts = tmp_path / "parts"
        parts.write_bytes(pickle.dumps((settings, job)))
        starts_and_dies = (
            "import asyncio, os, pickle, sys\n"
            "from replay_build_service.builders.venv.builder import VenvBuilder\n"
            "settings, job = pickle.load(open(sys.argv[1], 'rb'))\n"
            "asyncio.run(VenvBuilder(settings).start(job))\n"
            "os.kill(os.getpid(), 9)\n"
        )
        service = subprocess.run((sys.executable, "-c", starts_and_dies, str(parts)), check=False, timeout=60)
        assert service.returncode == -signal.SIGKILL
        build = await builder.start(job)
        await until_line(build, "ready")
        gate.touch()
        await log_of(build)
        assert isinstance(await build.outcome(), RunnableImage)

    async def test_a_second_runner_leaves_the_first_alone(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings
    ) -> None:
        build = await builder.start(job_for(forge, builder, {"postBuild*": WAITS}))
        await until_line(build, "ready")
        folder = EnvironmentFolder(settings.builds_dir / "build1")
        before = folder.process.read_text(), folder.log.read_bytes()
        command = (sys.executable, "-m", "replay_build_service.builders.venv.runner", str(folder.path))
        second = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
        assert (second.returncode, second.stderr) == (3, "This build has a runner already.\n")
        assert (folder.process.read_text(), folder.log.read_bytes()) == before
        assert not folder.exit.exists()
        await build.cancel()

    @pytest.mark.parametrize("script", [WAITS, LEAVES_SESSION])
    async def test_a_killed_runner_is_told_and_leaves_nothing(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings, script: str
    ) -> None:
        build = await builder.start(job_for(forge, builder, {"postBuild*": script}))
        position = await until_line(build, "ready")
        identity = EnvironmentFolder(settings.builds_dir / "build1").read_process()
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)
        await log_of(build, position)
        outcome = await build.outcome()
        assert isinstance(outcome, BuildFailure)
        assert outcome.reason is FailureReason.KILLED
        assert await build.outcome() == outcome
        assert not psutil.pid_exists(identity.pid)

    @pytest.mark.parametrize("script", [WAITS, LEAVES_SESSION, "#!/bin/sh\ntrap '' TERM\n" + LEAVES_SESSION[10:]])
    @pytest.mark.parametrize("halted", [False, True])
    async def test_cancelling_leaves_no_process(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings, script: str, halted: bool
    ) -> None:
        job = job_for(forge, builder, {"postBuild*": script})
        position = await until_line(await builder.start(job), "ready")
        identity = EnvironmentFolder(settings.builds_dir / "build1").read_process()
        assert identity is not None
        if halted:
            os.kill(identity.pid, signal.SIGSTOP)
        build = await VenvBuilder(settings).start(job)
        await build.cancel()
        assert processes_of(settings.builds_dir) == []
        await log_of(build, position)
        outcome = await build.outcome()
        assert isinstance(outcome, BuildFailure)
        assert outcome.reason is FailureReason.CANCELLED
        await build.cancel()
        assert await build.outcome() == outcome

    async def test_what_a_step_leaves_running_does_not_hold_up_the_build(
        self, forge: GitServer, builder: VenvBuilder
    ) -> None:
        script = "#!/bin/sh\nsetsid sleep 600 &\nsleep 600 &\n(true &)\necho done\n"
        _, log = await built(builder, job_for(forge, builder, {"postBuild*": script}))
        assert lines(log)[-1] == "done"

    async def test_discarding_ends_and_removes_all(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings
    ) -> None:
        job = job_for(forge, builder, {"postBuild*": LEAVES_SESSION})
        await until_line(await builder.start(job), "ready")
        await builder.discard(job)
        assert processes_of(settings.builds_dir) == []
        assert not (settings.builds_dir / "build1").exists()
        await builder.discard(job)

    async def test_a_repository_of_very_deep_folders_is_refused_and_removed(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings
    ) -> None:
        job = job_for(forge, builder, {})
        repository = forge.root / job.resolved.fetch_url.rpartition("/")[2]

        def git(*arguments: str, text: str = "") -> str:
            command = ("git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments)
            return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout.strip()

        tree = git("mktree", text=f"100644 blob {git('hash-object', '-w', '--stdin')}\tfile\n")
        for _ in range(1200):
            tree = git("mktree", text=f"040000 tree {tree}\td\n")
        version = git("commit-tree", "-m", "Deep", tree)
        git("update-ref", "refs/heads/deep", version)
        failure, _ = await failed(builder, replace(job, resolved=replace(job.resolved, version=version)))
        assert failure.reason is FailureReason.CANNOT_BUILD
        assert "levels deep" in failure.message
        await builder.discard(job)
        assert not (settings.builds_dir / "build1").exists()

    async def test_a_sweep_goes_on_where_a_folder_cannot_be_removed(
        self, builder: VenvBuilder, settings: VenvBuilderSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a", "stuck", "z", ".removing-older", ".removing-stuck-too"):
            (settings.builds_dir / name).mkdir(parents=True)
            if not name.startswith("."):
                (settings.builds_dir / name / "job.json").write_text("{}")
        for file in ("process.json", "exit.json"):
            (settings.builds_dir / "z" / file).write_text("[]")
        (settings.builds_dir / "z").chmod(0o500)

        def breaks(folder: Path) -> None:
            if "stuck" in folder.name:
                raise RecursionError("maximum recursion depth exceeded")
            remove_tree(folder)

        monkeypatch.setattr(detached, "remove_tree", breaks)
        assert await builder.sweep((), ()) == ["older", "a", "z"]
        assert sorted(path.name for path in settings.builds_dir.iterdir()) == [".removing-stuck-too", "stuck"]
        monkeypatch.undo()
        assert await builder.sweep((), ()) == ["stuck-too", "stuck"]
        assert list(settings.builds_dir.iterdir()) == []

    async def test_a_sweep_removes_what_nobody_knows(
        self, forge: GitServer, builder: VenvBuilder, settings: VenvBuilderSettings
    ) -> None:
        images = [(await built(builder, job_for(forge, builder, {}, name)))[0] for name in ("known", "unknown")]
        assert await builder.sweep((), {BuildId("known")}) == ["unknown"]
        assert [await builder.exists(image) for image in images] == [True, False]


class TestSessions:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        folder = tmp_path / "the home of Ada"
        folder.mkdir()
        return folder

    async def _serves_lab(self, port: int, home: Path, environment: Mapping[str, str]) -> None:
        options = ("--no-browser", "--allow-root", "--IdentityProvider.token=", f"--port={port}")
        with (home / "server.log").open("wb") as output:
            server = await asyncio.create_subprocess_exec(
                "python", "-m", "jupyterlab", *options, cwd=home, env=environment, stdout=output, stderr=output
            )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                async for attempt in stamina.retry_context(on=httpx.HTTPError, timeout=60, attempts=None, wait_max=0.2):
                    with attempt:
                        specs = await client.get("/api/kernelspecs")
                        assert specs.json()["default"] == "python3"
                page = await client.get("/lab")
        finally:
            server.terminate()
            await server.wait()
        assert "jupyter-config-data" in page.text, (home / "server.log").read_text()

    async def test_a_server_runs_and_what_is_installed_in_it_stays_in_its_home(
        self, forge: GitServer, settings: VenvBuilderSettings, home: Path, unused_tcp_port_factory: Callable[[], int]
    ) -> None:
        builder = VenvBuilder(
            replace(settings, base_requirements=VenvBuilderSettings(builds_dir=home).base_requirements)
        )
        image, _ = await built(builder, job_for(forge, builder, {"requirements.txt": "six==1.16.0\n"}))
        session = await builder.session(image)
        environment = {
            **settings.environment,
            **{name: value.replace("{home}", str(home)) for name, value in session.environment.items()},
            "HOME": str(home),
        }

        def in_session(*command: str) -> str:
            result = subprocess.run(command, env=environment, cwd=home, check=False, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            return result.stdout

        assert in_session(*session.command, "--version").strip()  # makes the session's own environment
        await self._serves_lab(unused_tcp_port_factory(), home, environment)
        version = ("python", "-c", "import six; print(six.__version__, six.__file__)")
        assert in_session(*version).split()[0] == "1.16.0"
        in_session("pip", "install", "-q", "six==1.17.0", "iniconfig==2.0.0")
        installed, _, where = in_session(*version).strip().partition(" ")
        assert installed == "1.17.0"
        assert Path(where).is_relative_to(home)
        kernel_says = (
            "from jupyter_client.manager import run_kernel\n"
            "with run_kernel() as client:\n"
            "    client.execute_interactive('import six; print(six.__version__)')\n"
        )
        assert in_session("python", "-c", kernel_says).strip() == "1.17.0"
        assert python_says(image, "import six; print(six.__version__)") == "1.16.0"
        in_session("pip", "uninstall", "-q", "-y", "six")
        assert in_session(*version).split()[0] == "1.16.0"
        assert is_as_built(image)
