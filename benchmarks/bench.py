"""What the parts of a run share."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.plan import Plan
from benchmarks.servers import Server, Servers


@dataclass(frozen=True, slots=True)
class Bench:
    """A database that is filled, and servers that answer."""

    plan: Plan
    servers: Servers
    url: str
    empty: Server
    real: Server
    report_progress: Callable[[str], None]
