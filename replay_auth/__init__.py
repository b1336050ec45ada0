"""Who may enter the hub: login with EGI Check-in, and membership of a permitted VO.

Runs in the hub's process. Knows nothing of links, builds or launches: it imports neither of the other packages.
"""

from replay_auth.authenticator import EGICheckinAuthenticator

__all__ = ["EGICheckinAuthenticator"]
