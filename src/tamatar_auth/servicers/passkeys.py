"""The methods of FactorService that register passkeys."""

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar_auth.servicers import Context


class PasskeyMethods:
    """Registers passkeys."""

    async def BeginPasskeyRegistration(
        self, request: pb.BeginPasskeyRegistrationRequest, context: Context
    ) -> pb.BeginPasskeyRegistrationResponse:
        raise NotImplementedError

    async def FinishPasskeyRegistration(
        self, request: pb.FinishPasskeyRegistrationRequest, context: Context
    ) -> pb.FinishPasskeyRegistrationResponse:
        raise NotImplementedError
