"""deploy/prometheus: each alert fires when it should, and stays silent when it should."""

from typing import NamedTuple

import pytest
import yaml

from tests.support.commands import run
from tests.support.deploy_files import DEPLOY, alerts
from tests.support.prometheus import find_program

RULES = DEPLOY / "prometheus/alerts.yaml"
VALIDATE = "tamatar.auth.v1.SessionService/ValidateSession"
SIGN_IN = "tamatar.auth.v1.SessionService/CreateSession"
WATCH = "tamatar.auth.v1.SessionService/WatchSessions"


class Case(NamedTuple):
    """Series of Prometheus, and the labels of each alert that they cause."""

    alert: str
    name: str
    series: dict[str, str]
    fires: tuple[dict[str, str], ...] = ()


def series(metric, values, **labels):
    """Return a series of an hour with a sample a minute."""
    named = {"job": "tamatar-auth", "instance": "a"} | labels
    text = ",".join(f'{name}="{value}"' for name, value in named.items())
    return {f"{metric}{{{text}}}": values}


def up(**values):
    """Return whether each instance was scraped."""
    return {
        name: each
        for instance, value in values.items()
        for name, each in series("up", value, instance=instance).items()
    }


def calls(a_second, status="OK", method=VALIDATE, **labels):
    """Return the count of calls that end with a status at a steady rate."""
    metric = "rpc_server_call_duration_seconds_count"
    labels |= {"rpc_method": method, "rpc_response_status_code": status}
    return series(metric, f"0+{a_second * 60:g}x60", **labels)


def failures(a_second, status, method=VALIDATE):
    """Return the count of calls that end with an error of the server."""
    return calls(a_second, status, method, error_type=status)


def durations(fast, slow):
    """Return the buckets of validations: a share within 100 ms, and the others."""
    metric, labels = "rpc_server_call_duration_seconds_bucket", {"rpc_method": VALIDATE}
    return {
        **series(metric, f"0+{fast}x60", le="0.1", **labels),
        **series(metric, f"0+{fast + slow}x60", le="0.25", **labels),
        **series(metric, f"0+{fast + slow}x60", le="+Inf", **labels),
    }


def connections(used, pool):
    labels = {"db_client_connection_pool_name": pool}
    return {
        **series("db_client_connection_count", used, db_client_connection_state="used", **labels),
        **series("db_client_connection_max", "10x60", **labels),
    }


def turns(hashing, waiting):
    return {
        **series("tamatar_hash_turn_count", f"{hashing}x60", tamatar_hash_turn_state="hashing"),
        **series("tamatar_hash_turn_count", f"{waiting}x60", tamatar_hash_turn_state="waiting"),
        **series("tamatar_hash_turn_max", "17x60"),
    }


def abandoned(values, outcome):
    return series("tamatar_db_abandoned_total", values, tamatar_db_abandoned_outcome=outcome)


ONE = ({"instance": "a"},)
ONE_OF_JOB = ({"instance": "a", "job": "tamatar-auth"},)
ALL: tuple[dict[str, str]] = ({},)

