"""What a registry does wrong, as a person is told it. Never holds a credential, a token or text that the registry wrote."""

from replay_build_service.errors import SourceFault


class RegistryFault(SourceFault):
    """The registry did not answer properly, or refused. Never a fact about the image that was asked for."""

    def __init__(self, sentence: str, detail: str = "") -> None:
        super().__init__(sentence)
        self.detail = detail
        """For the log: a status code or the kind of an error. May be empty."""


class PassingFault(RegistryFault):
    """A fault that may be over at the next attempt."""

    def __init__(self, sentence: str, detail: str = "", *, after: float | None = None) -> None:
        super().__init__(sentence, detail)
        self.after = after
        """Seconds that the server wants to be left alone; ``None`` where it did not say."""


def misunderstood(detail: str) -> PassingFault:
    """For an answer that no registry gives: garbage, or from something that stands before it."""
    return PassingFault(
        "The image registry gave an answer that makes no sense. Try again in a moment; "
        "if that does not help, an administrator of this hub finds more in the log.",
        detail,
    )


def too_slow() -> PassingFault:
    """For an answer that did not come, or did not end, in time."""
    return PassingFault("The image registry took too long to answer. Try again in a moment.", "timeout")
