"""What the mixin does whatever the spawner beside it: ordinary servers are not its concern, and launches need a promise."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.spawner import SimpleLocalProcessSpawner
from tornado import web

from replay_build_service.schemas import LaunchPlan, PlanRequest, ResourcesModel
from replay_spawner import ReplayLocalSpawner, ReplayMixin
from replay_spawner.kube import ReplayKubeSpawner

LAUNCH = "0123456789abcdef" * 2
PLAN = LaunchPlan(
    launch=LAUNCH,
    vo="vo.notebooks.egi.eu",
    repository="https://github.com/EGI-Federation/binder-example",
    version="c0ffee" * 6 + "c0ff",
    link="/v2/gh/EGI-Federation/binder-example/HEAD",
    image="sha256:00",
    location="/images/00",
    command=["jupyterhub-singleuser"],
    environment={},
    source=None,
    resources=ResourcesModel(),
)


class Bare(ReplayMixin, SimpleLocalProcessSpawner):
    """A spawner class that nobody has made to apply plans; counts how often one was asked for."""

    plans_asked = 0

    def _client(self) -> Any:
        return self

    async def plan_of(self, request: PlanRequest) -> LaunchPlan:
        self.plans_asked += 1
        return PLAN


class Promising(Bare):
    applies_plans = True


def spawner_of(made_of: type[Bare], body: bytes) -> Bare:
    user = SimpleNamespace(name="ada", id=1, url="/user/ada/", escaped_name="ada", groups=[])
    orm = SimpleNamespace(name="", user_options={}, server=None)
    made = made_of(user=user, orm_spawner=orm, api_token="")
    client = SimpleNamespace(plan=made.plan_of)
    made._client = lambda: client  # type: ignore[method-assign]
    request = SimpleNamespace(method="POST", body=body)
    made.handler = SimpleNamespace(request=request, settings={})  # type: ignore[assignment]
    return made


async def apply(spawner: Bare, options: dict[str, Any]) -> None:
    spawner.user_options = options
    spawner.orm_spawner.user_options = options
    await spawner._run_apply_user_options(options)


@pytest.mark.parametrize("options", [{"launch": LAUNCH}, {"repo": "gh/EGI-Federation/binder-example/HEAD"}])
async def test_a_spawner_that_does_not_apply_plans_refuses_launches_and_uses_none_up(options: dict[str, Any]) -> None:
    spawner = spawner_of(Bare, json.dumps(options).encode())
    with pytest.raises(web.HTTPError) as refused:
        await apply(spawner, options)
    assert refused.value.status_code == 422
    assert refused.value.log_message == (
        "This hub's spawner cannot run repositories, so nothing was started. Tell the administrators."
    )
    assert (spawner.plans_asked, spawner.plan) == (0, None)
    assert spawner.orm_spawner.user_options == {}, "what is stored is used by the next start"


async def test_a_spawner_that_does_not_apply_plans_starts_ordinary_servers() -> None:
    spawner = spawner_of(Bare, b"")
    await apply(spawner, {})
    assert (spawner.plans_asked, spawner.plan) == (0, None)


async def test_a_spawner_that_applies_plans_gets_them() -> None:
    spawner = spawner_of(Promising, json.dumps({"launch": LAUNCH}).encode())
    await apply(spawner, {"launch": LAUNCH})
    assert (spawner.plans_asked, spawner.plan) == (1, PLAN)


def test_our_own_spawners_apply_plans() -> None:
    assert not ReplayMixin.applies_plans
    assert ReplayLocalSpawner.applies_plans
    assert ReplayKubeSpawner.applies_plans


@pytest.mark.parametrize("sentence", ["Open the link again.", "100 % of it."])
def test_a_refusal_says_its_sentence_on_the_hubs_pages(sentence: str) -> None:
    refusal = spawner_of(Bare, b"").refusal(403, sentence)
    assert refusal.status_code == 403
    assert refusal.jupyterhub_message == sentence  # type: ignore[attr-defined]
