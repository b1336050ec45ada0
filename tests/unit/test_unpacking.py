"""Archives that strangers packed: what comes out of a good one, and that nothing comes of any other but a sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from replay_build_service.errors import Refused
from replay_build_service.sources import unpacking
from replay_build_service.sources.paths import Places
from replay_build_service.sources.unpacking import Budget, Stopped, archive_kind, unpack

pytestmark = pytest.mark.hub_independent

ROOMY = 1_000_000_000


@dataclass(frozen=True)
class Entry:
    """What is packed. ``mode`` has the kind, as stat(2) has it."""

    name: str
    content: bytes = b""
    mode: int = stat.S_IFREG | 0o644


def folder(name: str) -> Entry:
    return Entry(name, mode=stat.S_IFDIR | 0o755)


def link(name: str, target: str) -> Entry:
    return Entry(name, target.encode(), stat.S_IFLNK | 0o777)


def zipped(entries: Sequence[Entry], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as packed:
        for entry in entries:
            info = zipfile.ZipInfo(f"{entry.name}/" if stat.S_ISDIR(entry.mode) else entry.name)
            info.compress_type = method
            info.create_system, info.external_attr = 3, entry.mode << 16
            packed.writestr(info, entry.content)
    return held.getvalue()


TAR_TYPES = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}


def tarred(entries: Sequence[Entry | tarfile.TarInfo]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as packed:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                packed.addfile(entry)
                continue
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode = TAR_TYPES[stat.S_IFMT(entry.mode)], stat.S_IMODE(entry.mode)
            if info.issym():
                info.linkname = entry.content.decode()
                packed.addfile(info)
            else:
                info.size = len(entry.content)
                packed.addfile(info, io.BytesIO(entry.content))
    return held.getvalue()


PACKERS: Mapping[str, Callable[[Sequence[Entry]], bytes]] = {
    "zip": zipped,
    "tar": tarred,
    "tar.gz": lambda entries: gzip.compress(tarred(entries)),
    "tar.bz2": lambda entries: bz2.compress(tarred(entries)),
    "tar.xz": lambda entries: lzma.compress(tarred(entries), preset=1),
}
TARS = [name for name in PACKERS if name != "zip"]


def unpacked(tmp_path: Path, name: str, packed: bytes, *, limit: int = ROOMY, most: int = 1000) -> Path:
    """Where what is in it is. The folder around it has nothing else, whatever happens."""
    archive = tmp_path / "incoming"
    archive.write_bytes(packed)
    kind = archive_kind(f"x.{name}")
    assert kind is not None
    return unpack(archive, kind, tmp_path / "tree", Budget(limit), Places(most, "The archive"))


def tree(root: Path) -> dict[str, bytes | str | None]:
    """By path: bytes of files, targets of links, nothing for folders."""
    found: dict[str, bytes | str | None] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        found[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


# ---- what comes out


@pytest.mark.parametrize("name", PACKERS)
def test_files_folders_links_and_the_right_to_execute_come_out(tmp_path: Path, name: str) -> None:
    entries = [
        Entry("requirements.txt", b"numpy\n", stat.S_IFREG | 0o600),
        folder("empty"),
        Entry("bin/run", b"#!/bin/sh\n", stat.S_IFREG | 0o4777),
        Entry("notebooks/ü b.ipynb", b"{}" * 200_000),
        link("latest", "notebooks/ü b.ipynb"),
        link("bin/up", "../requirements.txt"),
    ]
    root = unpacked(tmp_path, name, PACKERS[name](entries))
    assert tree(root) == {
        "requirements.txt": b"numpy\n",
        "empty": None,
        "bin": None,
        "bin/run": b"#!/bin/sh\n",
        "notebooks": None,
        "notebooks/ü b.ipynb": b"{}" * 200_000,
        "latest": "notebooks/ü b.ipynb",
        "bin/up": "../requirements.txt",
    }
    modes = {path: stat.S_IMODE((root / path).stat().st_mode) for path in ("requirements.txt", "bin/run", "empty")}
    assert modes == {"requirements.txt": 0o644, "bin/run": 0o755, "empty": 0o755}
    assert not (tmp_path / "incoming").exists()


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize(
    ("names", "inside"),
    [
        (["hello-1.0/a", "hello-1.0/b/c"], "hello-1.0"),
        (["hello-1.0/hello-1.0/a"], "hello-1.0"),
        (["a", "b/c"], ""),
        (["a"], ""),
    ],
    ids=["one folder", "a folder in it", "more", "a file"],
)
def test_what_lies_in_one_folder_is_meant(tmp_path: Path, name: str, names: Sequence[str], inside: str) -> None:
    root = unpacked(tmp_path, name, PACKERS[name]([Entry(one, b"x") for one in names]))
    assert root == tmp_path / "tree" / inside


def test_what_macos_and_git_add_is_left_out(tmp_path: Path) -> None:
    names = ["project/a", "__MACOSX/project/._a", "project/.git/config", "project/.git/hooks/post-checkout"]
    places = Places(1000)
    archive = tmp_path / "incoming"
    archive.write_bytes(zipped([Entry(name, b"x") for name in names]))
    assert tree(unpack(archive, "zip", tmp_path / "tree", Budget(ROOMY), places)) == {"a": b"x"}
    assert places.left_out == 2


@pytest.mark.parametrize(("kind", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_streams_that_were_joined_are_one(tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]) -> None:
    plain = tarred([Entry("a", b"x" * 5000)])
    packed = pack(plain[:3000]) + pack(plain[3000:])
    assert tree(unpacked(tmp_path, f"tar.{kind}", packed)) == {"a": b"x" * 5000}


KINDS = {
    "x.zip": "zip", "X.ZIP": "zip", "a/b-v1.0.zip": "zip", "x.tar": "tar", "x.tar.gz": "gz", "x.tgz": "gz", "x.tar.bz2": "bz2",
    "x.tbz2": "bz2", "x.tar.xz": "xz", "x.txz": "xz", "x.gz": None, "data.csv.gz": None, "x.docx": None, "x.whl": None,
    "x.zip.txt": None, "zip": None, "": None,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_an_archive_by_its_name(name: str) -> None:
    assert archive_kind(name) == KINDS[name]


# ---- what is refused


HOSTILE: Mapping[str, tuple[Sequence[Entry], str]] = {
    "up": ([Entry("../evil", b"x")], "leads out"),
    "up later": ([Entry("a/b/../../../evil", b"x")], "leads out"),
    "absolute": ([Entry("/tmp/evil", b"x")], "place outside"),
    "backslash": ([Entry("..\\evil", b"x")], "folders are written"),
    "control": ([Entry("a\x1b[31m", b"x")], "characters that no name has"),
    "twice": ([Entry("a", b"x"), Entry("./a", b"y")], "two files"),
    "case": ([Entry("README", b"x"), Entry("readme", b"y")], "upper and lower case"),
    "file and folder": ([Entry("a", b"x"), Entry("a/b", b"y")], "both a file and a folder"),
    "link up": ([link("a", "../evil")], "leads out"),
    "link away": ([link("a", "/etc/passwd")], "leads out"),
    "through a link": ([link("a", "b"), Entry("a/evil", b"x")], "both a file and a folder"),
    "over a link": ([link("a", "b"), Entry("a", b"x")], "two files"),
    "a link to the only folder's outside": ([Entry("top/a", b"x"), link("top/b", "../a")], "leads out"),
    "deep": ([Entry("a/" * 70 + "b", b"x")], "deep"),
    "long": ([Entry("x" * 300, b"x")], "too long"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("name", ["zip", "tar"])
def test_what_would_leave_the_tree_is_refused(tmp_path: Path, name: str, case: str) -> None:
    entries, sentence = HOSTILE[case]
    (tmp_path / "inner").mkdir()
    with pytest.raises(Refused, match=sentence):
        unpacked(tmp_path / "inner", name, PACKERS[name](entries))
    assert {path.name for path in tmp_path.iterdir()} == {"inner"}
    assert {path.name for path in (tmp_path / "inner").iterdir()} <= {"incoming", "tree"}


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE]
)
def test_hard_links_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    odd = tarfile.TarInfo("odd")
    odd.type, odd.linkname = kind, "a" if kind == tarfile.LNKTYPE else ""
    if kind == tarfile.CONTTYPE:  # which POSIX makes a regular file
        assert tree(unpacked(tmp_path, "tar", tarred([odd]))) == {"odd": b""}
        return
    with pytest.raises(Refused, match="a hard link, a device or a pipe"):
        unpacked(tmp_path, "tar", tarred([Entry("a", b"x"), odd]))


def test_a_pipe_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="a hard link, a device or a pipe"):
        unpacked(tmp_path, "zip", zipped([Entry("odd", b"", stat.S_IFIFO | 0o644)]))


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    odd = tarfile.TarInfo("holes")
    odd.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(Refused, match="with holes"):
        unpacked(tmp_path, "tar", tarred([odd]))


def test_what_a_zip_hides_behind_a_nul_is_seen(tmp_path: Path) -> None:
    packed = zipped([Entry("fine.txt?evil", b"x")]).replace(b"fine.txt?evil", b"fine.txt\0evil")
    with pytest.raises(Refused, match="characters that no name has"):
        unpacked(tmp_path, "zip", packed)


def test_a_zip_with_a_password_is_told(tmp_path: Path) -> None:
    packed = bytearray(zipped([Entry("a", b"x")]))
    for start in (packed.index(b"PK\x03\x04") + 6, packed.index(b"PK\x01\x02") + 8):
        packed[start] |= 1
    with pytest.raises(Refused, match="password"):
        unpacked(tmp_path, "zip", bytes(packed))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_a_zip_rarely_has_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(Refused, match="Pack it as ZIP or tar"):
        unpacked(tmp_path, "zip", zipped([Entry("a", b"x" * 100)], method))


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("zip", "tar.gz")):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(Refused, match="more than 10 files and folders"):
            unpacked(tmp_path / str(number), name, PACKERS[name]([Entry(f"{one}") for one in range(11)]), most=10)


# ---- bombs


@pytest.mark.parametrize("name", PACKERS)
def test_what_is_larger_than_the_limit_is_refused_before_it_is_on_disk(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="larger than 5 MB"):
        unpacked(tmp_path, name, PACKERS[name]([Entry("zeros", bytes(20_000_000))]), limit=5_000_000)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "tree").rglob("*") if path.is_file())
    assert on_disk <= 5_000_000


@pytest.mark.parametrize("name", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_what_only_a_bomb_unpacks_to_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_ALWAYS_FINE", 1_000_000)
    packed = PACKERS[name]([Entry("zeros", bytes(20_000_000))])
    assert len(packed) * 200 < 20_000_000
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="200 times its own size"):
            unpacked(tmp_path, name, packed)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000, "it is unpacked in parts"
    finally:
        tracemalloc.stop()


def test_many_empty_files_are_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_ALWAYS_FINE", 1_000_000)
    root = unpacked(tmp_path, "tar.gz", gzip.compress(tarred([Entry(f"{one:04}") for one in range(900)])))
    assert len(tree(root)) == 900


def test_empty_files_take_a_place_on_disk_too(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="larger than 0 MB"):
        unpacked(tmp_path, "zip", zipped([Entry(f"{one}") for one in range(100)]), limit=100 * 4096 - 1)


def test_files_that_share_their_bytes_in_a_zip_count_each(tmp_path: Path) -> None:
    """https://www.bamsoftware.com/hacks/zipbomb/: entries that overlap."""
    packed = bytearray(zipped([Entry("a0", bytes(1_000_000)), Entry("a1", b"")]))
    second = packed.index(b"PK\x01\x02", packed.index(b"PK\x01\x02") + 1)
    first = packed.index(b"PK\x01\x02")
    name = packed[second + 46 : second + 48]
    packed[second : second + 46] = packed[first : first + 46]
    packed[second + 46 : second + 48] = name
    with pytest.raises(Refused):
        unpacked(tmp_path, "zip", bytes(packed), limit=1_500_000)


