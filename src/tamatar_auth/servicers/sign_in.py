"""The methods of SessionService that sign users in."""

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.passkey_sign_in import PasskeySignInMethods


class SignInMethods(PasskeySignInMethods):
    """Signs users in."""

    async def CompleteSignIn(
        self, request: pb.CompleteSignInRequest, context: Context
    ) -> pb.CompleteSignInResponse:
        raise NotImplementedError
