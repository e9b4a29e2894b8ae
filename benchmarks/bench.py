"""The context of a run."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.plan import Plan
from benchmarks.servers import Server, Servers


@dataclass(frozen=True, slots=True)
class Bench:
    """A filled database and running servers."""

    plan: Plan
    servers: Servers
    url: str
    empty: Server
    real: Server
    report_progress: Callable[[str], None]
