"""What spaces are called where people find them: whatever their owners called them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_spawner.features.datahub.names import (
    MOST_BYTES,
    OURS,
    Space,
    cleaned_name,
    folder_names,
    fsspec_name,
    how_often,
    name_in_mount,
)

pytestmark = pytest.mark.one_hub_version


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Plankton survey", "Plankton survey"),
        ("a/b", "a_b"),
        ("../../etc/passwd", "_._.._etc_passwd"),
        (".", "_"),
        ("..", "_."),
        (".ssh", "_ssh"),
        ("", "space"),
        ("   ", "space"),
        ('it\'s "quoted" `so` $(too)', 'it\'s "quoted" `so` $(too)'),
        ("🐋 Wale 👩‍🔬", "🐋 Wale 👩‍🔬"),
        ("line\nbreak\ttab\x00null\x1b[31m", "line_break_tab_null_[31m"),
        ("\u2028separator", "_separator"),
        ("-rf", "-rf"),
        ("x" * 300, "x" * 255),
        ("é" * 200, "é" * 127),
        ("🐋" * 100, "🐋" * 63),
    ],
)
def test_a_space_is_one_folder_whatever_it_is_called(name: str, folder: str) -> None:
    assert cleaned_name(name) == folder
    assert "/" not in folder
    assert len(folder.encode()) <= MOST_BYTES


def test_equal_names_are_told_apart_by_a_piece_of_the_id() -> None:
    spaces = [Space("aaaaaaaa1111", "Data"), Space("bbbbbbbb2222", "Data"), Space("cccccccc3333", "Other")]
    assert folder_names(spaces) == {
        "aaaaaaaa1111": "Data@aaaaaaaa",
        "bbbbbbbb2222": "Data@bbbbbbbb",
        "cccccccc3333": "Other",
    }
    # Also where the piece is the same, or another space is called just so.
    alike = [Space("aaaaaaaa1", "D"), Space("aaaaaaaa2", "D"), Space("b", "D@aaaaaaaa")]
    assert folder_names(alike) == {"aaaaaaaa1": "D@aaaaaaaa1", "aaaaaaaa2": "D@aaaaaaaa2", "b": "D@aaaaaaaa"}


def test_what_lies_beside_the_spaces_keeps_its_name() -> None:
    assert folder_names([Space("abcdefghij", "README.md")]) == {"abcdefghij": "README.md@abcdefgh"}


_SPACES = st.lists(
    st.builds(Space, st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True), st.text(max_size=300)),
    unique_by=lambda space: space.id,
    max_size=8,
)


@given(_SPACES, st.randoms())
def test_no_two_folders_are_one_and_their_order_changes_nothing(spaces: list[Space], random: Random) -> None:
    names = folder_names(spaces)
    assert names.keys() == {space.id for space in spaces}
    assert len(set(names.values())) == len(spaces)
    for name in names.values():
        assert name
        assert name not in {".", "..", *OURS}
        assert not name.startswith(".")
        assert len(name.encode("utf8", "surrogatepass")) <= MOST_BYTES
        assert not set(name) & {"/", "\0", "\n", "\t"}
    shuffled = list(spaces)
    random.shuffle(shuffled)
    assert folder_names(shuffled) == names


@pytest.mark.parametrize(
    ("name", "in_library", "in_mount"),
    [
        ("Data", "Data", "Data"),
        ("Twice", "Twice@1", "Twice@1"),
        ("a/b", None, None),
        ("a@b", None, "a@b"),
        ("50%", None, "50%"),
        ("why?", None, "why?"),
        ("no#1", None, "no#1"),
        ("two words 🐋", "two words 🐋", "two words 🐋"),
        (" edge", None, " edge"),
        ("tab\tbed", None, None),
        ("..", None, None),
        ("", None, None),
    ],
)
def test_what_the_library_and_the_mount_call_a_space(name: str, in_library: str | None, in_mount: str | None) -> None:
    space = Space("1", name)
    names = how_often([space, Space("2", "Twice")])
    assert fsspec_name(space, names) == in_library
    assert name_in_mount(space, names) == in_mount