@pytest.mark.parametrize("name", TARS)
def test_a_header_that_asks_for_much_memory_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_READ", 1_000_000)
    huge = tarfile.TarInfo("a")
    huge.pax_headers = {"comment": "x" * 3_000_000}
    with pytest.raises(Refused, match="longer lists or names"):
        unpacked(tmp_path, name, PACKERS[name]([huge]))  # type: ignore[list-item] # of the kind that this packer takes


def test_a_list_that_asks_for_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_READ", 100_000)
    with pytest.raises(Refused, match="longer lists or names"):
        unpacked(tmp_path, "zip", zipped([Entry(f"{one:0100}") for one in range(1000)]), most=10_000)


def test_unpacking_stops_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    archive = tmp_path / "incoming"
    archive.write_bytes(zipped([Entry("a", bytes(10_000_000))]))
    asked = iter([False] * 5 + [True] * 1000)
    budget = Budget(ROOMY, stop=lambda: next(asked))
    with pytest.raises(Stopped):
        unpack(archive, "zip", tmp_path / "tree", budget, Places(10))
    assert budget.taken < 3_000_000


# ---- what is damaged


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_what_ends_too_early_is_told(tmp_path: Path, name: str, share: float) -> None:
    packed = PACKERS[name]([Entry("a", os.urandom(50_000)), Entry("b", os.urandom(50_000))])
    with pytest.raises(Refused, match="damaged"):
        unpacked(tmp_path, name, packed[: int(len(packed) * share)])


