"""How much is loaded and measured: all of it, or enough to see that it works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """How hard a server is driven, and how long. Times are seconds."""

    in_flight: int
    warm_up: float
    """Calls that end within it are made and not measured."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes of a run. Times are seconds."""

    users: int
    few_users: int
    """The size of the small database that the large one is compared with."""
    spare_sessions: int
    """Sessions that are used up: half of them are refreshed, half revoked."""
    expired_sessions: int
    in_flight: tuple[int, ...]
    rounds: int
    warm_up: float
    seconds: float
    hashing_seconds: float
    paced_seconds: float
    starts: int

    def load(self, in_flight: int) -> Load:
        """Give the load of so many calls in flight."""
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
    hashing_seconds=1.5,
    paced_seconds=2.0,
    starts=2,
)
