"""FactorService. The comments of the proto document its methods."""

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceServicer
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.passkeys import PasskeyMethods
from tamatar_auth.storage.database import Database


class FactorServicer(PasskeyMethods, FactorServiceServicer):
    """The servicer of FactorService."""

    def __init__(self, database: Database, keys: FactorKeys, passkeys: PasskeyVerifier) -> None:
        self._database = database
        self._keys = keys
        self._passkeys = passkeys

    async def CreateTotpFactor(
        self, request: pb.CreateTotpFactorRequest, context: Context
    ) -> pb.CreateTotpFactorResponse:
        raise NotImplementedError

    async def ConfirmTotpFactor(
        self, request: pb.ConfirmTotpFactorRequest, context: Context
    ) -> pb.ConfirmTotpFactorResponse:
        raise NotImplementedError

    async def CreateRecoveryCodes(
        self, request: pb.CreateRecoveryCodesRequest, context: Context
    ) -> pb.CreateRecoveryCodesResponse:
        raise NotImplementedError

    async def ListFactors(
        self, request: pb.ListFactorsRequest, context: Context
    ) -> pb.ListFactorsResponse:
        raise NotImplementedError

    async def UpdateFactor(
        self, request: pb.UpdateFactorRequest, context: Context
    ) -> pb.UpdateFactorResponse:
        raise NotImplementedError

    async def DeleteFactor(
        self, request: pb.DeleteFactorRequest, context: Context
    ) -> pb.DeleteFactorResponse:
        raise NotImplementedError
