"""The error tree of the build service. Standard library only.

Every error carries a sentence for the person (``str(error)``) that says what happened and what to do next.
``web`` turns the tree into HTTP in one place; nothing else maps errors to status codes.

    ReplayError
    ├── BadLink                 the link itself cannot be understood
    │   └── UnknownProvider
    ├── NotFound                what was named does not exist, as far as this person may know
    │   ├── RepositoryNotFound    gone, private or empty
    │   └── RefNotFound           has ``nearest``: refs that do exist
    ├── Refused                 understood, and not allowed
    │   ├── OriginRefused         a host or address that Replay does not ask
    │   ├── NotPermitted          no VO, no policy, somebody else's; has ``vos``: those that would do
    │   └── TermsNotAgreed        terms of use that have to be agreed to first; has the VO, version and text
    ├── Conflict                the state of things forbids it now (a consumed launch, a server that runs)
    │   └── LimitReached          so many are there already; has what was counted, the limit and the count
    ├── BuildFailed             the build that a launch waited for made no image
    └── SourceFault             somebody else's fault, temporary: retried, then told
"""


class ReplayError(Exception):
    """Something that a person is told. The message is a whole sentence, fit for a page."""

    @property
    def sentence(self) -> str:
        """What the person reads."""
        return str(self)


class BadLink(ReplayError):
    """The link cannot be understood: malformed, too long, or with characters that no link has."""


class UnknownProvider(BadLink):
    """The link names a provider that this service does not have."""


class NotFound(ReplayError):
    """What was named does not exist, or must look to this person as if it did not."""

    elsewhere: str = ""
    """What follows ``/v2/`` in a link to the same in another place, where one is known."""


class RepositoryNotFound(NotFound):
    """The repository is gone, private or empty."""


class RefNotFound(NotFound):
    """The repository is there, the ref is not."""

    def __init__(self, message: str, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.nearest = nearest
        """Refs of that repository that are spelled most alike, best first; may be empty."""


class Refused(ReplayError):
    """Understood, and not allowed."""


class OriginRefused(Refused):
    """A host off the list, a scheme other than HTTPS, or an address that is not public."""


class NotPermitted(Refused):
    """The person may not do this: no permitted VO, no policy, or it belongs to somebody else."""

    def __init__(self, message: str, vos: tuple[tuple[str, str | None], ...] = ()) -> None:
        super().__init__(message)
        self.vos = vos
        """The virtual organisations that would do, by name, each with the address where one enrols in it."""


class TermsNotAgreed(Refused):
    """Terms of use come first."""

    def __init__(self, message: str, vo: str, version: str, text: str) -> None:
        super().__init__(message)
        self.vo = vo
        self.version = version
        self.text = text


class Conflict(ReplayError):
    """Not in the present state of things: a launch used already, another server that runs."""


class LimitReached(Conflict):
    """There are as many as there may be at once."""

    def __init__(self, message: str, limited: str, most: int, count: int) -> None:
        super().__init__(message)
        self.limited = limited
        """What was counted."""
        self.most = most
        self.count = count


class BuildFailed(ReplayError):
    """The build that a launch waited for made no image."""


class SourceFault(ReplayError):
    """A source of repositories, the hub or another service did not answer properly. Not a fact about what was asked."""
