"""`ReplayKubeSpawner`: the plan applied to KubeSpawner's pods, over profiles and whatever else was set before."""

from kubespawner import KubeSpawner

from replay_spawner.spawner import ReplayMixin


class ReplayKubeSpawner(ReplayMixin, KubeSpawner):  # pyright: ignore[reportIncompatibleMethodOverride] - the mixin hands on what KubeSpawner returns
    """Runs a launch's image by digest; profiles, hooks and templates of the admin's stay for ordinary servers."""

    applies_plans = True

    async def load_user_options(self) -> None:
        """KubeSpawner applies the profile here, after `apply_user_options`; so the plan is applied after that."""
        await super().load_user_options()
        if self.plan is None:
            return
        plan, resources = self.plan, self.plan.resources
        if "@sha256:" not in plan.location:
            self.log.error("The image of launch %s has no digest: %s", plan.launch, plan.location)
            raise self.refusal(
                422,
                "The image of this launch is not known by its digest, so it cannot be run. Tell the administrators.",
            )
        annotations = {
            "replay.egi.eu/launch": plan.launch,
            "replay.egi.eu/repository": plan.repository,
            "replay.egi.eu/commit": plan.version,
            "egi.eu/primary_group": plan.vo,
        }
        self.override(
            image=plan.location,
            cmd=list(plan.command),
            environment={**self.environment, **plan.environment},
            extra_annotations={**self.extra_annotations, **annotations},
            mem_guarantee=resources.memory_guarantee,
            mem_limit=resources.memory_limit,
            cpu_guarantee=resources.cpu_guarantee,
            cpu_limit=resources.cpu_limit,
        )
