"""The figures of a session that is a pod, from what the cluster's metrics API answers. Pure.

https://kubernetes.io/docs/reference/external-api/metrics.v1beta1/: an average over the last half minute or so.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from replay_spawner.usage.base import Usage, UsageSource

GROUP, VERSION = "metrics.k8s.io", "v1beta1"

_QUANTITY = re.compile(r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
_UNITS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal("1e3"), "M": Decimal("1e6"),
    "G": Decimal("1e9"), "T": Decimal("1e12"), "P": Decimal("1e15"), "E": Decimal("1e18"),
    "Ki": Decimal(1024), "Mi": Decimal(1024) ** 2, "Gi": Decimal(1024) ** 3, "Ti": Decimal(1024) ** 4,
    "Pi": Decimal(1024) ** 5, "Ei": Decimal(1024) ** 6,
}  # fmt: skip


def usage_of_pod(metrics: Mapping[str, Any], pod: Mapping[str, Any], container: str) -> Usage | None:
    """Read the metrics of a pod's container, and of the pod its limits; none where there are no figures of it yet."""
    found = _named(metrics.get("containers"), container)
    used = (found or {}).get("usage") or {}
    memory = quantity(used.get("memory"))
    if memory is None:
        return None
    own = _named((pod.get("spec") or {}).get("containers"), container) or {}
    limits = (own.get("resources") or {}).get("limits") or {}
    most, cpu, cpu_most = quantity(limits.get("memory")), quantity(used.get("cpu")), quantity(limits.get("cpu"))
    return Usage(
        UsageSource.METRICS,
        memory_used=int(memory),
        memory_limit=None if most is None else int(most),
        cpu_used=None if cpu is None else float(cpu),
        cpu_limit=None if cpu_most is None else float(cpu_most),
    )


def quantity(value: object) -> Decimal | None:
    """A number as Kubernetes writes it, such as ``1500m`` or ``4Gi``; none for anything else.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) else None
    if match is None:
        return None
    number, unit = Decimal(match["number"]), match["unit"] or ""
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit != "Ei":
        return number.scaleb(int(unit[1:]))
    return number * _UNITS.get(unit, Decimal(1))


def _named(containers: Any, name: str) -> Mapping[str, Any] | None:
    return next((one for one in containers or [] if one.get("name") == name), None)
