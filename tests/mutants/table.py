"""All mutants, by area."""

from tests.mutants import sessions

AREAS = {
    "sessions": sessions.MUTANTS,
}
