"""The policies that the settings mean: those of a file, or the same for each of some VOs."""

from typing import cast

from replay_build_service.assembly.common import UnusableSettings
from replay_build_service.policies import PolicySet
from replay_build_service.policy_file import UnusablePolicies, read_policies
from replay_build_service.policy_values import Resources, VOPolicy
from replay_build_service.settings import ServiceSettings


def make_policies(settings: ServiceSettings) -> PolicySet:
    """Raises `UnusableSettings` for a file that cannot be used, and for what this builder's sessions cannot be given."""
    if not settings.policy_file:
        return PolicySet.alike(cast("dict[str, str]", settings.vos), session_resources(settings))
    try:
        policies = read_policies(settings.policy_file).policies
    except UnusablePolicies as error:
        raise UnusableSettings(str(error)) from error
    for policy in policies:
        _refuse_what_no_session_gets(policy, settings.builder)
    return PolicySet(policies)


def session_resources(settings: ServiceSettings) -> Resources:
    """What a session gets, where no file says."""
    memory = cast(int, settings.mem_guarantee), cast(int, settings.mem_limit)
    return Resources(*memory, settings.cpu_guarantee, settings.cpu_limit)


def _refuse_what_no_session_gets(policy: VOPolicy, builder: str) -> None:
    where = f"{policy.vo}: with ReplayBuildService.builder = “{builder}”"
    gpus = policy.resources.gpus
    if builder == "venv" and gpus:
        raise UnusableSettings(f"{where} sessions are plain processes: “gpus” cannot be given. Use containers or pods.")
    if builder == "docker" and gpus and gpus.resource != "nvidia.com/gpu":
        raise UnusableSettings(f"{where} sessions can be given “gpus” of the kind nvidia.com/gpu only.")
    if builder != "kubernetes" and (policy.placement.node_selector or policy.placement.tolerations):
        raise UnusableSettings(
            f"{where} there is one machine: “node_selector” and “tolerations” are for pods. Leave them out."
        )
