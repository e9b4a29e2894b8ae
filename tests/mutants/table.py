"""All mutants, by area."""

from tests.mutants import (
    assurance,
    audit,
    callers,
    client,
    deposed,
    passkeys,
    passwords,
    proofs,
    requests,
    sessions,
    settings,
    standbys,
    storage,
    telemetry,
    throttle,
    users,
)

AREAS = {
    "sessions": sessions.MUTANTS,
    "assurance": assurance.MUTANTS,
    "passkeys": passkeys.MUTANTS,
    "passwords": passwords.MUTANTS,
    "proofs": proofs.MUTANTS,
    "throttle": throttle.MUTANTS,
    "users": users.MUTANTS,
    "callers": callers.MUTANTS,
    "audit": audit.MUTANTS,
    "requests": requests.MUTANTS,
    "storage": storage.MUTANTS,
    "standbys": standbys.MUTANTS,
    "deposed": deposed.MUTANTS,
    "telemetry": telemetry.MUTANTS,
    "settings": settings.MUTANTS,
    "client": client.MUTANTS,
}
