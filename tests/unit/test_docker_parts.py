"""What of the docker builder needs no engine: repo2docker's log, its command line, sentences, recipes, checks, settings."""

import base64
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from traitlets.config.loader import PyFileConfigLoader

from replay_build_service.assembly import UnusableSettings, credentials_of, split_registry
from replay_build_service.assembly.common import base_image_name
from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.log import LogWriter, read_chunk
from replay_build_service.builders.docker.engine import Engine, EngineFault
from replay_build_service.builders.docker.instructions import Instructions, command_line, configuration_text
from replay_build_service.builders.docker.messages import Ending, failure_of, has_lost_the_end
from replay_build_service.builders.docker.output import Repo2dockerOutput
from replay_build_service.builders.docker.recipe import pinned_base_image, recipe_of
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.builders.docker.steps import check_checkout
from replay_build_service.builders.registry_images import refusal
from replay_build_service.domain import BuildRecipe, EventKind, FailureReason, ImageConfiguration, Phase
from replay_build_service.errors import SourceFault
from replay_build_service.image_labels import top_level_in

DIGEST = "sha256:" + "ab" * 32

JOB = Instructions(
    url="https://example.org/a.git", version="c" * 40, repository="https://example.org/a", outgoing_rules="{}",
    image="registry.example.org/replay/a:tag", push=True, cache_from=[], base_image=f"base@{DIGEST}",
    configuration_file=None, build_arguments={}, network=None, cgroup_parent=None, build="b1", engine="unix:///x",
    data_root=None, time_limit=1, output_limit=1, repository_limit=1, disk_limit=None, free_disk=0, memory_limit=None,
    process_limit=None,
)  # fmt: skip


def record(message: str, phase: str = "building", **more: object) -> bytes:
    return json.dumps({"message": message, "phase": phase, **more}).encode() + b"\n"


def told(tmp_path: Path, *parts: bytes) -> tuple[list[tuple[str, Phase, str]], Repo2dockerOutput]:
    """The log's records, for output that came in these parts."""
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    log = LogWriter(path)
    log.enter(Phase.BUILDING, "Begins")
    output = Repo2dockerOutput(log)
    lines = [line for part in parts for line in output.feed(part)] + output.finish()
    position, records = 0, []
    while (chunk := read_chunk(path, position)).position > position:
        position, records = chunk.position, [*records, *chunk.records]
    assert [one.text for one in records if one.kind is EventKind.LINE] == lines
    return [(one.kind, one.phase, one.text) for one in records[1:]], output


