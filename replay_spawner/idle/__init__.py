"""When a session ends for want of activity: the arbiter of jupyterhub-idle-culler.

The hub sees traffic alone. It cannot tell a cell that prints nothing from nobody, nor a forgotten tab from somebody
(https://github.com/jupyterhub/jupyterhub-idle-culler#caveats). So the culler asks each session's own server before it ends
it: `deciding` is the rule, `reading` and `terminals` ask, `door` is where the hub lets them, `arbiter` is what the culler
calls, `configuring` what a hub's configuration adds. All but the door runs in the culler's process.
"""

from replay_spawner.idle.configuring import culler_role, culler_service

__all__ = ["culler_role", "culler_service"]
