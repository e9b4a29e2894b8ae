"""The methods of SessionService that sign users in."""

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.servicers import Context


class SignInMethods:
    """Signs users in."""

    async def BeginPasskeySignIn(
        self, request: pb.BeginPasskeySignInRequest, context: Context
    ) -> pb.BeginPasskeySignInResponse:
        raise NotImplementedError

    async def CompleteSignIn(
        self, request: pb.CompleteSignInRequest, context: Context
    ) -> pb.CompleteSignInResponse:
        raise NotImplementedError
