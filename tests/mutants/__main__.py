"""python -m tests.mutants: whether the tests see each mutant of the source."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.mutant import Mutant
from tests.mutants.run import Copy, Outcome, Verdict
from tests.mutants.table import AREAS
from tests.support.databases import TestServer


def main() -> int:
    """Parse the arguments and run; return 0 if every mutant was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument(
        "-k", default="", metavar="WORDS", help="such as 'sessions or page_token': a part of a name"
    )
    parser.add_argument("-j", type=int, default=2, metavar="N", help="how many at a time")
    given = parser.parse_args()
    chosen = {
        mutant: area
        for area, mutants in AREAS.items()
        for mutant in mutants
        if any(word in f"{area}/{mutant.name}" for word in given.k.split(" or "))
    }
    if not chosen:
        parser.error(f"no mutant has {given.k!r} in its area or name")
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="tamatar-mutants-"))
        server = TestServer()
        stack.callback(server.stop)
        copies = [Copy(Path(name, str(number)), server.url()) for number in range(given.j)]
        outcomes = _check_seers(_judge(list(chosen), copies), copies[0])
    _print_table(outcomes, chosen)
    return 0 if all(outcome.verdict is Verdict.SEEN for outcome in outcomes) else 1


def _check_seers(outcomes: Sequence[Outcome], copy: Copy) -> Sequence[Outcome]:
    """Run the tests that saw a mutant without it: a test that fails then sees nothing."""
    seers = sorted({outcome.seer for outcome in outcomes if outcome.verdict is Verdict.SEEN})
    print(f"Now the {len(seers)} tests that saw a mutant, without one …", flush=True)
    failed = copy.failed_tests(seers) if seers else set()
    return [
        outcome._replace(verdict=Verdict.UNSOUND) if outcome.seer in failed else outcome
        for outcome in outcomes
    ]


def _judge(mutants: Sequence[Mutant], copies: Sequence[Copy]) -> Sequence[Outcome]:
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def judge(mutant: Mutant) -> Outcome:
        copy = free.get()
        try:
            return copy.judge(mutant)
        finally:
            free.put(copy)

    outcomes = []
    with ThreadPoolExecutor(len(copies)) as threads:
        running = [threads.submit(judge, mutant) for mutant in mutants]
        try:
            for done in as_completed(running):
                outcomes.append(done.result())
                mutant, verdict, detail = outcomes[-1]
                count = f"{len(outcomes)}/{len(mutants)}"
                print(f"{count:>8}  {verdict:8}  {mutant.name}", flush=True)
                if verdict is Verdict.BROKEN:
                    print(detail, flush=True)
        except KeyboardInterrupt:
            threads.shutdown(cancel_futures=True)
            raise
    return outcomes


def _print_table(outcomes: Sequence[Outcome], areas: dict[Mutant, str]) -> None:
    found = {outcome.mutant: outcome for outcome in outcomes}
    width = max(len(mutant.name) for mutant in areas)
    for area, mutants in groupby(areas, key=areas.__getitem__):
        print(f"\n{area}")
        for mutant in mutants:
            _, verdict, detail = found[mutant]
            by = detail if verdict is not Verdict.BROKEN else " ".join(mutant.tests)
            print(f"  {mutant.name:{width}}  {verdict:8}  {by}")
    seen = sum(outcome.verdict is Verdict.SEEN for outcome in outcomes)
    print(f"\n{seen} of {len(outcomes)} mutants seen.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
