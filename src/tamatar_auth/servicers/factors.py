"""FactorService. The comments of the proto document its methods."""

from uuid import UUID

from uuid_utils.compat import uuid7

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceServicer
from tamatar_auth.errors import InvalidFields
from tamatar_auth.errors.factors import FactorNotFound
from tamatar_auth.security import audit, totp
from tamatar_auth.security.attempt_keys import key_of_proof
from tamatar_auth.security.audit import Event
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.security.recovery_codes import new_codes, normalize_code
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.messages import factor_message
from tamatar_auth.servicers.passkeys import PasskeyMethods
from tamatar_auth.servicers.proof_check import ProofCheck
from tamatar_auth.servicers.session_requirement import require_step_up
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.factors import FactorKind, FactorRow, NewFactor

TOTP, RECOVERY_CODES = FactorKind.TOTP, FactorKind.RECOVERY_CODES


class FactorServicer(PasskeyMethods, FactorServiceServicer):
    """The servicer of FactorService."""

    def __init__(
        self, database: Database, keys: FactorKeys, passkeys: PasskeyVerifier, issuer_name: str
    ) -> None:
        self._database = database
        self._keys = keys
        self._passkeys = passkeys
        self._issuer_name = issuer_name
        self._proofs = ProofCheck(database, keys, passkeys)

    async def CreateTotpFactor(
        self, request: pb.CreateTotpFactorRequest, context: Context
    ) -> pb.CreateTotpFactorResponse:
        user_id, factor_id, secret = UUID(request.user_id), uuid7(), totp.new_secret()
        new = self._new_app(factor_id, user_id, request.label, secret)
        async with self._database.transaction() as tx:
            user = await tx.users.lock(user_id)
            await require_step_up(tx, request.step_up, user_id)
            await tx.factors.delete_unconfirmed(user_id)
            await tx.factors.require_room(user_id)
            factor = await tx.factors.add(new)
        _record(Event.FACTOR_CREATED, factor)
        return pb.CreateTotpFactorResponse(
            factor=factor_message(factor),
            secret=totp.secret_text(secret),
            otpauth_uri=totp.enrolment_uri(secret, account=user.email, issuer=self._issuer_name),
        )

    async def ConfirmTotpFactor(
        self, request: pb.ConfirmTotpFactorRequest, context: Context
    ) -> pb.ConfirmTotpFactorResponse:
        async with self._database.read() as db:
            found = await db.factors.get(UUID(request.factor_id))
            await require_step_up(db, request.step_up, found.user_id)
        if found.kind != TOTP:
            raise FactorNotFound
        proof = await self._proofs.proven_factor(found.id, found.user_id, request.code)
        async with self._database.statements() as db:
            factor = await db.factors.confirm(found.id, proof.step)
        if found.confirmed_at is None:
            _record(Event.FACTOR_CONFIRMED, factor)
        return pb.ConfirmTotpFactorResponse(factor=factor_message(factor))

    async def CreateRecoveryCodes(
        self, request: pb.CreateRecoveryCodesRequest, context: Context
    ) -> pb.CreateRecoveryCodesResponse:
        user_id, factor_id, codes = UUID(request.user_id), uuid7(), new_codes()
        key_id, digests = self._keys.digest_codes(factor_id, [*map(normalize_code, codes)])
        new = NewFactor(id=factor_id, user_id=user_id, kind=RECOVERY_CODES, key_id=key_id)
        async with self._database.transaction() as tx:
            await tx.users.lock(user_id)
            await require_step_up(tx, request.step_up, user_id)
            await tx.factors.delete_codes(user_id)
            added = await tx.factors.add(new)
            await tx.factors.add_codes(factor_id, digests)
        factor = added._replace(remaining_codes=len(codes))
        _record(Event.RECOVERY_CODES_CREATED, factor)
        return pb.CreateRecoveryCodesResponse(factor=factor_message(factor), codes=codes)

    async def ListFactors(
        self, request: pb.ListFactorsRequest, context: Context
    ) -> pb.ListFactorsResponse:
        user_id = UUID(request.user_id)
        async with self._database.snapshot() as db:
            await db.users.get(user_id)
            rows = await db.factors.list_of_user(user_id)
        return pb.ListFactorsResponse(factors=map(factor_message, rows))

    async def UpdateFactor(
        self, request: pb.UpdateFactorRequest, context: Context
    ) -> pb.UpdateFactorResponse:
        if set(request.update_mask.paths) - {"label"}:
            raise InvalidFields.field("update_mask", "must name label only")
        async with self._database.statements() as db:
            factor = await db.factors.relabel(UUID(request.factor.factor_id), request.factor.label)
        _record(Event.FACTOR_UPDATED, factor)
        return pb.UpdateFactorResponse(factor=factor_message(factor))

    async def DeleteFactor(
        self, request: pb.DeleteFactorRequest, context: Context
    ) -> pb.DeleteFactorResponse:
        factor_id = UUID(request.factor_id)
        async with self._database.transaction() as tx:
            found = await tx.factors.get(factor_id)
            await tx.users.lock(found.user_id)
            await require_step_up(tx, request.step_up, found.user_id)
            await tx.factors.delete(factor_id)
            if found.confirmed_at is not None:  # codes that were disabled work with a new factor
                await tx.attempts.clear(key_of_proof(found.user_id))
        _record(Event.FACTOR_DELETED, found)
        return pb.DeleteFactorResponse(factor=factor_message(found))

    def _new_app(self, factor_id: UUID, user_id: UUID, label: str, secret: bytes) -> NewFactor:
        encrypted = self._keys.encrypt(factor_id, secret)
        return NewFactor(
            id=factor_id,
            user_id=user_id,
            kind=TOTP,
            label=label,
            key_id=encrypted.key_id,
            encrypted_secret=encrypted.content,
        )


def _record(event: Event, factor: FactorRow) -> None:
    audit.record(event, user_id=factor.user_id, factor_id=str(factor.id), kind=factor.kind)
