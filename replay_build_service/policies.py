"""What each VO may run, with how much. Pure: groups and policies in, a decision out."""

from collections.abc import Mapping, Sequence
from typing import Self

from replay_build_service.domain import Person, Resources, VOPolicy
from replay_build_service.errors import NotPermitted


class PolicySet:
    """The policies of a service, by VO. No policy, no launch."""

    def __init__(self, policies: Sequence[VOPolicy]) -> None:
        self._by_vo: Mapping[str, VOPolicy] = {policy.vo: policy for policy in policies}

    @classmethod
    def alike(cls, vos: Mapping[str, str], resources: Resources) -> Self:
        """The same resources for every VO; ``vos`` maps a VO's name to where one enrols in it (may be empty)."""
        return cls([VOPolicy(vo, resources, url or None) for vo, url in vos.items()])

    def permitted(self, person: Person) -> Sequence[VOPolicy]:
        """The policies that this person may choose from, by name of the VO.

        Raises `NotPermitted` where there is none.
        """
        found = [self._by_vo[group] for group in sorted(person.groups) if group in self._by_vo]
        if not found:
            names = ", ".join(sorted(self._by_vo)) or "none"
            raise NotPermitted(
                f"You are in no virtual organisation that may launch here. These may: {names}. "
                "Join one of them, then log out and in again.",
                tuple((name, self._by_vo[name].enrolment_url) for name in sorted(self._by_vo)),
            )
        return found

    def choose(self, person: Person, vo: str | None) -> VOPolicy:
        """The policy for the VO that the person named, or their only one.

        Raises `NotPermitted` where they are not in it, have none, or must say which.
        """
        permitted = self.permitted(person)
        if vo is None and len(permitted) == 1:
            return permitted[0]
        for policy in permitted:
            if policy.vo == vo:
                return policy
        names = ", ".join(policy.vo for policy in permitted)
        if vo is None:
            raise NotPermitted(f"You are in several virtual organisations. Say for which one this runs: {names}.")
        raise NotPermitted(f"You are not in {vo}, or it may not launch here. You can launch for: {names}.")
