"""docs/errors.md quotes what people are told: each of its sentences is one that the programs and pages say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "errors.md").read_text()

pytestmark = pytest.mark.hub_independent

_ROW = re.compile(r"^\| (“.*”) \|", re.MULTILINE)


def quoted() -> list[str]:
    """The quotations of each row's first column."""
    return [quote for row in _ROW.findall(DOCUMENT) for quote in row[1:-1].split("”, “")]


def _said() -> Iterator[str]:
    """Every text of our programs, with a mark where a value stands, and every page."""
    for package in ("replay_build_service", "replay_spawner"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
        for file in (ROOT / package).rglob("templates/**/*.html"):
            yield file.read_text()


SAID = "\n".join(_said())


@pytest.mark.parametrize("quote", quoted())
def test_a_sentence_of_the_document_is_said(quote: str) -> None:
    for part in re.split(r"\s*…[\s.,]*", quote):
        assert part.strip("“” ") in SAID, part


def test_the_document_has_sentences_of_every_part() -> None:
    assert DOCUMENT.count("| it says |") == 6
    assert len(quoted()) > 30