@pytest.mark.parametrize("name", PACKERS)
def test_what_is_no_archive_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="damaged, or is not what its name says"):
        unpacked(tmp_path, name, b"<!doctype html><title>Sign in</title>" * 100)


SAMPLE = [
    Entry("top/a.txt", b"hello\n" * 50),
    folder("top/empty"),
    link("top/l", "a.txt"),
    Entry("top/x", b"#!", stat.S_IFREG | 0o755),
]
GOOD = {name: pack(SAMPLE) for name, pack in PACKERS.items()}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    st.booleans(),
)
@example("zip", [(403, b"\xaf")], False)  # an offset before the beginning
def test_whatever_is_changed_in_an_archive_nothing_comes_of_it_but_a_tree_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: Sequence[tuple[int, bytes]], inside: bool
) -> None:
    """``inside``: the change is made before it is compressed, so that tar's headers are what changes."""
    compress = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}.get(name) if inside else None
    data = bytearray(GOOD["tar"] if compress else GOOD[name])
    for place, piece in changes:
        start = place % len(data)
        data[start : start + len(piece)] = piece
    around = tmp_path_factory.mktemp("around")
    (around / "inner").mkdir()
    try:
        root = unpacked(around / "inner", name, compress(bytes(data)) if compress else bytes(data), limit=5_000_000)
    except Refused:
        root = around / "inner" / "tree"
    assert root.is_relative_to(around / "inner" / "tree")
    assert {path.name for path in around.iterdir()} == {"inner"}
    for path in root.rglob("*"):
        assert path.is_symlink() or path.is_file() or path.is_dir()
        assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


NAMES = st.lists(
    st.sampled_from(["a", "b", "A", "..", ".", "", "c d", ".git", "ü", "\\", "x" * 300]), min_size=1, max_size=4
).map("/".join)
ENTRIES = st.lists(
    st.one_of(
        st.builds(Entry, NAMES, st.binary(max_size=30)),
        st.builds(folder, NAMES),
        st.builds(link, NAMES, NAMES),
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["zip", "tar"]), ENTRIES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_whatever_an_archive_holds_nothing_is_written_outside(
    tmp_path_factory: pytest.TempPathFactory, name: str, entries: Sequence[Entry]
) -> None:
    around = tmp_path_factory.mktemp("around")
    (around / "inner").mkdir()
    try:
        root = unpacked(around / "inner", name, PACKERS[name](entries))
    except Refused:
        root = around / "inner" / "tree"
    assert {path.name for path in around.iterdir()} == {"inner"}
    assert {path.name for path in (around / "inner").iterdir()} <= {"incoming", "tree"}
    for path in root.rglob("*"):
        assert ".git" not in path.parts
        assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