class TestRepo2dockersLog:
    def test_lines_and_phases(self, tmp_path: Path) -> None:
        seen, output = told(
            tmp_path,
            record("Picked Local content provider.\n", "fetching"),
            record("#5 0.1 pushing to nowhere\n"),
            record("#9 pushing host/x:1 with docker\n"),
            record("#9 DONE 0.1s\n"),
        )
        assert seen == [
            (EventKind.LINE, Phase.BUILDING, "Picked Local content provider."),
            (EventKind.LINE, Phase.BUILDING, "#5 0.1 pushing to nowhere"),
            (EventKind.PHASE, Phase.PUSHING, "Pushing the image to the registry."),
            (EventKind.LINE, Phase.PUSHING, "#9 pushing host/x:1 with docker"),
            (EventKind.LINE, Phase.PUSHING, "#9 DONE 0.1s"),
        ]
        assert output.is_pushing
        assert output.error is None

    def test_what_a_carriage_return_overwrites_is_dropped_across_records(self, tmp_path: Path) -> None:
        seen, _ = told(tmp_path, record("10%\r"), record("100%\n"), record("a\x1b]0;t\x07b\ud800\n"))
        assert [text for _, _, text in seen] == ["100%", "ab?"]

    def test_a_step_cannot_pretend_that_the_push_has_begun(self, tmp_path: Path) -> None:
        seen, output = told(tmp_path, record("#5 0.1 x\r"), record("#9 pushing y\n"), record("#5 0.2 on\n"))
        assert not output.is_pushing
        assert {phase for _, phase, _ in seen} == {Phase.BUILDING}

    def test_repo2dockers_own_reason_is_kept_and_a_programs_command_line_is_not(self, tmp_path: Path) -> None:
        failing = record(
            "Error during build: Command '['docker', '--secret']' returned 1.", "failed", exc_info="Traceback"
        )
        seen, output = told(tmp_path, failing)
        assert (seen, output.error) == ([], None)
        seen, output = told(tmp_path, record("Error during build: No such runtime.", "failed", exc_info="Traceback"))
        assert [text for _, _, text in seen] == ["Error during build: No such runtime."]
        assert output.error == "No such runtime."

    @pytest.mark.parametrize(
        "line", [b"not JSON\n", b"[]\n", b"1\n", b"{}\n", b"[" * 100_000 + b"\n", b'{"message": 1}\n']
    )
    def test_what_is_no_record_is_shown_as_it_is(self, tmp_path: Path, line: bytes) -> None:
        seen, _ = told(tmp_path, line, record("after\n"))
        assert "".join(text for _, _, text in seen[:-1]) == line.decode().strip()
        assert seen[-1][2] == "after"

    def test_a_line_without_end_takes_no_memory(self, tmp_path: Path) -> None:
        part = b"x" * 100_000
        log = LogWriter(tmp_path / "log")
        output = Repo2dockerOutput(log)
        for _ in range(100):
            output.feed(part)
            assert len(output._pending) <= 1024 * 1024 + len(part)  # pyright: ignore[reportPrivateUsage]
        output.feed(b"\n" + record("after\n"))
        assert output.finish() == []
        assert b"after" in (tmp_path / "log").read_bytes()[-300:]

    @given(cuts=st.lists(st.integers(0, 300), max_size=6))
    def test_how_the_pipe_cuts_does_not_matter(self, tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
        folder = tmp_path_factory.mktemp("cuts")
        whole = record("one\n") + record("#3 pushing a b\n") + b"raw\n" + record("two \u00e9\n", "building")
        edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
        parts = [whole[start:end] for start, end in pairwise(edges)]
        assert told(folder, *parts)[0] == told(folder, whole)[0]


STEP = 'ERROR: failed to solve: process "/bin/sh -c {command}" did not complete successfully: {how}'


PRINTED = st.lists(
    st.text(max_size=80)
    | st.text(max_size=5).map(lambda text: text * 200)
    | st.sampled_from(
        ["ERROR: ", "failed to solve: ", 'process "/bin/sh -c ', '" did not complete successfully: ', "exit code: 137", "\x1b[31m",
         "failed to resolve source metadata for ", ": ", "dockerfile parse error", "denied", "no space left on device"]
    ),
    max_size=6,
).map("".join)  # fmt: skip
"""A line of which parts look like what the sentences are made from."""


def ending_of(printed: list[str], error: str | None, was_pushing: bool, limit: int | None) -> str:
    """What a person is told where this was printed and, by repo2docker, this was said."""
    with TemporaryDirectory() as folder:
        output = Repo2dockerOutput(LogWriter(Path(folder) / "log"))
        lines = [line for text in printed for line in output.feed(record(f"{text}\n"))]
        if error is not None:
            lines += output.feed(record(f"Error during build: {error}", "failed"))
        lines += output.finish()
    ending = Ending(lines, output.error, was_pushing, True, memory_limit=limit, process_limit=limit)
    return failure_of(ending).message


class TestSentences:
    @pytest.mark.parametrize(
        ("lines", "more", "reason", "words"),
        [
            ([STEP.format(command="make all", how="exit code: 2")], {}, FailureReason.STEP, "failed with status 2: make all."),
            ([STEP.format(command="x", how="exit code: 137")], {"memory_limit": 10**9}, FailureReason.MEMORY, "more than 1 GB of memory"),
            ([STEP.format(command="x", how="exit code: 137")], {}, FailureReason.STEP, "status 137"),
            ([STEP.format(command="x", how="exit code: 1")], {"process_limit": 9}, FailureReason.STEP, "9 processes"),
            (["#5 write /x: no space left on device", "ERROR: failed to solve: x"], {}, FailureReason.DISK, "is full"),
            (["#5 0.9 head: error writing: No space left on device", STEP.format(command="x", how="exit code: 1")], {}, FailureReason.DISK, "is full"),
            (["ERROR: failed to solve: no:1: failed to resolve source metadata for docker.io/library/no:1: not found"], {}, FailureReason.CANNOT_BUILD, "docker.io/library/no:1, cannot be had: not found."),
            (["ERROR: failed to solve: dockerfile parse error on line 1: unknown instruction: FROMM"], {}, FailureReason.CANNOT_BUILD, "line 1"),
            (["ERROR: denied: requested access to the resource is denied"], {"was_pushing": True}, FailureReason.REGISTRY, "refused the image"),
            (["ERROR: failed to do request: dial tcp: connection refused"], {"was_pushing": True}, FailureReason.REGISTRY, "could not be sent"),
            (["ERROR: anything"], {"engine_answers": False}, FailureReason.ENGINE, "went away"),
            (["ERROR: Cannot connect to the Docker daemon at unix:///x"], {}, FailureReason.ENGINE, "went away"),
            (["ERROR: rpc error: code = Unavailable desc = error reading from server: EOF"], {}, FailureReason.ENGINE, "went away"),
            ([STEP.format(command="uv pip install", how="exit code: 84")], {"error": "six==9 cannot be installed"}, FailureReason.CANNOT_BUILD, "six==9 cannot be installed."),
            ([STEP.format(command="x", how="exit code: 137")], {"error": "it ended", "memory_limit": 10**9}, FailureReason.MEMORY, "1 GB"),
            (["ERROR: blob upload: no space left on device"], {"was_pushing": True}, FailureReason.REGISTRY, "could not be sent"),
            (["odd"], {"error": "No such runtime"}, FailureReason.CANNOT_BUILD, "No such runtime."),
            ([], {}, FailureReason.STEP, "no reason was given"),
            (["ERROR: failed to solve: " + "x" * 5000], {}, FailureReason.STEP, "…"),
        ],
    )  # fmt: skip
    def test_each_end_has_its_reason_and_a_sentence(
        self, lines: list[str], more: dict[str, Any], reason: FailureReason, words: str
    ) -> None:
        ending = replace(Ending(lines, None, was_pushing=False, engine_answers=True), **more)
        failure = failure_of(ending)
        assert failure.reason is reason
        assert words in failure.message
        assert failure.message[-1] in ".…"
        assert len(failure.message) < 700

    @given(st.lists(PRINTED, max_size=5), st.none() | PRINTED, st.booleans(), st.booleans())
    def test_whatever_was_printed_there_is_a_sentence(
        self, printed: list[str], error: str | None, was_pushing: bool, is_limited: bool
    ) -> None:
        message = ending_of(printed, error, was_pushing, 10**9 if is_limited else None)
        assert message[-1] in ".…!?"
        assert len(message) < 800
        assert "\n" not in message

    @given(st.lists(PRINTED, max_size=5), st.none() | PRINTED, st.booleans(), st.booleans())
    @example(["ERROR: failed to solve: dockerfile parse error: unknown instruction: \x1b[31mFROMM"], None, False, False)
    @example([], "No \x1b]0;such\x07 runtime\x00", False, False)
    def test_no_sentence_has_anything_that_a_terminal_would_obey(
        self, printed: list[str], error: str | None, was_pushing: bool, is_limited: bool
    ) -> None:
        message = ending_of(printed, error, was_pushing, 10**9 if is_limited else None)
        assert not [character for character in message if unicodedata.category(character) in {"Cc", "Cs"}]

    @pytest.mark.parametrize(
        ("user", "is_refused"),
        [("", True), ("0", True), ("root", True), ("0:1000", True), ("root:users", True), ("+0", True), ("00:0", True), ("4294967296", True), ("9" * 30, True), ("1000", False), ("jovyan", False), ("1000:0", False)],
    )  # fmt: skip
    def test_root_is_refused_before_anybody_waits(self, user: str, is_refused: bool) -> None:
        assert (refusal(ImageConfiguration(user=user)) is not None) is is_refused


class TestRepo2dockersCommand:
    def test_the_command_line_is_stock(self) -> None:
        job = replace(JOB, cache_from=[f"host/a@{DIGEST}"], build_arguments={"HTTP_PROXY": "http://p:3128"})
        command = command_line(job, "/b/config.py", "/b/src")[1:]
        assert command == (
            "-m", "repo2docker", "--no-run", "--json-logs", "--config", "/b/config.py",
            "--image-name", "registry.example.org/replay/a:tag", "--user-id", "1000", "--user-name", "jovyan", "--push",
            "--cache-from", f"host/a@{DIGEST}", "--label", "repo2docker.repo=https://example.org/a",
            "--label", f"repo2docker.ref={'c' * 40}", "--label", "replay.top-level=", "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=b1", "--build-arg", "HTTP_PROXY=http://p:3128", "/b/src",
        )  # fmt: skip
        assert "--push" not in command_line(replace(JOB, push=False), "/c", "/s")

    def test_repo2docker_understands_the_command_line(self) -> None:
        from repo2docker.__main__ import get_argparser

        job = replace(JOB, cache_from=[f"host/a@{DIGEST}"], build_arguments={"A": "1"})
        parsed = get_argparser().parse_args(command_line(job, "/b/config.py", "/b/src")[3:])
        assert (parsed.repo, parsed.image_name, parsed.user_id, parsed.push) == ("/b/src", job.image, 1000, True)

    @pytest.mark.parametrize("own", ["", "c.DockerEngine.extra_buildx_build_args = ['--own']\n", "c.DockerEngine.extra_buildx_build_args.append('--own')\n"])  # fmt: skip
    def test_the_configuration_adds_to_the_admins(self, tmp_path: Path, own: str) -> None:
        admins = tmp_path / "admins config.py"
        admins.write_text(own + "c.Repo2Docker.base_image = 'theirs'\nc.Repo2Docker.appendix = 'RUN true'\n")
        file = tmp_path / "config.py"
        job = replace(JOB, configuration_file=str(admins), network="host")
        file.write_text(configuration_text(job, "/b/metadata", "/group"))
        from repo2docker.app import Repo2Docker
        from repo2docker.contentproviders import Local
        from repo2docker.docker import DockerEngine

        config = PyFileConfigLoader(file.name, path=str(tmp_path)).load_config()
        app = Repo2Docker(config=config)
        engine = DockerEngine(parent=app)
        assert app.content_providers == [Local]
        assert app.base_image == f"base@{DIGEST}"
        assert app.appendix == "RUN true"
        assert engine.extra_buildx_build_args == [
            *(["--own"] if own else []), "--metadata-file", "/b/metadata", "--cache-to", "type=inline",
            "--network", "host", "--cgroup-parent", "/group",
        ]  # fmt: skip

    def test_instructions_survive_their_file(self) -> None:
        assert Instructions.from_json(JOB.to_json()) == JOB


class TestTheCheckout:
    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({"Dockerfile": "->/etc/passwd"}, "Dockerfile is a link"),
            ({"binder": "->/etc"}, "binder is a link"),
            ({".binder/apt.txt": "->../../outside"}, ".binder/apt.txt is a link"),
            ({"requirements.txt": "->requirements.txt"}, "requirements.txt is a link"),
            ({"environment.yml": "x" * 1_100_000}, "environment.yml is 1,100,000 bytes"),
            ({".containerignore": "x" * 1_100_000}, ".containerignore is 1,100,000 bytes"),
            *[
                ({name: text}, f"{name} asks for a frontend")
                for name in ("Dockerfile", "binder/Dockerfile")
                for text in (
                    "# syntax=docker.io/evil/frontend\nFROM x\n",
                    "\ufeff#  SYNTAX = evil/frontend:1\nFROM x\n",
                    "#!/bin/x\n# escape=`\n# syntax=docker/dockerfile-evil:1\nFROM x\n",
                    "// syntax=evil\n",
                    '{"syntax": "evil"}',
                )
            ],
        ],
    )
    def test_what_repo2docker_would_read_elsewhere_is_refused(
        self, tmp_path: Path, files: Mapping[str, str], words: str
    ) -> None:
        write(tmp_path / "src", files)
        with pytest.raises(Unbuildable) as refused:
            check_checkout(tmp_path / "src")
        assert words in refused.value.failure.message

    def test_links_within_and_large_data_are_fine(self, tmp_path: Path) -> None:
        write(
            tmp_path / "src",
            {
                "real.txt": "six",
                "requirements.txt": "->real.txt",
                "data.csv": "x" * 3_000_000,
                "binder/start": "->../real.txt",
            },
        )
        check_checkout(tmp_path / "src")


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("->"):
            path.symlink_to(content[2:])
        else:
            path.write_text(content)


