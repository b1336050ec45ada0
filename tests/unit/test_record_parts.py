"""The small parts that archives' sources are made of: moments as versions, git's names, the addresses of CKAN's datasets."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.errors import BadLink, OriginRefused, SourceFault
from replay_build_service.outgoing import Origin
from replay_build_service.sources import ckan
from replay_build_service.sources.all_sources import SOURCES
from replay_build_service.sources.base import PreparingSource, RecordSource
from replay_build_service.sources.git_objects import FILE, FOLDER, read_folder, tree_of
from replay_build_service.sources.moments import version_of

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]


@pytest.mark.parametrize(
    ("moment", "version"),
    [
        ("2024-01-31T12:34:56.123456", "20240131T123456"),
        ("2024-01-31T12:34:56Z", "20240131T123456"),
        ("2024-01-31T23:34:56.1+02:00", "20240131T213456"),
        ("2024-01-31", "20240131"),
        ("01-31-2024", "20240131"),
        (" 2024-01-31T12:34 ", "20240131T123400"),
    ],
)
def test_a_moment_is_a_version(moment: str, version: str) -> None:
    assert version_of(moment) == version


@pytest.mark.parametrize(
    "moment", ["", "31-01-2024", "2024-13-01", "now", "2024", "0001-01-01T00:00:00+14:00", "١٢-٣١-٢٠٢٤x"]
)
def test_what_is_no_moment_is_a_fault(moment: str) -> None:
    with pytest.raises(SourceFault, match="no date"):
        version_of(moment)


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading_of_moments(moment: str) -> None:
    with suppress(SourceFault):
        assert re.fullmatch(r"[0-9]{8}(T[0-9]{6})?", version_of(moment))


def test_a_folder_has_the_name_that_git_gives_it(tmp_path: Path) -> None:
    """Names that sort otherwise as folders than as files, links, empty files, modes."""
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a.b").mkdir()
    for name in ("a/deep/x", "a.b/y", "a-c", "a0", "ü", "empty"):
        (tmp_path / name).write_bytes(b"" if name == "empty" else name.encode() * 1000)
    (tmp_path / "a0").chmod(0o755)
    (tmp_path / "link").symlink_to("a/deep")
    (tmp_path / "dangling").symlink_to("nowhere")
    script = "git init -q . && git add -A && git write-tree"
    expected = subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    subprocess.run(["rm", "-rf", tmp_path / ".git"], check=True)
    found = read_folder(tmp_path)
    assert found.id == expected.strip()
    assert found.entries[b"a"] == (FOLDER, found.folders[b"a"].id)
    assert found.entries[b"a-c"][0] == FILE


def test_nothing_is_the_empty_tree() -> None:
    assert tree_of([]) == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git hash-object -t tree /dev/null


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet="abc/.%?#@:[]-_ü2 &=", max_size=40).map(lambda text: f"https://example.org/dataset/{text}"),
        st.text(alphabet="abc/.%?#@:[]-_ü2 &=", max_size=40).map(lambda text: f"https://{text}/dataset/data"),
    )
)
def test_an_address_of_a_dataset_is_one_that_can_be_listed_or_our_own_error(locator: str) -> None:
    try:
        dataset = ckan._dataset(locator)
    except (BadLink, OriginRefused):
        return
    match = ckan._API_URL.fullmatch(dataset.api_url)
    assert match is not None
    assert (match["portal"], match["activity"]) == (dataset.portal, dataset.activity)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://example.org/a%20b.csv?x=1&y=%C3%BC", "https://example.org/a%20b.csv?x=1&y=%C3%BC"),
        (
            "https://bücher.example:8443/größe.csv?x=ü#part",
            "https://xn--bcher-kva.example:8443/gr%C3%B6%C3%9Fe.csv?x=%C3%BC",
        ),
        ("http://[::1]//x", "http://[::1]//x"),
        ("https://example.org", "https://example.org/"),
    ],
)
def test_an_address_with_letters_of_any_script_is_asked_for_in_ascii(url: str, asked: str) -> None:
    assert ckan._encoded(Origin.of_url(url), url) == asked


def test_each_source_is_in_the_table_under_its_own_name() -> None:
    assert {name: source.name for name, source in SOURCES.items()} == {name: name for name in SOURCES}
    assert set(SOURCES) == {"zenodo", "figshare", "dataverse", "hydroshare", "swh", "osf", "ckan"}
    preparing: dict[str, RecordSource] = {
        name: one for name, one in SOURCES.items() if isinstance(one, PreparingSource)
    }
    assert list(preparing) == ["swh"]
