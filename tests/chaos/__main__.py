"""python -m tests.chaos: runs from seeds, and the table of promises."""

import argparse
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.chaos import promise_table as promise_rows
from tests.chaos.cluster import Postgres
from tests.chaos.mutant_table import ATTEMPTS, MUTANTS, SECONDS, Mutant
from tests.chaos.promises import tried
from tests.chaos.report import Report, print_mutant
from tests.chaos.run import TEMPLATE, Ground, Plan, database_server, run
from tests.chaos.small_disk import small_disk


async def chaos(ground: Ground, plans: Sequence[Plan], *, promises: bool) -> bool:
    """Run every plan, report each, print the table, and return whether all promises were kept."""
    report = Report()
    async with database_server(ground) as postgres:
        for plan in plans:
            report.begin(plan)
            report.add(await run(plan, postgres, ground.folder))
        if plans:
            report.table()
        alone = not promises or await tried(promise_rows.Ground(postgres, TEMPLATE, ground.folder))
    return report.is_good and alone


async def run_mutants(ground: Ground, names: list[str]) -> bool:
    """Run every mutant; return whether all were found."""
    async with database_server(ground) as postgres:
        # The unchanged service must break no promise.
        missed = bool(names) or await _is_well(postgres, ground.folder)
        for mutant in MUTANTS:
            if not names or mutant.name in names:
                missed &= await _is_found(mutant, postgres, ground.folder)
    return missed


async def _is_well(postgres: Postgres, folder: Path) -> bool:
    report, plan = Report(), Plan(secrets.randbelow(1_000_000), 3 * SECONDS, servers=1)
    report.begin(plan)
    report.add(await run(plan, postgres, folder))
    return report.is_good


async def _is_found(mutant: Mutant, postgres: Postgres, folder: Path) -> bool:
    for attempt in range(1, ATTEMPTS + 1):
        result = await run(mutant.plan(secrets.randbelow(1_000_000)), postgres, folder)
        if mutant.is_found_in(result):
            print_mutant(mutant, result, attempt)
            return True
    print(f"NOT FOUND  {mutant.name}", flush=True)
    return False


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, action="append", help="this seed, again")
    parser.add_argument("--seeds", type=int, default=3, help="how many, chosen at random")
    parser.add_argument("--seconds", type=float, default=20, help="how long each run disturbs")
    parser.add_argument(
        "--writes", type=int, default=0, help="go on until so many writes of a run are acknowledged"
    )
    parser.add_argument(
        "--promises", action="store_true", help="try also each of the other promises by itself"
    )
    names = [mutant.name for mutant in MUTANTS]
    parser.add_argument(
        "--mutants",
        nargs="*",
        choices=names,
        metavar="MUTANT",
        help="run mutants of the service: these, or all",
    )
    given = parser.parse_args()
    seeds = given.seed or [secrets.randbelow(1_000_000) for _ in range(given.seeds)]
    plans = [Plan(seed, given.seconds, given.writes) for seed in seeds]
    with tempfile.TemporaryDirectory(prefix="tamatar-chaos-") as name:
        small = Path(name, "small")
        small.mkdir()
        with small_disk(small) as disk:
            if disk is None:
                print("No disk can be filled here: that fault is left out.")
            ground = Ground(Path(name), disk)
            asked = given.mutants is not None
            work = (
                run_mutants(ground, given.mutants)
                if asked
                else chaos(ground, plans, promises=given.promises)
            )
            return 0 if uvloop.run(work) else 1


if __name__ == "__main__":
    sys.exit(main())