def engine_that_says(*answers: tuple[str, int, object]) -> Engine:
    """An engine whose transport answers by the path's end."""

    def answer(request: httpx.Request) -> httpx.Response:
        for end, status, body in answers:
            if request.url.path.endswith(end):
                return httpx.Response(status, json=body)
        return httpx.Response(404, json={"message": "no such image"})

    engine = Engine("unix:///nowhere")
    engine._client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://engine")  # pyright: ignore[reportPrivateUsage]
    return engine


def recipe(settings: DockerBuilderSettings, base_image: str) -> BuildRecipe:
    return recipe_of("docker", base_image, settings.configuration_file, settings.build_arguments)


class TestTheRecipe:
    SETTINGS = DockerBuilderSettings(builds_dir=Path("builds"))

    @pytest.mark.parametrize(
        ("changes", "base", "is_another"),
        [
            ({}, f"base@{DIGEST}", False),
            ({"time_limit": 1.0, "memory_limit": 5, "network": "host"}, f"base@{DIGEST}", False),
            ({"environment": {"https_proxy": "http://p", "SSL_CERT_FILE": "/x"}}, f"base@{DIGEST}", False),
            ({}, f"base@sha256:{'00' * 32}", True),
            ({"environment": {"PIP_INDEX_URL": "https://mirror"}}, f"base@{DIGEST}", True),
        ],
    )  # fmt: skip
    def test_what_changes_the_image_changes_the_recipe(
        self, changes: dict[str, Any], base: str, is_another: bool
    ) -> None:
        first = recipe(self.SETTINGS, f"base@{DIGEST}")
        assert (recipe(replace(self.SETTINGS, **changes), base) != first) is is_another

    def test_the_admins_configuration_is_part_of_it(self, tmp_path: Path) -> None:
        file = tmp_path / "config.py"
        file.write_text("c.Repo2Docker.base_image = 'theirs:1'\n")
        settings = replace(self.SETTINGS, configuration_file=file)
        before = recipe(settings, "x")
        assert base_image_name("", file) == "theirs:1"
        assert base_image_name("ours:1", file) == "ours:1"
        file.write_text("c.Repo2Docker.base_image = 'theirs:2'\n")
        assert recipe(settings, "x") != before

    def test_without_any_word_it_is_repo2dockers_own_base(self) -> None:
        assert base_image_name("", None).startswith("docker.io/library/buildpack-deps")

    async def test_a_pinned_base_stays_as_it_is(self) -> None:
        assert await pinned_base_image(f"host:5000/base@{DIGEST}", engine_that_says()) == f"host:5000/base@{DIGEST}"

    async def test_what_the_engine_has_comes_first(self) -> None:
        engine = engine_that_says(("/images/host:5000/base:1/json", 200, {"Id": "sha256:1", "RepoDigests": ["other@x", f"host:5000/base@{DIGEST}"], "Config": {}}))  # fmt: skip
        assert await pinned_base_image("host:5000/base:1", engine) == f"host:5000/base@{DIGEST}"

    async def test_what_it_has_not_is_pinned_to_what_the_registry_says(self) -> None:
        engine = engine_that_says(("/distribution/host:5000/base:1/json", 200, {"Descriptor": {"digest": DIGEST}}))
        assert await pinned_base_image("host:5000/base:1", engine) == f"host:5000/base@{DIGEST}"

    async def test_an_image_of_no_registry_gets_a_name_by_its_id(self) -> None:
        engine = engine_that_says(("/images/own:1/json", 200, {"Id": DIGEST, "RepoDigests": None, "Config": None}), ("/tag", 201, {}))  # fmt: skip
        assert await pinned_base_image("own:1", engine) == f"replay-base:{'ab' * 32}"

    async def test_one_that_nobody_has_is_told(self) -> None:
        with pytest.raises(SourceFault, match="neither in the container engine nor"):
            await pinned_base_image("gone:1", engine_that_says())

    @pytest.mark.parametrize("answer", [(500, {"message": "x"}), (200, []), (200, {"Id": 1})])
    async def test_an_engine_that_answers_oddly_is_a_fault_and_no_fact(self, answer: tuple[int, object]) -> None:
        with pytest.raises(EngineFault):
            await engine_that_says(("/json", *answer)).image("a:1")

    async def test_an_engine_that_does_not_answer_is_a_fault(self, tmp_path: Path) -> None:
        async with Engine(f"unix://{tmp_path}/none.sock") as engine:
            with pytest.raises(EngineFault):
                await engine.image("a:1")

    @pytest.mark.parametrize("host", ["", "ssh://x", "unix://", "/var/run/docker.sock"])
    def test_an_address_that_is_no_engines_is_told(self, host: str) -> None:
        with pytest.raises(ValueError, match="should read"):
            Engine(host)


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "parts"),
        [
            ("", ("", "")),
            ("https://r.example.org", ("https://r.example.org", "")),
            ("http://127.0.0.1:5000/", ("http://127.0.0.1:5000", "")),
            ("https://r.example.org/a/b/", ("https://r.example.org", "a/b")),
        ],
    )
    def test_a_registry_and_what_its_names_begin_with(self, url: str, parts: tuple[str, str]) -> None:
        assert split_registry(url) == parts

    @pytest.mark.parametrize(
        "url", ["r.example.org", "ftp://x", "https://", "https://a:b@r.example.org", "https://r/?x=1"]
    )
    def test_what_is_no_registry_is_told(self, url: str) -> None:
        with pytest.raises(UnusableSettings, match="should read") as refused:
            split_registry(url)
        assert "a:b" not in str(refused.value)

    def test_credentials_are_those_of_docker_login(self, tmp_path: Path) -> None:
        assert credentials_of(tmp_path, "r.example.org") == (None, None)
        entry = base64.b64encode(b"me:pass:word").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.example.org": {"auth": entry}}}))
        assert credentials_of(tmp_path, "r.example.org") == ("me", "pass:word")
        assert credentials_of(tmp_path, "other.example.org") == (None, None)

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"auths": []}', '{"auths": {"r": {"auth": "%%"}}}', '{"auths": {"r": 1}}']
    )
    def test_credentials_that_cannot_be_read_are_told_without_them(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UnusableSettings, match="no credentials that can be read for r"):
            credentials_of(tmp_path, "r")


