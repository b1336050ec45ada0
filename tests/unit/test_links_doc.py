"""The table of providers in docs/links.md says what the code does."""

import re
from pathlib import Path

import pytest

from replay_build_service.links import RepoSpec
from replay_build_service.syntax import known_syntaxes

PAGE = Path(__file__).parents[2] / "docs" / "links.md"
ROWS = re.findall(
    r"^\| `([a-z]+)` \| [^|]+ \| `([^`]+)` \| [^|]+ \| (?:yes|no) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
)


def test_every_provider_has_its_row() -> None:
    # Providers of other packages, such as those of tests, are not of this page.
    assert {name for name, _ in ROWS} == {
        syntax.provider for syntax in known_syntaxes() if "toy" not in syntax.provider
    }


@pytest.mark.parametrize(("name", "example"), ROWS, ids=[name for name, _ in ROWS])
def test_the_worked_example_is_a_link(name: str, example: str) -> None:
    spec = RepoSpec.parse(example)
    assert spec.provider == name
    assert RepoSpec.parse(spec.text) == spec
