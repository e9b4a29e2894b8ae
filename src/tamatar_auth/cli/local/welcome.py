"""What `serve --dev` says to people, once calls are answered."""

from collections.abc import Sequence

from tamatar_auth import __version__
from tamatar_auth.config.addresses import ListenAddress

_WELCOME = """
Tamatar Auth {version} answers calls on {address}. Ctrl-C ends it.

  grpcurl -plaintext {target} list
  grpcurl -plaintext -d '{{"email": "test1@example.com", "password": "TestPass123!"}}' \\
      {target} tamatar.auth.v1.SessionService/CreateSession
"""


def welcome(addresses: Sequence[ListenAddress]) -> str:
    """Tell how a first call is made."""
    first = addresses[0]
    target = f"-unix {first.path}" if first.path else str(first)
    return _WELCOME.format(version=__version__, address=first, target=target)