class TestTheLostEnd:
    """What Docker 20.10 and buildx 0.10 printed last where BuildKit's client did not wait for the rest."""

    LAST = (
        "#7 4.012 line 299998",
        "ERROR: failed to receive status: rpc error: code = Canceled desc = context canceled",
    )

    def test_the_client_that_gave_up_is_known_by_its_last_words(self) -> None:
        assert has_lost_the_end(self.LAST)

    def test_a_step_that_only_prints_them_early_is_a_step_that_failed(self) -> None:
        assert not has_lost_the_end((self.LAST[1], *(f"#7 5.0 line {number}" for number in range(5))))

    @pytest.mark.parametrize(
        "line",
        [
            "ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF",
            "ERROR: failed to solve: Canceled: context canceled",
            "context canceled",
        ],
    )
    def test_other_ends_are_no_lost_end(self, line: str) -> None:
        assert not has_lost_the_end((self.LAST[0], line))


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (None, ""),
        ([], ""),
        (["index.ipynb", "datahub", ".git"], ".git/datahub/index.ipynb"),
        (["a=b", "c d", "ü"], "a=b/c d/ü"),
        (["line\nbreak"], ""),
        (["half \udcff"], ""),
        ([f"{number:04}" for number in range(3000)], ""),
    ],
)
def test_what_a_repository_has_at_its_top_level_is_on_its_image(names: list[str] | None, label: str) -> None:
    command = command_line(JOB, "/b/config.py", "/b/src", top_level=names)
    assert f"replay.top-level={label}" in command
    assert top_level_in(label) == (tuple(sorted(names)) if names and label else None)
