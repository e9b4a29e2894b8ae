"""Reads all users from a service, over connections that may break."""

from collections.abc import Callable, Iterator, Sequence

from tamatar.auth.v1.user_service_pb2 import ExportedUser, ExportUsersRequest
from tamatar_auth.cli.transfer.retries import RETRY_TIMEOUT, retry_stream
from tamatar_auth.client import AuthClient


class UserExporter:
    """Reads users in the order of their ids, and counts them."""

    def __init__(self, auth: AuthClient, *, after: str, password_hashes: bool) -> None:
        self._auth = auth
        self._password_hashes = password_hashes
        self.after = after
        """The id of the last user that was read."""
        self.count = self.kept_passwords = 0
        """The number of users that were read, and of passwords that the service did not export."""

    def users(
        self, notify: Callable[[str], None], patience: float = RETRY_TIMEOUT
    ) -> Iterator[Sequence[ExportedUser]]:
        """Yield users in batches. A new stream continues after the last user of a broken one."""
        return retry_stream(self._stream, patience, notify)

    def _stream(self) -> Iterator[Sequence[ExportedUser]]:
        request = ExportUsersRequest(
            after_user_id=self.after, include_password_hashes=self._password_hashes
        )
        for response in self._auth.users.ExportUsers(request):
            yield response.users
            self.count += len(response.users)
            self.kept_passwords += sum(user.password_kept for user in response.users)
            self.after = response.users[-1].user.user_id
