"""The table of providers in docs/links.md, made of the providers that there are: ``python -m docs.links_table``, in the project's folder.

With ``--check`` nothing is written, and a table that is another one is an error. The words for people are here; which providers there are, how
they are spelled, and that what they name is pinned by a commit is `syntax`'s to say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from replay_build_service.links import RepoSpec
from replay_build_service.syntax import RefRule, Syntax, known_syntaxes, syntax_of

PAGE = Path(__file__).with_name("links.md")
BEGIN = "<!-- From here on made by docs/links_table.py. -->"
END = "<!-- Up to here. -->"


@dataclass(frozen=True, slots=True)
class Row:
    """What people read about a provider."""

    what: str
    example: str
    """A link to something small that is there for everybody, after ``/v2/``. Tests resolve it."""
    pinned: str = ""
    """What a version is, where it is no commit."""
    was_run_live: bool = False
    """Whether the example was resolved by the service itself, with `tests/integration/test_live_records.py`."""


_VERSION = "the version and its files"
_LAST_CHANGE = "its last change and its files"

ROWS: Mapping[str, Row] = {
    "gh": Row("GitHub", "gh/EGI-Federation/binder-example/HEAD"),
    "gl": Row(
        "GitLab: `%2F` for each slash of the project's path; for another GitLab than gitlab.com the whole URL, percent-encoded",
        "gl/mosaik%2Fexamples%2Fmosaik-tutorials-on-binder/HEAD",
    ),
    "gist": Row("a gist of GitHub; `HEAD` where no commit follows", "gist/octocat/6cad326836d38bd3a7ae"),
    "git": Row(
        "any git repository over HTTPS, on a host that the admin allows: its URL, percent-encoded",
        "git/https%3A%2F%2Fcodeberg.org%2FForgejo%2Fdocs/HEAD",
    ),
    "zenodo": Row(
        "a record by its DOI; the DOI of all versions opens the newest one", "zenodo/10.5281/zenodo.3242074", _VERSION
    ),
    "figshare": Row(
        "an article by its DOI, with or without a version", "figshare/10.6084/m9.figshare.9782777.v1", _VERSION
    ),
    "dataverse": Row("a dataset, or one file of it, by its DOI", "dataverse/10.7910/DVN/TJCLKP", _VERSION),
    "hydroshare": Row(
        "a resource by the 32 letters and digits of its address; also by its DOI, or its address percent-encoded",
        "hydroshare/b8f6eae9d89241cf8b5904033460af61",
        _LAST_CHANGE,
    ),
    "ckan": Row(
        "a dataset of a CKAN portal by its address, percent-encoded",
        "ckan/https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fsample-dataset-1",
        _LAST_CHANGE,
    ),
    "osf": Row("a project of OSF by the letters of its address", "osf/ezcuj", _LAST_CHANGE),
    "swh": Row(
        "what Software Heritage keeps, by its SWHID",
        "swh/swh:1:rev:999dd06c7f679a2714dfe5199bdca09522a29649",
        "the SWHID",
    ),
    "doi": Row("a DOI of any of these archives, which is found out", "doi/10.5281/zenodo.3242074", "as there"),
}
"""By provider, in the order of the page."""


def table(syntaxes: Sequence[Syntax]) -> str:
    """All rows. Raises `ValueError` for a provider without words, words without a provider, and an example that is not a link to it."""
    names = {syntax.provider for syntax in syntaxes}
    if names != set(ROWS):
        raise ValueError(f"Providers and rows are not the same ones: {', '.join(sorted(names ^ set(ROWS)))}.")
    lines = ["| provider | what it is | worked example, after `/v2/` | what is pinned | run live |", "| --- " * 5 + "|"]
    lines += [_line(name, row) for name, row in ROWS.items()]
    return "\n".join(lines)


def _line(name: str, row: Row) -> str:
    spec, syntax = RepoSpec.parse(row.example), syntax_of(name)
    if syntax is None or (spec.provider, spec.text) not in {(name, row.example), (name, f"{row.example}/HEAD")}:
        raise ValueError(f"{row.example} is not how a link to {name} is written.")
    pinned = row.pinned if syntax.ref is RefRule.PIN else "the commit"
    return f"| `{name}` | {row.what} | `{row.example}` | {pinned} | {'yes' if row.was_run_live else 'no'} |"


def with_table(page: str, made: str) -> str:
    """The page with that table. Raises `ValueError` where it does not say where that belongs."""
    found, count = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n\n{made}\n\n{END}", page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError("The page does not say where its table begins and ends.")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or tell whether it is as it would be written."""
    parser = argparse.ArgumentParser(prog="docs.links_table", description="The table of providers in docs/links.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is another one")
    options = parser.parse_args(arguments)
    now = PAGE.read_text(encoding="utf-8")
    made = with_table(now, table(known_syntaxes()))
    if options.check and made != now:
        sys.stderr.write(
            "The table in docs/links.md is not what the code says: python -m docs.links_table writes it.\n"
        )
        return 1
    if made != now:
        PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
