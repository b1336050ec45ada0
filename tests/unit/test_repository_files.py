"""What a checkout asks for, and the small rules beside it: interpreters, uv's words, lines of a log."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from replay_build_service.builders.base import LogRecord
from replay_build_service.builders.detached.failures import Unbuildable, duration, size
from replay_build_service.builders.detached.log import MAX_RECORDS, LogWriter, read_chunk
from replay_build_service.builders.detached.terminal_text import MAX_LINE, LineSplitter, safe_line
from replay_build_service.builders.detached.trees import protect_tree, remove_tree, tree_digest
from replay_build_service.builders.venv.folder import EnvironmentFolder
from replay_build_service.builders.venv.interpreters import Interpreter, choose_interpreter, parse_interpreters, refusal
from replay_build_service.builders.venv.repository_files import EnvironmentRequest, read_checkout
from replay_build_service.builders.venv.uv_messages import core_of_error, failure_of_install
from replay_build_service.domain import FailureReason, Phase
from tests.unit.builder_cases import CASES, PROJECT, BuilderCase, Refusal, asked, checkout


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.venv, EnvironmentRequest)], ids=str)
def test_a_checkout_says_what_it_needs(tmp_path: Path, case: BuilderCase) -> None:
    assert read_checkout(case.checkout(tmp_path)) == case.venv


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.venv, Refusal)], ids=str)
def test_what_cannot_be_built_is_refused_by_name(tmp_path: Path, case: BuilderCase) -> None:
    assert isinstance(case.venv, Refusal)
    with pytest.raises(Unbuildable) as refused:
        read_checkout(case.checkout(tmp_path))
    assert refused.value.failure.reason is case.venv.reason
    assert case.venv.words in refused.value.failure.message
    assert refused.value.failure.message.endswith(".")


def test_both_wishes_for_a_python_have_to_be_met(tmp_path: Path) -> None:
    files = {"runtime.txt": "python-3.11", "pyproject.toml": PROJECT + "requires-python='>=3.12'"}
    request = read_checkout(checkout(tmp_path, files)).python
    assert request is not None
    installed = [Interpreter(Version(version), "") for version in ("3.12.1", "3.11.2")]
    assert choose_interpreter(request, installed, "3.11") is None
    assert "runtime.txt" in refusal(request, installed, "3.11")
    assert "pyproject.toml" in refusal(request, installed, "3.11")


@pytest.mark.parametrize(
    ("specifiers", "default", "chosen"),
    [
        (None, "3.11", "3.11.9"),
        (None, "3.11.2", "3.11.2"),
        (None, "3.9", None),
        (">=3.10", "3.11", "3.11.9"),
        (">=3.12", "3.11", "3.13.0"),
        ("==3.11.2", "3.12", "3.11.2"),
        ("==3.*", "3.12", "3.12.4"),
        ("==3.14.*", "3.12", "3.14.0rc1"),
        ("<3.10", "3.12", None),
    ],
)
def test_the_default_python_is_taken_where_it_will_do(specifiers: str | None, default: str, chosen: str | None) -> None:
    installed = [
        Interpreter(Version(version), version) for version in ("3.14.0rc1", "3.13.0", "3.12.4", "3.11.9", "3.11.2")
    ]
    request = None if specifiers is None else asked(specifiers, "x")
    found = choose_interpreter(request, installed, default)
    assert (found and found.path) == chosen


def test_each_version_is_listed_once() -> None:
    entry = {"implementation": "cpython", "variant": "default"}
    output = json.dumps(
        [
            {**entry, "version": "3.11.2", "path": "/a"},
            {**entry, "version": "3.12.1", "path": "/b"},
            {**entry, "version": "3.11.2", "path": "/c"},
            {**entry, "version": "3.13.1", "path": None},
            {**entry, "version": "3.13.1", "variant": "freethreaded", "path": "/d"},
            {"implementation": "pypy", "version": "3.10.1", "path": "/e"},
        ]
    )
    assert [(str(found.version), found.path) for found in parse_interpreters(output)] == [
        ("3.12.1", "/b"),
        ("3.11.2", "/a"),
    ]


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("plain", "plain"),
        ("a\tb", "a\tb"),
        ("10%\r50%\r100%", "100%"),
        ("done\r", "done"),
        ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
        ("\x1b[2Jwiped\x1b[10;10H", "wiped"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;c3RvbGVu", ""),
        ("\x1bPqdevice\x1b\\x", "x"),
        ("\x9b31mx\x9d0;t\x9cy", "xy"),
        ("\x1bcreset\x1b7", "reset"),
        ("bell\x07 back\x08 del\x7f nul\x00", "bell back del nul"),
        ("\x1b[", ""),
        ("\x1b", ""),
    ],
)
def test_of_a_terminals_language_only_colours_stay(printed: str, shown: str) -> None:
    assert safe_line(printed) == shown


@given(st.lists(st.binary(max_size=40)))
def test_lines_do_not_depend_on_how_the_pipe_cuts_them(parts: list[bytes]) -> None:
    whole, cut = LineSplitter(), LineSplitter()
    expected = [*whole.feed(b"".join(parts)), *whole.finish()]
    assert [*(line for part in parts for line in cut.feed(part)), *cut.finish()] == expected


@given(st.text(alphabet="\x1b[]0;m\x9b\x07\rab\x90\\", max_size=60))
def test_no_line_holds_a_sequence_that_a_terminal_obeys(text: str) -> None:
    without_colours = "".join(part.partition("m")[2] for part in ("m" + safe_line(text)).split("\x1b["))
    assert not set(without_colours) & {"\x1b", "\x9b", "\x07", "\r", "\x90"}


def test_long_lines_are_cut_and_progress_is_not_kept() -> None:
    splitter = LineSplitter()
    lines = [*splitter.feed(b"x" * 10_000), *splitter.feed(b"\n"), *splitter.finish()]
    assert "".join(lines) == "x" * 10_000
    assert max(map(len, lines)) == MAX_LINE
    progress = LineSplitter()
    assert progress.feed(b"".join(b"%d of 100000\r" % step for step in range(100_000))) == []
    assert progress.finish() == ["99999 of 100000"]


def test_invalid_utf8_is_replaced() -> None:
    assert LineSplitter().feed(b"caf\xe9\nna\xc3\xafve\n") == ["caf\ufffd", "na\u00efve"]


def test_a_torn_line_of_the_log_waits_and_scribbles_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_chunk(path, 0).position == 0
    writer = LogWriter(path)
    writer.enter(Phase.BUILDING, "Begins")
    writer.lines([f"line {number}" for number in range(MAX_RECORDS + 10)])
    whole = path.read_bytes()
    path.write_bytes(b"{}\nscribble\n" + whole + b'{"kind":"line"')
    records: list[LogRecord] = []
    position = 0
    while (chunk := read_chunk(path, position)).position > position:
        assert len(chunk.records) <= MAX_RECORDS
        records += chunk.records
        position = chunk.position
    assert [record.text for record in records] == ["Begins", *(f"line {n}" for n in range(MAX_RECORDS + 10))]
    assert position == path.stat().st_size - len(b'{"kind":"line"')


def test_a_build_that_writes_its_own_records_tells_of_nothing_but_its_own_way(tmp_path: Path) -> None:
    good = {"kind": "line", "phase": "building", "text": "so far", "at": 1.0}
    wrong: list[dict[str, object]] = [
        *({"phase": phase} for phase in ("built", "launching", "ready", "failed", "other", 1, None)),
        *({"at": at} for at in (float("nan"), float("inf"), -1, 1e12, 10**400, "1", None)),
        *({"text": text} for text in (None, 1, ["x"])),
        *({"kind": kind} for kind in ("other", None, 1)),
    ]
    lines = [json.dumps({**good, **change}) for change in wrong]
    lines += [json.dumps({**good, name: []}) for name in good]
    lines += ["[" * 100_000, "[]", "1", "null", json.dumps({"kind": "line"}), "1" * 5000]
    hostile = "over\rshown \x1b]0;title\x07\x1b[31mred\x1b[0m\x00 two\nlines \ud800" + "x" * 10_000
    lines += [json.dumps({**good, "text": hostile}), json.dumps(good)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    records = list(read_chunk(path, 0).records)
    assert [record.text[:40] for record in records] == [
        "shown \x1b[31mred\x1b[0m two lines ?xxxxxxxxxx",
        "so far",
    ]
    assert len(records[0].text) == MAX_LINE


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "null", "1", '"x"', "not JSON", "", "[" * 100_000, "9" * 10_000, "\x00",
        '{"pid": "1", "created": 1, "reason": "no such reason", "message": "x", "python": "3.12", "executables": []}',
        '{"pid": -1, "created": 1, "reason": "killed", "message": 1, "digest": 1, "python": "3", "executables": []}',
        '{"pid": 1, "created": NaN, "reason": [], "message": "x", "digest": "x", "executables": [1], "python": "3"}'.replace(
            '"digest"', '"digests"'
        ),
        '{"pid": 1e99, "created": 1, "digest": [], "python": 3, "executables": "ab"}',
        f'{{"pid": 1{"0" * 400}, "created": 1, "digest": null}}',
    ],
)  # fmt: skip
def test_what_a_build_damaged_reads_as_if_it_were_not_there(tmp_path: Path, text: str) -> None:
    folder = EnvironmentFolder(tmp_path)
    for path in (folder.process, folder.exit, folder.image):
        path.write_text(text)
    assert (folder.read_process(), folder.read_exit(), folder.read_image()) == (None, None, None)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link_to_itself])
def test_what_is_no_file_is_not_read_and_holds_nobody_up(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = EnvironmentFolder(tmp_path)
    for path in (folder.process, folder.exit, folder.image):
        make(path)
    assert (folder.read_process(), folder.read_exit(), folder.read_image()) == (None, None, None)


def deep_tree(top: Path, levels: int, name: str = "d") -> None:
    """Folders in folders, made from within, since the path of the last may be longer than the system takes."""
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=inner))
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_a_tree_of_any_depth_can_be_named_protected_and_removed(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    deep_tree(tmp_path / "src", 1200)
    first = tree_digest(tmp_path, ("src",))
    protect_tree(tmp_path / "src", also_from_owner=True)
    assert tree_digest(tmp_path, ("src",)) == first
    remove_tree(tmp_path / "src")
    assert list(tmp_path.iterdir()) == []


def test_removing_takes_paths_longer_than_the_system_does_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    deep_tree(doomed, 50, "x" * 200)
    (doomed / "link").symlink_to(outside)
    (doomed / "locked").mkdir()
    (doomed / "locked" / "inner").mkdir(mode=0o000)
    (doomed / "locked").chmod(0o000)
    (tmp_path / "itself a link").symlink_to(outside)
    for path in (doomed, tmp_path / "itself a link", tmp_path / "not there"):
        remove_tree(path)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").read_text() == "kept"


def test_a_very_deep_checkout_is_refused_with_a_sentence(tmp_path: Path) -> None:
    deep_tree(tmp_path, 100)
    assert read_checkout(tmp_path) == EnvironmentRequest()
    (tmp_path / "more").mkdir()
    deep_tree(tmp_path / "more", 100)
    with pytest.raises(Unbuildable, match="more than 100 levels deep") as caught:
        read_checkout(tmp_path)
    assert caught.value.failure.reason is FailureReason.CANNOT_BUILD


@pytest.mark.parametrize(
    ("lines", "core"),
    [
        (["error: No solution found when resolving dependencies", "  cause: Because a<1 and a>2, we can conclude that it is unsatisfiable."], "Because a<1 and a>2, it is unsatisfiable."),
        (["  × No solution found when resolving dependencies:", "  ╰─▶ Because there is no", "      version of a."], "Because there is no version of a."),
        (["Resolved", "error: Unexpected '-': r.txt:1:1", "", "hint: try"], "Unexpected '-': r.txt:1:1."),
        (["only this"], "only this."),
        ([], "uv gave no reason."),
    ],
)  # fmt: skip
def test_the_core_of_what_uv_says_is_one_line(lines: list[str], core: str) -> None:
    assert core_of_error(lines) == core


def test_a_full_disk_and_a_lost_network_are_not_the_packages_fault() -> None:
    full = failure_of_install(["error: Failed to copy", "  cause: No space left on device (os error 28)"], None)
    assert full.reason is FailureReason.INTERNAL
    lost = failure_of_install(["error: Failed to fetch: https://x/", "  cause: error sending request"], None)
    assert "try again" in lost.message


def test_limits_are_told_as_people_say_them() -> None:
    assert [size(50_000_000), size(4_000_000_000), size(999)] == ["50 MB", "4 GB", "999 bytes"]
    assert [duration(1800), duration(2.5), duration(90)] == ["30 minutes", "2.5 s", "90 s"]
