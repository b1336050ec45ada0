"""The table of providers in docs/links.md says what the code does."""

import asyncio
import re
from pathlib import Path

import pytest

from replay_build_service.assembly import make_providers, outgoing_rules
from replay_build_service.errors import OriginRefused
from replay_build_service.links import RepoSpec
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.asking import Asker
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


@pytest.mark.parametrize(("name", "example"), ROWS, ids=[name for name, _ in ROWS])
async def test_the_worked_example_is_asked_of_a_host_that_is_allowed_from_the_start(name: str, example: str) -> None:
    """Whether it is there, too, is asked by `tests/integration/test_live_records.py`. Here nobody may be asked."""
    settings = ServiceSettings(allowed_hosts=[], archive_hosts=[])
    async with asyncio.TaskGroup() as tasks, Asker(outgoing_rules(settings).for_archives()) as ask:
        with pytest.raises(OriginRefused, match="is not among the hosts") as told:
            await make_providers(settings, tasks, ask)[name].resolve(RepoSpec.parse(example))
    assert outgoing_rules(ServiceSettings()).for_archives().allows(told.value.sentence.split()[0], 443)
