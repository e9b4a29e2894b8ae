"""The service without one of its protections, to show that the harness misses it.

    python -m tests.chaos.mutant_service NAME --exit-with-parent PID

runs a server as `tamatar-auth serve` does, sabotaged.

Nothing of this is part of the service: what is taken out is taken out of this process alone.
"""

import sys

from tamatar_auth.config.settings import Settings
from tamatar_auth.server import run as running
from tamatar_auth.server.parent_watch import stop_with_parent
from tests.chaos import mutant_answers as sabotaged_answers
from tests.chaos import mutant_sessions as sabotaged_sessions
from tests.chaos import mutant_writes as sabotaged_writes

SABOTAGES = {
    sabotage.__name__: sabotage
    for module in (sabotaged_writes, sabotaged_sessions, sabotaged_answers)
    for sabotage in module.SABOTAGES
}

if __name__ == "__main__":
    name, _, parent = sys.argv[1:]
    stop_with_parent(int(parent))
    SABOTAGES[name]()
    running.serve(Settings.load())
