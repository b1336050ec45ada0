"""The configuration that the culler of `replay_spawner.idle.culler_service` reads."""

from replay_spawner.idle.arbiter import arbiter_of_this_process, cull_arbiter_hook

c = get_config()  # noqa: F821 # pyright: ignore[reportUndefinedVariable] - the name is given by traitlets

arbiter_of_this_process()  # What it lacks is told at the start.
c.IdleCuller.cull_arbiter_hook = cull_arbiter_hook
