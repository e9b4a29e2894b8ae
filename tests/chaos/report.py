"""The report of runs, and the table of promises."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from tests.chaos.history import Call, Outcome
from tests.chaos.mutant_table import Mutant
from tests.chaos.rules import Promise
from tests.chaos.run import Plan, Result

DOWN = {"database killed", "database restarted"}
"""The faults in which connections to the database are refused."""
MAX_SHOWN = 10
"""The number of broken promises of a run that are shown."""
WIDEST = 200
"""The maximum width of a line in characters."""


class Report:
    """Reports runs as they end, and sums them up."""

    def __init__(self) -> None:
        self._results: list[Result] = []

    def begin(self, plan: Plan) -> None:
        """Report that a run begins, because it may never end."""
        print(f"seed {plan.seed:>6}: ", end="", flush=True)

    def add(self, result: Result) -> None:
        """Add a run, and report it."""
        self._results.append(result)
        calls = result.history.calls
        print(
            f"{len(calls)} calls,"
            f" {result.history.acknowledged} writes acknowledged,"
            f" {_in_doubt(calls)} in doubt, {len(result.history.faults)} faults,"
            f" {len(result.violations)} promises broken",
            flush=True,
        )
        if result.violations:
            print_broken(result)

    @property
    def is_good(self) -> bool:
        """Whether no promise was broken."""
        return not any(result.violations for result in self._results)

    def table(self) -> None:
        """Print the promises, the calls and the results."""
        calls = [call for result in self._results for call in result.history.calls]
        broken = Counter(v.promise for result in self._results for v in result.violations)
        validated = [c for c in calls if c.method.startswith(("Validate", "BatchValidateS"))]
        print(f"\n{len(self._results)} runs, {len(calls)} calls:")
        written = [result.history.acknowledged for result in self._results]
        print(f"  {sum(written):>8}  writes acknowledged, in each run at least {min(written)}")
        print(f"  {sum(call.is_ok for call in validated):>8}  sessions found good")
        print(f"  {sum(not call.may_have_happened for call in validated):>8}  sessions refused")
        in_vain = sum(result.evidence.validations_after_end for result in self._results)
        print(f"  {in_vain:>8}  asked of after their end was answered")
        due = [
            len(result.evidence.due_ends(watch))
            for result in self._results
            for watch in result.history.watches
        ]
        print(f"  {sum(due):>8}  ends that {len(due)} watches had to receive")
        print(f"  {_in_doubt(calls):>8}  calls in doubt")
        done = sum(result.evidence.unacknowledged_changes for result in self._results)
        print(f"  {done:>8}  changes of these that had happened")
        self._faults()
        print("\npromised are none of these:")
        for promise in Promise:
            print(f"  {broken[promise]:>8}  {promise}")
        print("\nseconds to an answer:")
        away = [call for result in self._results for call in _refused(result, DOWN)]
        refused = [call for call in calls if call.reason == "STORAGE_UNAVAILABLE"]
        _times("refused as UNAVAILABLE, the database being away", away)
        _times("refused as UNAVAILABLE, all", refused)
        _times("answered", [call for call in calls if call.outcome is Outcome.OK])

    def _faults(self) -> None:
        print("\nfaults, and seconds until all was well again:")
        heals: dict[str, list[float]] = {}
        for result in self._results:
            for fault, seconds in result.history.heals.items():
                heals.setdefault(fault, []).extend(seconds)
        for fault, seconds in sorted(heals.items()):
            print(f"  {len(seconds):>8}  {fault} ({_middle_and_most(seconds)})")


def print_broken(result: Result) -> None:
    """Print the promises that a run broke, and how to repeat it."""
    for violation in result.violations[:MAX_SHOWN]:
        print(f"  {violation.promise}: {_line(violation.text)}")
    if len(result.violations) > MAX_SHOWN:
        print(f"  … and {len(result.violations) - MAX_SHOWN} more")
    print(f"  to repeat it: {_again(result.plan)}", flush=True)


def print_mutant(mutant: Mutant, result: Result, attempt: int) -> None:
    """Print the promise by which a mutant was found."""
    shown = next(found for found in result.violations if found.promise in mutant.promises)
    again = f", run {attempt}" if attempt > 1 else ""
    print(f"found{again}  {mutant.name}: {shown.promise}\n       {_line(shown.text)}", flush=True)


def _line(text: str) -> str:
    return " ".join(text.split())[:WIDEST]


def _again(plan: Plan) -> str:
    writes = f" WRITES={plan.writes}" if plan.writes else ""
    return f"make chaos SEED={plan.seed} SECONDS={plan.seconds:g}{writes}"


def _in_doubt(calls: Sequence[Call]) -> int:
    return sum(call.outcome is Outcome.UNKNOWN for call in calls)


def _refused(result: Result, faults: set[str]) -> Sequence[Call]:
    spans = [span for span in result.history.faults if span.fault in faults]
    return [
        call
        for call in result.history.calls
        if call.reason == "STORAGE_UNAVAILABLE"
        and any(span.began <= call.began < span.ended for span in spans)
    ]


def _times(what: str, calls: Sequence[Call]) -> None:
    if calls:
        times = _middle_and_most([call.seconds for call in calls])
        print(f"  {len(calls):>8}  {what} ({times})")


def _middle_and_most(seconds: Sequence[float]) -> str:
    return f"median {median(seconds):.2f}, most {max(seconds):.2f}"
