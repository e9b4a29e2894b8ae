"""The service without one of its protections, to show that the harness finds the lack.

    python -m tests.chaos.mutant_service NAME --exit-with-parent PID

runs a mutant of `tamatar-auth serve`. The mutation affects this process alone.
"""

import sys

from tamatar_auth.config.settings import Settings
from tamatar_auth.server import run as running
from tamatar_auth.server.parent_watch import stop_with_parent
from tests.chaos import mutant_answers, mutant_sessions, mutant_writes

MUTANTS_BY_NAME = {
    mutant.__name__: mutant
    for module in (mutant_writes, mutant_sessions, mutant_answers)
    for mutant in module.MUTANTS
}

if __name__ == "__main__":
    name, _, parent = sys.argv[1:]
    stop_with_parent(int(parent))
    MUTANTS_BY_NAME[name]()
    running.serve(Settings.load())
