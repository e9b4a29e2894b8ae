"""The sizes of a full and of a quick run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """The load on a server. Times are seconds."""

    in_flight: int
    warm_up: float
    """Time whose calls are not measured."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes of a run. Times are seconds."""

    users: int
    few_users: int
    """Users of the small database, to which the large one is compared."""
    spare_sessions: int
    """Sessions that are consumed: half are refreshed, half are revoked."""
    expired_sessions: int
    in_flight: tuple[int, ...]
    rounds: int
    warm_up: float
    seconds: float
    hashing_seconds: float
    paced_seconds: float
    starts: int

    def load(self, in_flight: int) -> Load:
        """Return the load with a number of calls in flight."""
        return Load(in_flight, self.warm_up, self.seconds)


FULL = Plan(
    users=1_000_000,
    few_users=10_000,
    spare_sessions=200_000,
    expired_sessions=1_000_000,
    in_flight=(1, 8, 32, 64, 128, 256, 512),
    rounds=9,
    warm_up=0.5,
    seconds=1.0,
    hashing_seconds=3.5,
    paced_seconds=15.0,
    starts=5,
)

QUICK = Plan(
    users=20_000,
    few_users=2_000,
    spare_sessions=40_000,
    expired_sessions=20_000,
    in_flight=(1, 32, 256),
    rounds=2,
    warm_up=0.15,
    seconds=0.5,
    hashing_seconds=3.0,
    paced_seconds=2.0,
    starts=2,
)
