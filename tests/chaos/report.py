"""What is told of runs, and the table of promises in the end."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from tests.chaos.history import Call, Outcome
from tests.chaos.mutant_table import Bite
from tests.chaos.rules import Promise
from tests.chaos.run import Plan, Result

DOWN = {"database killed", "database restarted"}
"""The faults in which connections to the database are refused."""
MOST_TOLD = 10
"""Of more broken promises of a run the last are not told."""
WIDEST = 200
"""Characters after which a line ends."""


class Report:
    """Tells of runs as they end, and sums them up."""

    def __init__(self) -> None:
        self._results: list[Result] = []

    def begin(self, plan: Plan) -> None:
        """Tell of a run that begins: it may be that it never ends."""
        print(f"seed {plan.seed:>6}: ", end="", flush=True)

    def add(self, result: Result) -> None:
        """Take a run in, and tell of it."""
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
            tell_broken(result)

    @property
    def is_good(self) -> bool:
        """Whether no promise was broken."""
        return not any(result.violations for result in self._results)

    def table(self) -> None:
        """Print what was promised, what was done and what came of it."""
        calls = [call for result in self._results for call in result.history.calls]
        broken = Counter(v.promise for result in self._results for v in result.violations)
        validated = [c for c in calls if c.method.startswith(("Validate", "BatchValidateS"))]
        print(f"\n{len(self._results)} runs, {len(calls)} calls:")
        written = [result.history.acknowledged for result in self._results]
        print(f"  {sum(written):>8}  writes acknowledged, in each run at least {min(written)}")
        print(f"  {sum(call.is_ok for call in validated):>8}  sessions found good")
        print(f"  {sum(not call.may_have_happened for call in validated):>8}  sessions refused")
        in_vain = sum(result.evidence.asked_in_vain for result in self._results)
        print(f"  {in_vain:>8}  asked of after their end was answered")
        to_tell = [
            len(result.evidence.to_be_told(watch))
            for result in self._results
            for watch in result.history.watches
        ]
        print(f"  {sum(to_tell):>8}  ends that {len(to_tell)} watches had to tell of")
        print(f"  {_in_doubt(calls):>8}  calls in doubt")
        done = sum(result.evidence.done_in_doubt for result in self._results)
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


def tell_broken(result: Result) -> None:
    """Tell which promises a run broke, and how to repeat it."""
    for violation in result.violations[:MOST_TOLD]:
        print(f"  {violation.promise}: {_line(violation.text)}")
    if len(result.violations) > MOST_TOLD:
        print(f"  … and {len(result.violations) - MOST_TOLD} more")
    print(f"  to repeat it: {_again(result.plan)}", flush=True)


def tell_bite(bite: Bite, result: Result, attempt: int) -> None:
    """Tell by what a sabotage was found."""
    shown = next(found for found in result.violations if found.promise in bite.promises)
    again = f", run {attempt}" if attempt > 1 else ""
    print(f"found{again}  {bite.sabotage}: {shown.promise}\n       {_line(shown.text)}", flush=True)


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
