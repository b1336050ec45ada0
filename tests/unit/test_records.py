"""What a session says of itself in ``~/.replay/launch.json``."""

import json
from datetime import UTC, datetime

import pytest

from replay_build_service.content_schemas import ContentModel
from replay_spawner.records import launch_record
from tests.unit.launch_plans import PLAN

pytestmark = pytest.mark.one_hub_version

AGREED = datetime(2026, 3, 4, 9, 7, 1, 250_000, tzinfo=UTC)
STARTED = datetime(2026, 3, 4, 9, 9, 2, 999_999, tzinfo=UTC)


def test_all_that_made_the_session_is_there() -> None:
    plan = PLAN.model_copy(update={"urlpath": "lab/tree/ü.ipynb", "build": "1f" * 8, "created_at": AGREED})
    assert launch_record(plan, STARTED) == {
        "launch": PLAN.launch,
        "link": PLAN.link,
        "urlpath": "lab/tree/ü.ipynb",
        "repository": PLAN.repository,
        "commit": PLAN.version,
        "content": None,
        "image": PLAN.image,
        "build": "1f" * 8,
        "vo": PLAN.vo,
        "created_at": "2026-03-04T09:07:01.250000+00:00",
        "started_at": "2026-03-04T09:09:02+00:00",
    }


def test_a_second_repository_is_named_with_its_version() -> None:
    content = ContentModel(
        name="ice",
        link="gh/carla/ice/v1",
        repository="https://github.com/carla/ice",
        version="c" * 40,
        folder="/srv/hunter2",
    )
    assert launch_record(PLAN.model_copy(update={"content": content}), STARTED)["content"] == {
        "repository": "https://github.com/carla/ice",
        "commit": "c" * 40,
        "link": "gh/carla/ice/v1",
        "folder": "ice",
    }


def test_what_there_is_not_is_null_and_no_word() -> None:
    record = launch_record(PLAN, STARTED)
    assert (record["build"], record["created_at"]) == (None, None)
    assert json.loads(json.dumps(record)) == record


def test_nothing_of_it_lets_somebody_in() -> None:
    plan = PLAN.model_copy(update={"environment": {"PASSWORD": "hunter2"}, "source": "/srv/hunter2"})
    assert "hunter2" not in json.dumps(launch_record(plan, STARTED))
