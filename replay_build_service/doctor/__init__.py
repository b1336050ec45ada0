"""``replay-build-service doctor``: looks at a running deployment and names what to do for each fault.

Wiring, like `assembly`: it knows every edge and no core, changes nothing that others see, and prints no secret. Each room
but `verdicts`, `deployment`, `access` and `asking` is one subject that is examined; `examination` has the list of them.
"""

from replay_build_service.doctor.access import DoctorOptions, find_access, parse_options
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.examination import examine

__all__ = ["Deployment", "DoctorOptions", "examine", "find_access", "parse_options"]
