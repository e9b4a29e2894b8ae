"""The text that `serve --dev` prints when it is ready."""

from collections.abc import Sequence

from tamatar_auth import __version__
from tamatar_auth.config.addresses import ListenAddress

_WELCOME = """
Tamatar Auth {version} answers calls on {address}. Press Ctrl-C to stop it.

  grpcurl -plaintext {target} list
  grpcurl -plaintext -d '{{"email": "test1@example.com", "password": "TestPass123!"}}' \\
      {target} tamatar.auth.v1.SessionService/CreateSession
"""


def welcome(addresses: Sequence[ListenAddress]) -> str:
    """Return the text, with commands for a first call."""
    first = addresses[0]
    target = f"-unix {first.path}" if first.path else str(first)
    return _WELCOME.format(version=__version__, address=first, target=target)