CASES = (
    Case("Down", "all_replicas_down", up(a="0x60", b="0x60"), ALL),
    Case("Down", "no_targets", up(a="_x60"), ALL),
    Case("Down", "one_replica_up", up(a="0x60", b="1x60")),
    Case("ReplicasDown", "two_of_three_down", up(a="1x60", b="0x60", c="0x60"), ALL),
    Case("ReplicasDown", "one_of_three_down", up(a="1x60", b="1x60", c="0x60")),
    Case("ReplicasDown", "one_of_two_down", up(a="1x60", b="0x60")),
    Case("ReplicaDown", "one_of_three_down", up(a="0x60", b="1x60", c="1x60"), ONE_OF_JOB),
    Case("ReplicaDown", "keeps_restarting", up(a="0 0 0 1 " * 15, b="1x60"), ONE_OF_JOB),
    Case("ReplicaDown", "restarted", up(a="1x25 0x3 1x30", b="1x60")),
    Case("Errors", "two_percent", calls(9.8) | failures(0.2, "INTERNAL"), ALL),
    Case("Errors", "half_a_percent", calls(9.95) | failures(0.05, "INTERNAL")),
    Case("Errors", "watches_end", calls(9) | failures(1, "UNAVAILABLE", WATCH)),
    Case("StorageUnavailable", "two_a_second", failures(2, "UNAVAILABLE"), ALL),
    Case("StorageUnavailable", "one_in_two_seconds", failures(0.5, "UNAVAILABLE")),
    Case("StorageUnavailable", "watches_end", failures(2, "UNAVAILABLE", WATCH)),
    Case("ValidationsSlow", "one_in_twenty_slow", durations(95, 5), ALL),
    Case("ValidationsSlow", "one_in_a_thousand_slow", durations(999, 1)),
    Case("PoolFull", "all_in_use", connections("10x60", "calls"), ONE),
    Case("PoolFull", "one_idle", connections("9x60", "calls")),
    Case("PoolFull", "pool_of_validations", connections("10x60", "validations")),
    Case("PoolFull", "for_a_minute", connections("0x28 10x1 0x30", "calls")),
    Case("SignInsRefused", "all_turns_taken", turns(1, 16), ONE),
    Case("SignInsRefused", "one_turn_free", turns(1, 15)),
    Case("WrongPasswords", "guessed", calls(2, "UNAUTHENTICATED", SIGN_IN), ALL),
    Case(
        "WrongPasswords",
        "nine_in_ten_wrong",
        calls(1.8, "UNAUTHENTICATED", SIGN_IN) | calls(0.2, method=SIGN_IN),
        ALL,
    ),
    Case(
        "WrongPasswords",
        "half_wrong",
        calls(2, "UNAUTHENTICATED", SIGN_IN) | calls(2, method=SIGN_IN),
    ),
    Case("WrongPasswords", "database_down", failures(2, "UNAVAILABLE", SIGN_IN)),
    Case("WrongPasswords", "few_attempts", calls(0.5, "UNAUTHENTICATED", SIGN_IN)),
    Case("CallsRefused", "refused", series("tamatar_call_refused_total", "0+6x60"), ONE),
    Case("CallsRefused", "refused_before", series("tamatar_call_refused_total", "6x60")),
    Case("CommitsInDoubt", "one_waits", series("tamatar_db_in_doubt", "1x60"), ONE),
    Case("CommitsInDoubt", "none_waits", series("tamatar_db_in_doubt", "0x60")),
    Case("StatementsLeft", "left", abandoned("0x25 1x35", "left"), ALL),
    Case("StatementsLeft", "left_before", abandoned("1x60", "left")),
    Case("StatementsLeft", "ended", abandoned("0+1x60", "ended")),
    Case(
        "Memory",
        "half_a_gigabyte",
        series("process_resident_memory_bytes", "5e8x60"),
        ONE_OF_JOB,
    ),
    Case("Memory", "usual", series("process_resident_memory_bytes", "2e8x60")),
    Case(
        "Files",
        "nine_in_ten",
        series("process_open_fds", "900x60") | series("process_max_fds", "1000x60"),
        ONE_OF_JOB,
    ),
    Case(
        "Files", "half", series("process_open_fds", "500x60") | series("process_max_fds", "1000x60")
    ),
)


def promtool_test(case):
    """Return a unit test of promtool: what fires after half an hour."""
    name = f"TamatarAuth{case.alert}"
    (rule,) = (rule for rule in alerts() if rule["alert"] == name)
    expected = [
        {"exp_labels": labels | rule["labels"], "exp_annotations": rule["annotations"]}
        for labels in case.fires
    ]
    return {
        "name": f"{case.alert} {case.name}",
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values} for name, values in case.series.items()
        ],
        "alert_rule_test": [{"eval_time": "30m", "alertname": name, "exp_alerts": expected}],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{case.name}")
def test_alert_fires_only_when_it_should(case, tmp_path):
    file = tmp_path / "test.yaml"
    tests = {"rule_files": [str(RULES)], "tests": [promtool_test(case)]}
    file.write_text(yaml.safe_dump(tests))

    run(find_program("promtool"), "test", "rules", file, cwd=tmp_path)


def test_every_alert_has_firing_and_silent_cases():
    named = {rule["alert"] for rule in alerts()}

    assert {f"TamatarAuth{case.alert}" for case in CASES if case.fires} == named
    assert {f"TamatarAuth{case.alert}" for case in CASES if not case.fires} == named


def test_promtool_accepts_alert_rules():
    run(find_program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", RULES, cwd=DEPLOY)
