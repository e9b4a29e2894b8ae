"""The methods of FactorService."""

import base64
from urllib.parse import quote
from uuid import UUID

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.testing.errors import RefusedError, invalid_field
from tamatar_auth.client.testing.servicers.passkeys import ISSUER_NAME, FakePasskeyMethods
from tamatar_auth.client.testing.servicers.requirements import require_step_up
from tamatar_auth.client.testing.servicers.users import get_user
from tamatar_auth.client.testing.store.factors import FactorRecord


class FakeFactorServicer(FakePasskeyMethods):
    """The fake's servicer of FactorService."""

    def CreateTotpFactor(self, request: pb.CreateTotpFactorRequest) -> pb.CreateTotpFactorResponse:
        user = get_user(self._store, request.user_id).user
        require_step_up(self._store, request.step_up, user.user_id)
        record = self._store.factors.add_totp(user.user_id, request.label)
        secret = base64.b32encode(record.secret).decode()
        name, issuer = quote(user.email, safe=""), quote(ISSUER_NAME, safe="")
        parameters = f"digits=6&secret={secret}&algorithm=SHA1&issuer={issuer}&period=30"
        return pb.CreateTotpFactorResponse(
            factor=record.factor,
            secret=secret,
            otpauth_uri=f"otpauth://totp/{issuer}:{name}?{parameters}",
        )

    def ConfirmTotpFactor(
        self, request: pb.ConfirmTotpFactorRequest
    ) -> pb.ConfirmTotpFactorResponse:
        record = self._get(request.factor_id)
        require_step_up(self._store, request.step_up, record.factor.user_id)
        self._store.factors.confirm_by_code(record, request.code)
        return pb.ConfirmTotpFactorResponse(factor=record.factor)

    def CreateRecoveryCodes(
        self, request: pb.CreateRecoveryCodesRequest
    ) -> pb.CreateRecoveryCodesResponse:
        user = get_user(self._store, request.user_id).user
        require_step_up(self._store, request.step_up, user.user_id)
        record, codes = self._store.factors.add_codes(user.user_id)
        return pb.CreateRecoveryCodesResponse(factor=record.factor, codes=codes)

    def ListFactors(self, request: pb.ListFactorsRequest) -> pb.ListFactorsResponse:
        user = get_user(self._store, request.user_id).user
        found = self._store.factors.of_user(user.user_id)
        return pb.ListFactorsResponse(factors=[each.factor for each in found])

    def UpdateFactor(self, request: pb.UpdateFactorRequest) -> pb.UpdateFactorResponse:
        if not set(request.update_mask.paths) <= {"label"}:
            raise invalid_field("update_mask", "must name label only")
        record = self._get(request.factor.factor_id)
        record.factor.label = request.factor.label
        return pb.UpdateFactorResponse(factor=record.factor)

    def DeleteFactor(self, request: pb.DeleteFactorRequest) -> pb.DeleteFactorResponse:
        record = self._get(request.factor_id)
        require_step_up(self._store, request.step_up, record.factor.user_id)
        self._store.factors.remove(record)
        return pb.DeleteFactorResponse(factor=record.factor)

    def _get(self, text: str) -> FactorRecord:
        """Return a factor of a live user, or raise `RefusedError`."""
        record = self._store.factors.get(str(UUID(text)))
        user_id = record.factor.user_id
        if self._store.users.find_where(lambda user: user.user_id == user_id) is None:
            raise RefusedError(ErrorReason.FACTOR_NOT_FOUND)
        return record
