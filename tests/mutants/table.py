"""All mutants, by area."""

from tests.mutants import audit, callers, client, passwords, requests, sessions, storage, users

AREAS = {
    "sessions": sessions.MUTANTS,
    "passwords": passwords.MUTANTS,
    "users": users.MUTANTS,
    "callers": callers.MUTANTS,
    "audit": audit.MUTANTS,
    "requests": requests.MUTANTS,
    "storage": storage.MUTANTS,
    "client": client.MUTANTS,
}
