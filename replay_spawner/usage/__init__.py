"""What a session uses now: a file for each source of figures.

`process` needs nothing but this machine, `engine` reads what a container engine says, `metrics` what a cluster's metrics API
does. None of them imports an engine's or a cluster's client; who asks, and within which time, is the spawners' business.
"""

from replay_spawner.usage.base import ASK_SECONDS, Usage, UsageSource, within_time

__all__ = ["ASK_SECONDS", "Usage", "UsageSource", "within_time"]
