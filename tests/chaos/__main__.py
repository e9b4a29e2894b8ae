"""python -m tests.chaos: runs from seeds, and the table of what is promised."""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.chaos.bites import ATTEMPTS, BITES, SECONDS, Bite
from tests.chaos.house import Postgres
from tests.chaos.report import Report, tell_bite
from tests.chaos.running import Plan, database_server, run


async def chaos(seeds: list[int], seconds: float) -> bool:
    """Run every seed, tell of each, print the table, and return whether all was kept."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="tamatar-chaos-") as folder:
        async with database_server(Path(folder)) as postgres:
            for seed in seeds:
                result = await run(Plan(seed, seconds), postgres, Path(folder))
                report.add(result)
    report.table()
    return report.is_good


async def bite(names: list[str]) -> bool:
    """Run the service without one protection after the other; return whether each is missed."""
    missed = True
    control = Plan(secrets.randbelow(1_000_000), 3 * SECONDS, servers=1)
    with tempfile.TemporaryDirectory(prefix="tamatar-chaos-") as folder:
        async with database_server(Path(folder)) as postgres:
            if not names:  # nothing is missed where nothing was taken out
                report = Report()
                report.add(await run(control, postgres, Path(folder)))
                missed &= report.is_good
            for bite in BITES:
                if not names or bite.sabotage in names:
                    missed &= await _is_found(bite, postgres, Path(folder))
    return missed


async def _is_found(bite: Bite, postgres: Postgres, folder: Path) -> bool:
    for attempt in range(1, ATTEMPTS + 1):
        result = await run(bite.plan(secrets.randbelow(1_000_000)), postgres, folder)
        if bite.is_found_in(result):
            tell_bite(bite, result, attempt)
            return True
    print(f"NOT FOUND  {bite.sabotage}", flush=True)
    return False


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, action="append", help="this seed, again")
    parser.add_argument("--seeds", type=int, default=3, help="how many, chosen at random")
    parser.add_argument("--seconds", type=float, default=20, help="how long each run disturbs")
    parser.add_argument("--bite", nargs="*", help="sabotage the service, in these ways or in all")
    given = parser.parse_args()
    seeds = given.seed or [secrets.randbelow(1_000_000) for _ in range(given.seeds)]
    work = chaos(seeds, given.seconds) if given.bite is None else bite(given.bite)
    return 0 if uvloop.run(work) else 1


if __name__ == "__main__":
    sys.exit(main())
