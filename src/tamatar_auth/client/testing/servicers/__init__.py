"""The methods of the fake service. The comments of the protos document them.

A method takes the request alone, after the field rules were checked, and holds the lock of the
store. A stream takes the context too, and holds no lock.
"""

from tamatar_auth.client.testing.servicers.credentials import FakeCredentialMethods
from tamatar_auth.client.testing.servicers.factors import FakeFactorServicer
from tamatar_auth.client.testing.servicers.lifecycle import FakeLifecycleMethods
from tamatar_auth.client.testing.servicers.lists import FakeListMethods
from tamatar_auth.client.testing.servicers.sessions import FakeSessionServicer
from tamatar_auth.client.testing.servicers.users import FakeUserMethods
from tamatar_auth.client.testing.store import FakeStore

__all__ = ["FakeFactorServicer", "FakeSessionServicer", "FakeUserServicer"]


class FakeUserServicer(
    FakeUserMethods, FakeListMethods, FakeLifecycleMethods, FakeCredentialMethods
):
    """The fake's servicer of UserService."""

    def __init__(self, store: FakeStore) -> None:
        FakeListMethods.__init__(self, store)
