"""deploy/: a real Prometheus that scrapes a loaded service answers every query with data."""

import contextlib
import re

import grpc
import promql_parser
import pytest
import yaml

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tests.support.commands import BIN, ROOT, SAMPLE_PASSWORD, run, serving
from tests.support.deploy_files import DEPLOY, alerts, dashboard, queries
from tests.support.prometheus import free_address, running
from tests.support.waiting import PATIENCE, until

COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
FILES = DEPLOY / "prometheus"
WANTED = {
    "TamatarAuthErrors",
    "TamatarAuthReplicaDown",
    "TamatarAuthReplicasDown",
    "TamatarAuthStorageUnavailable",
    "TamatarAuthWrongPasswords",
}
"""The alerts that the faults here cause. tests/repo/test_alerts.py has cases for all."""


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory):
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(postgres_server, tmp_path_factory):
    """A Prometheus that has scraped a loaded service, whose database failed in the end."""
    folder, page = tmp_path_factory.mktemp("prometheus"), free_address()
    given = {"TAMATAR_METRICS_ENABLED": "true", "TAMATAR_METRICS_LISTEN": page}
    url = postgres_server.url()
    with (
        serving("--dev", cwd=folder, TAMATAR_DATABASE_URL=url, **given) as server,
        running(folder, configuration(folder, page, free_address(), free_address())) as prometheus,
    ):
        (address,) = server.addresses
        until(lambda: prometheus.values("tamatar_call_max"))
        make_load(address, folder)
        # Prometheus sees no increase in the first sample of a series, so calls go on.
        until(lambda: "TamatarAuthWrongPasswords" in repeated(prometheus, sign_in_wrongly, address))
        postgres_server.stop()
        until(lambda: "TamatarAuthStorageUnavailable" in repeated(prometheus, validate, address))
        yield prometheus


def repeated(prometheus, call, address):
    """Make a call many times; return the alerts that have fired."""
    with grpc.insecure_channel(address) as channel:
        for _ in range(100):
            with contextlib.suppress(grpc.RpcError):
                call(SessionServiceStub(channel))
    return prometheus.fired()


def sign_in_wrongly(sessions):
    request = pb.CreateSessionRequest(email="test1@example.com", password="a wrong one")
    sessions.CreateSession(request, timeout=PATIENCE)


def validate(sessions):
    sessions.ValidateSession(pb.ValidateSessionRequest(session_token="tms_x"), timeout=PATIENCE)


def configuration(folder, *targets):
    """Return the configuration of the repository, for these targets and without delays."""
    read = yaml.safe_load((FILES / "prometheus.yaml").read_text())
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text())
    for rule in rules["groups"][0]["rules"]:
        rule.pop("for", None)
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
    read["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = read["scrape_configs"]
    return read | {
        "scrape_configs": [
            {"job_name": job["job_name"], "static_configs": [{"targets": list(targets)}]}
        ]
    }


def make_load(address, folder):
    """Make calls that succeed, calls that are refused, and a stream that receives an end."""
    run(BIN / "python", ROOT / "examples/first_calls.py", address, cwd=folder)
    with grpc.insecure_channel(address) as channel:
        sessions = SessionServiceStub(channel)
        watch = sessions.WatchSessions(pb.WatchSessionsRequest())
        next(watch)
        request = pb.CreateSessionRequest(email="test1@example.com", password=SAMPLE_PASSWORD)
        token = sessions.CreateSession(request).session_token
        for _ in range(100):
            sessions.ValidateSession(pb.ValidateSessionRequest(session_token=token))
        sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))
        watch.cancel()


def measured(query):
    """Yield the parts of a query that are compared with limits, or the whole query."""
    parsed = promql_parser.parse(query)
    if isinstance(parsed, promql_parser.ParenExpr):
        yield from measured(str(parsed.expr))
    elif isinstance(parsed, promql_parser.NumberLiteral):
        return
    elif isinstance(parsed, promql_parser.BinaryExpr) and str(parsed.op) in COMPARISONS | {"and"}:
        yield from measured(str(parsed.lhs))
        yield from measured(str(parsed.rhs))
    elif isinstance(parsed, promql_parser.Call) and parsed.func.name == "absent":
        yield from measured(str(parsed.args[0]))
    else:
        yield str(parsed)


def test_every_query_of_dashboard_and_alerts_has_data(prometheus):
    parts = {where: list(measured(query)) for where, query in queries().items()}
    assert all(parts.values())

    empty = {where: part for where in parts for part in parts[where] if not prometheus.values(part)}

    assert empty == {}


def test_variables_of_dashboard_have_values(prometheus):
    found = {}
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"].replace("$job", "tamatar-auth")
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
            values = prometheus.get(f"label/{label}/values", **{"match[]": selector})
            found[variable["name"]] = values

    assert found["job"] == ["tamatar-auth"]
    assert len(found["instance"]) == 1


def test_every_rule_is_evaluated_without_error(prometheus):
    def health():
        (group,) = prometheus.get("rules")["groups"]
        return {rule["name"]: rule["health"] for rule in group["rules"]}

    until(lambda: "unknown" not in health().values())
    assert health() == {rule["alert"]: "ok" for rule in alerts()}


def test_faults_fire_their_alerts(prometheus):
    until(lambda: prometheus.fired() >= WANTED)


@pytest.mark.parametrize("phase", ["Running", "Pending", "Failed", "Succeeded"])
def test_ended_pod_is_no_target(phase):
    (job,) = yaml.safe_load((FILES / "prometheus.yaml").read_text())["scrape_configs"]
    pod = {
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "tamatar-auth",
        "__meta_kubernetes_pod_container_port_name": "metrics",
        "__meta_kubernetes_pod_phase": phase,
    }

    kept = [
        (rule["action"] == "keep") == bool(re.fullmatch(rule["regex"], pod[source]))
        for rule in job["relabel_configs"]
        if rule.get("action") in ("keep", "drop")
        for source in rule["source_labels"]
    ]

    assert all(kept) == (phase in ("Running", "Pending"))
