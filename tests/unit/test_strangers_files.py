"""What strangers' repositories and servers say of more files: ``.gitmodules``, pointers of Git LFS, names in archives, lists of installations.

Each is refused in a sentence, or means what may be asked or written. Of archives' answers `test_record_answers` asks the same.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from replay_build_service.builders.detached import lfs, submodules
from replay_build_service.errors import BadLink, OriginRefused, Refused, SourceFault
from replay_build_service.outgoing import Origin, OutgoingRules, admit
from replay_build_service.sources.dataverse_installations import known_installations, read_installations
from replay_build_service.sources.paths import MAX_PATH, Places, link_target
from tests.unit.broken_texts import ODD, broken_texts, changed, check_sentence, how_many, tried

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]

OID = "0123456789abcdef" * 4
RULES = OutgoingRules(allowed_hosts=frozenset({"github.com"}))


def is_fine_submodule(text: str) -> bool:
    """The address of one, in a repository of GitHub: of a host that may be asked, or told why not."""
    try:
        url = submodules._absolute("https://github.com/o/deeper/r.git", text)
        admit(url, RULES)
    except (BadLink, OriginRefused) as error:
        check_sentence(error.sentence)
        return False
    assert Origin.of_url(url) == Origin("https", "github.com", 443)
    assert ".." not in url.split("/") or "://" in text
    return True


def are_fine_modules(text: str) -> bool:
    found = submodules._read(text)
    assert list(found) == sorted(found)
    assert not any("\0" in part for pair in found.items() for part in pair)
    return bool(found)


def is_fine_pointer(text: str) -> bool:
    match = lfs._POINTER.fullmatch(text.encode(errors="replace"))
    if match is None:
        return False
    assert len(match["oid"]) == 64
    assert 0 <= int(match["size"]) < 10**15
    return True


def is_fine_member(text: str) -> bool:
    """A name in an archive, and where a link of that name leads: below the folder, on any file system."""
    places = Places(100)
    try:
        path = places.file(text)
        target = link_target("a/b/c", text, "The archive")
    except Refused as refusal:
        check_sentence(refusal.sentence)
        return False
    assert os.path.normpath(f"a/b/{target}").split("/")[0] != ".."
    if path is not None:
        assert os.path.normpath(path) == path
        assert not path.startswith(("/", "../"))
        assert path != ".."
        assert len(path.encode()) <= MAX_PATH
    return True


def are_fine_installations(text: str) -> bool:
    try:
        read = read_installations(text)
    except ValueError:
        return False
    for one in known_installations(read):
        assert Origin.of_url(one.origin).netloc == one.host
        assert all(prefix.startswith("10.") for prefix in one.prefixes)
    return True


_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12\n"
_SIGNS = ["\n", "\0", "/", "..", ".", "\\", ":", "%2e%2e", "\u202e", "\ud800", "é", "x" * 300]

KINDS: Mapping[str, tuple[Callable[[str], bool], list[str], int]] = {
    "addresses of submodules": (
        is_fine_submodule,
        ["../", "./", "..", "../../../..", "https://github.com/", "https://github.com:443/o/r.git", "o/r.git", "r", "https://", "@", "[", " ", *_SIGNS],
        5_000,
    ),
    "lists of submodules": (
        are_fine_modules,
        ["submodule.a.path\na\0", "submodule.a.url\n../a\0", "submodule.a.b.path\nx/y\0submodule.a.b.url\n./x\0", "submodule.a.path\0", *_SIGNS],
        5_000,
    ),
    "pointers": (is_fine_pointer, [_POINTER, _POINTER, _POINTER.replace("oid", "ext-0-foo sha256:1\noid"), "size 1", "٣", *_SIGNS], 5_000),
    "names in archives": (is_fine_member, ["a/b", "a", "./", "../", "/", ".git/", "A/B", *_SIGNS], 5_000),
    "installations": (
        are_fine_installations,
        [
            *6 * ['{"installations": [{"hostname": "dataverse.example.org", "prefixes": ["10.7910/DVN"]}]}'],
            *('{"installations": [{"hostname": "', "dataverse.example.org", '"}]}', '", "prefixes": ["10.7910/DVN"]}]}'),
            *("[" * 3000, "{", "}", '"', ",", "https://", ":8443", "\\ud800", "1e999", "9" * 5000, "é", ".", "/", "[", "@"),
        ],
        3_000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_is_refused_or_means_something(kind: str) -> None:
    tried(*KINDS[kind], least=1 / 200)


@settings(deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.one_of(st.text(max_size=200), st.sampled_from(ODD)))
def test_no_text_at_all_breaks_one(kind: str, text: str) -> None:
    KINDS[kind][0](text)


# ---- a file .gitmodules, as git reads it


def test_git_reads_a_broken_file_or_says_so(tmp_path: Path) -> None:
    """With git itself, which is what makes the lists above: so few, since each is a process."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    whole = '[submodule "a"]\n\tpath = a/b\n\turl = ../r.git\n'
    pieces = [whole, whole, '[submodule "', '"]', "path", " = ", "url = https://github.com/o/r.git\n", "#", "\\", "\t", "[include]\n", *_SIGNS]  # fmt: skip
    texts = broken_texts(pieces)
    read = 0
    for number in range(min(how_many(40), 5_000)):
        file = tmp_path / f"{number}"
        file.write_bytes(next(texts).encode(errors="replace"))
        command = ["git", "config", "--file", file, "--null", "--list"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        listed = done.stdout.decode(errors="replace") if done.returncode == 0 else ""
        read += are_fine_modules(listed)
        for address in submodules._read(listed).values():
            is_fine_submodule(address)
    assert read


# ---- answers


def test_a_server_of_lfs_may_answer_anything() -> None:
    chance = random.Random(7)
    asked = [lfs._Pointer(Path("data") / name, OID, 12) for name in ("a.bin", "a\n\udc80\u202e.bin")]
    proper = {"transfer": "basic", "objects": [{"oid": OID, "size": 12, "actions": {"download": {"href": "https://github.com/x"}}}]}  # fmt: skip
    given_all = 0
    for _ in range(count := how_many(3_000)):
        try:
            answer = lfs._Batch.model_validate_json(json.dumps(changed(proper, chance)))
            given = lfs._given(answer, asked, "github.com")
        except ValidationError:  # which is told as what was not understood
            continue
        except SourceFault as error:
            check_sentence(error.sentence)
            continue
        given_all += 1
        assert set(given) == {OID}
        try:
            admit(given[OID], RULES)
        except (BadLink, OriginRefused) as error:
            check_sentence(error.sentence)
    assert count / 50 < given_all < count


def test_an_answer_about_more_than_was_asked_is_no_reason_to_ask_nobody() -> None:
    """What is not asked for may be anywhere: it is not fetched."""
    answer = lfs._Batch.model_validate(
        {
            "objects": [
                {"oid": oid, "actions": {"download": {"href": href}}}
                for oid, href in ((OID, "https://github.com/x"), ("f" * 64, "https://elsewhere.example.org/x"))
            ]
        }
    )
    assert lfs._given(answer, [lfs._Pointer(Path("a"), OID, 1)], "github.com") == {OID: "https://github.com/x"}
