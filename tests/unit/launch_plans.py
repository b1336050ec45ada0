"""A launch's plan as the service hands it out, for tests of spawners; each changes what its kind of image needs."""

from replay_build_service.schemas import LaunchPlan, ResourcesModel

GIB = 1024**3
LAUNCH = "0123456789abcdef" * 2
DIGEST = "sha256:" + "ab" * 32

PLAN = LaunchPlan(
    launch=LAUNCH,
    vo="vo.notebooks.egi.eu",
    repository="https://github.com/EGI-Federation/binder-example",
    version="c0ffee" * 6 + "c0ff",
    link="/v2/gh/EGI-Federation/binder-example/HEAD",
    image=DIGEST,
    location=f"registry.example.org/replay/binder-example@{DIGEST}",
    container=None,
    command=["jupyterhub-singleuser"],
    environment={},
    source=None,
    resources=ResourcesModel(memory_guarantee=2 * GIB, memory_limit=4 * GIB, cpu_guarantee=0.5, cpu_limit=2.0),
)
