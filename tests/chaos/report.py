"""What is told of runs, and the table of promises in the end."""

from collections import Counter
from collections.abc import Sequence

from tests.chaos.bites import Bite
from tests.chaos.history import Call, Outcome
from tests.chaos.model import Promise
from tests.chaos.running import Plan, Result

READS = {"GetUser", "ValidateSession", "BatchValidateSessions", "BatchValidate"}
MOST_TOLD = 10
"""Of more broken promises of a run the last are not told."""
WIDEST = 200
"""Characters after which a line ends."""


class Report:
    """Tells of runs as they end, and sums them up."""

    def __init__(self) -> None:
        self._results: list[Result] = []

    def add(self, result: Result) -> None:
        """Take a run in, and tell of it."""
        self._results.append(result)
        calls = result.history.calls
        print(
            f"seed {result.plan.seed:>6}: {len(calls)} calls,"
            f" {len(_acknowledged(calls))} writes acknowledged,"
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
        print(f"  {len(_acknowledged(calls)):>8}  writes acknowledged")
        print(f"  {sum(call.is_ok for call in validated):>8}  sessions found good")
        print(f"  {sum(not call.may_have_happened for call in validated):>8}  sessions refused")
        print(f"  {_in_doubt(calls):>8}  calls in doubt")
        self._faults()
        print("\npromised are none of these:")
        for promise in Promise:
            print(f"  {broken[promise]:>8}  {promise}")
        print("\nseconds to an answer:")
        refused = [c.seconds for c in calls if c.reason == "STORAGE_UNAVAILABLE"]
        _times("refused as UNAVAILABLE by the service", refused)
        _times("all others", [call.seconds for call in calls if call.outcome is Outcome.OK])

    def _faults(self) -> None:
        print("\nfaults, and seconds until all was well again:")
        heals: dict[str, list[float]] = {}
        for result in self._results:
            for fault, seconds in result.history.heals.items():
                heals.setdefault(fault, []).extend(seconds)
        for fault, seconds in sorted(heals.items()):
            _times(fault, seconds)


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
    return f"make chaos SEED={plan.seed} SECONDS={plan.seconds:g}"


def _acknowledged(calls: Sequence[Call]) -> Sequence[Call]:
    return [call for call in calls if call.is_ok and call.method not in READS]


def _in_doubt(calls: Sequence[Call]) -> int:
    return sum(call.outcome is Outcome.UNKNOWN for call in calls)


def _times(what: str, seconds: Sequence[float]) -> None:
    if seconds:
        in_order = sorted(seconds)
        middle, most = in_order[len(in_order) // 2], in_order[-1]
        print(f"  {len(seconds):>8}  {what} (median {middle:.2f}, most {most:.2f})")
