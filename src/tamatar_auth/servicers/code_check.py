"""The check of codes against stored factors. A missing factor takes the same time."""

import hmac
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import time
from typing import TypeAlias
from uuid import uuid4

from tamatar_auth.errors.factors import FactorsNotConfigured, ProofCause
from tamatar_auth.security import totp
from tamatar_auth.security.assurance import Methods
from tamatar_auth.security.factor_keys import EncryptedSecret, FactorKeys
from tamatar_auth.security.recovery_codes import CODES, normalize_code
from tamatar_auth.storage.database import Scope
from tamatar_auth.storage.repositories.factors import FactorKind
from tamatar_auth.storage.repositories.proofs import StoredFactor

ONE_TIME_CODE = Methods.of("otp")


@dataclass(frozen=True, slots=True, repr=False)
class FactorProof:
    """A right proof of a factor, which is not used yet."""

    factor: StoredFactor
    methods: Methods
    use: Callable[[Scope], Awaitable[None]]
    """Uses the proof in a transaction, or raises `InvalidProof` if another call has used it."""
    step: int = 0
    """The step of an app's code."""


Checked: TypeAlias = FactorProof | ProofCause
"""The outcome of a check: a proof, or the cause why there is none."""


class CodeCheck:
    """Checks codes of apps and recovery codes."""

    def __init__(self, keys: FactorKeys) -> None:
        self._keys = keys
        self._stand_ins = _stand_ins(keys)

    def totp(self, stored: Sequence[StoredFactor], code: str, *, again: bool = False) -> Checked:
        """Check the code of an app. `again` accepts the last code that was used, too."""
        cause = _cause(stored, FactorKind.TOTP)
        proof: FactorProof | None = None
        for factor in self._of_kind(stored, FactorKind.TOTP):
            encrypted = EncryptedSecret(factor.key_id or "", factor.encrypted_secret or b"")
            secret = self._keys.decrypt(factor.id, encrypted)
            step = totp.find_step(secret or totp.new_secret(), code, factor.read_at)
            if secret is None or step is None:
                continue
            if step + again <= factor.last_step:
                cause = ProofCause.USED_CODE
                continue
            use = partial(self._use_step, factor=factor, secret=secret, step=step)
            proof = FactorProof(factor, ONE_TIME_CODE, use, step)
        return proof or cause

    def recovery_code(self, stored: Sequence[StoredFactor], code: str) -> Checked:
        """Check a recovery code."""
        proof: FactorProof | None = None
        for factor in self._of_kind(stored, FactorKind.RECOVERY_CODES):
            digest = self._keys.code_digest(factor.key_id or "", factor.id, normalize_code(code))
            known = [hmac.compare_digest(each, digest or b"") for each in factor.code_digests or ()]
            if digest is not None and any(known):
                use = partial(_use_code, factor=factor, digest=digest)
                proof = FactorProof(factor, ONE_TIME_CODE, use)
        return proof or _cause(stored, FactorKind.RECOVERY_CODES)

    def _of_kind(self, stored: Sequence[StoredFactor], kind: FactorKind) -> Sequence[StoredFactor]:
        found = [factor for factor in stored if factor.kind == kind]
        stand_ins = [factor for factor in self._stand_ins if factor.kind == kind]
        return found or [factor._replace(read_at=time()) for factor in stand_ins]

    async def _use_step(self, tx: Scope, *, factor: StoredFactor, secret: bytes, step: int) -> None:
        await tx.proofs.use_step(factor, step)
        if factor.key_id != self._keys.newest_id:
            renewed = self._keys.encrypt(factor.id, secret)
            await tx.proofs.renew_secret(factor.id, renewed.key_id, renewed.content)


def _cause(stored: Sequence[StoredFactor], kind: FactorKind) -> ProofCause:
    has_factor = any(factor.kind == kind for factor in stored)
    return ProofCause.WRONG_CODE if has_factor else ProofCause.NO_FACTOR


async def _use_code(tx: Scope, *, factor: StoredFactor, digest: bytes) -> None:
    await tx.proofs.use_code(factor, digest)


def _stand_ins(keys: FactorKeys) -> Sequence[StoredFactor]:
    """Return factors that no user has, one of each kind, or none if there are no keys."""
    factor_id = uuid4()
    try:
        secret = keys.encrypt(factor_id, totp.new_secret())
    except FactorsNotConfigured:
        return ()
    nobody = StoredFactor(
        *(factor_id, factor_id, FactorKind.TOTP, secret.key_id, secret.content, 2**62),
        *(None, None, 0, False, None, 0.0),
    )
    digests = [secrets.token_bytes(32) for _ in range(CODES)]
    codes = nobody._replace(kind=FactorKind.RECOVERY_CODES, code_digests=digests)
    return (nobody, codes)
