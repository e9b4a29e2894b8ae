"""deploy/: a server runs with its settings, and probes, queries and alerts match the server."""

import base64
import re
import shutil
import socket
import urllib.request
from uuid import uuid4

import grpc
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tamatar_auth.config.groups import all_settings
from tamatar_auth.config.settings import Settings
from tamatar_auth.observability import semconv
from tamatar_auth.security.authorization import ACCESS_RULES
from tamatar_auth.servicers.health import LIVENESS
from tamatar_auth.workers.supervisor import STOP_MARGIN_SECONDS
from tests.support.commands import BIN, ROOT, is_served, run, serving, tamatar
from tests.support.databases import TEMPLATE
from tests.support.deploy_files import (
    DEPLOY,
    KUBERNETES,
    alerts,
    anchors,
    compose,
    container,
    make_secrets,
    manifest,
    page_blocks,
    queries,
    read_variables,
    secrets,
    selectors,
    settings_of,
)
from tests.support.pages import REPOSITORY, linked_file
from tests.support.waiting import PATIENCE, until

OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that Prometheus adds."""

WATCHES = ("tamatar.auth.v1.SessionService/WatchSessions", "grpc.health.v1.Health/Watch")

OF_FAILED_CALLS = semconv.ERROR_TYPE.replace(".", "_")
"""The label of calls that failed by a fault of the server, of which there are none here."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def made_secrets(tmp_path_factory):
    """The secrets made by the commands of the page."""
    return make_secrets(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def environment(made_secrets):
    """The variables in the file of secrets."""
    return read_variables(made_secrets / "tamatar.env")


@pytest.fixture
def database(postgres):
    name = f"deployed_{uuid4().hex}"
    yield postgres.create(name, TEMPLATE)
    postgres.drop(name)


def kubectl():
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is missing: what it renders is not looked at")
    return program


class TestManifests:
    """Pods, probes, containers and the migration."""

    def test_probes_use_health_port_and_distinguish_liveness(self):
        said = manifest("configmap.yaml")["data"]
        server = container("deployment.yaml")
        ports = {port["name"]: port["containerPort"] for port in server["ports"]}
        probes = {
            name: server[f"{name}Probe"]["grpc"] for name in ("startup", "readiness", "liveness")
        }

        assert {probe["port"] for probe in probes.values()} == {ports["health"]}
        assert said["TAMATAR_HEALTH_LISTEN"].endswith(f":{ports['health']}")
        assert said["TAMATAR_LISTEN"].endswith(f":{ports['grpc']}")
        assert said["TAMATAR_METRICS_LISTEN"].endswith(f":{ports['metrics']}")
        services = {name: probe.get("service", "") for name, probe in probes.items()}
        assert services == {"startup": LIVENESS, "readiness": "", "liveness": LIVENESS}

    def test_pods_have_time_to_end_and_are_replaced_first(self):
        said = manifest("configmap.yaml")["data"]
        spec = manifest("deployment.yaml")["spec"]
        seconds = sum(
            int(said[f"TAMATAR_{name}"].removesuffix("s"))
            for name in ("DRAIN_DELAY", "SHUTDOWN_GRACE")
        )
        compose_seconds = int(compose()["server"]["stop_grace_period"].removesuffix("s"))
        defaults = Settings.load(env_file=None)
        end = (defaults.drain_delay + defaults.shutdown_grace).total_seconds()

        assert (
            spec["template"]["spec"]["terminationGracePeriodSeconds"]
            >= seconds + STOP_MARGIN_SECONDS
        )
        assert compose_seconds > end + 1
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        assert manifest("disruption-budget.yaml")["spec"]["maxUnavailable"] < spec["replicas"]

    def test_compose_migration_waits_for_final_postgresql(self):
        # The first server of the image prepares the volume and listens on a socket only.
        words = compose()["postgres"]["healthcheck"]["test"]

        assert words[:3] == ["CMD", "pg_isready", "--host=127.0.0.1"]
        assert compose()["migration"]["depends_on"] == {
            "postgres": {"condition": "service_healthy"}
        }

    def test_compose_server_mounts_only_what_it_reads(self, made_secrets):
        said = compose()["server"]["environment"]
        read = {path for path in said.values() if path.startswith("/etc/tamatar/")}
        mounted = {path.name for path in (made_secrets / "server").iterdir()}

        assert compose()["server"]["volumes"] == ["./secrets/server:/etc/tamatar:ro"]
        assert {f"/etc/tamatar/{name}" for name in mounted} == read

    def test_containers_run_with_least_privilege(self):
        (user,) = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for name in ("deployment.yaml", "migration.yaml"):
            spec = manifest(name)["spec"]["template"]["spec"]
            security = container(name)["securityContext"]
            assert spec["securityContext"]["runAsUser"] == int(user)
            assert spec["securityContext"]["runAsNonRoot"]
            assert not spec["automountServiceAccountToken"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container(name)["resources"]["limits"]

    def test_commands_of_containers_exist(self, tmp_path):
        commands = [container(name)["args"] for name in ("deployment.yaml", "migration.yaml")]
        commands += [compose()[name]["command"] for name in ("server", "migration")]

        for words in commands:
            assert "Usage: tamatar-auth" in tamatar(*words, "--help", cwd=tmp_path).stdout

    def test_kustomize_renders_all_but_the_migration(self, tmp_path):
        rendered = yaml.safe_load_all(run(kubectl(), "kustomize", KUBERNETES, cwd=tmp_path).stdout)
        kinds = {each["kind"]: each for each in rendered}
        image = kinds["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]

        assert kinds.keys() == {
            *("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service")
        }
        assert image == container("migration.yaml")["image"]


class TestSettings:
    """Settings and secrets of the deployed server."""

    def test_deployed_variables_are_settings_and_agree(self, environment, made_secrets):
        known = {name for setting in all_settings(Settings) for name in setting.variables}
        given = [
            manifest("configmap.yaml")["data"],
            compose()["server"]["environment"],
            environment,
        ]

        assert [name for each in given for name in each if name not in known] == []
        assert environment.keys() == secrets()["tamatar-auth"]["stringData"].keys()

    @pytest.mark.parametrize("where", ["kubernetes", "compose"])
    def test_server_runs_with_deployed_settings(
        self, where, made_secrets, environment, database, tmp_path
    ):
        if where == "kubernetes":
            mounted = made_secrets / "server"
            places = {"/etc/tamatar/callers": mounted, "/etc/tamatar/tls": mounted}
            said = manifest("configmap.yaml")["data"]
        else:
            places = {"/etc/tamatar": made_secrets / "server"}
            said = {"TAMATAR_ENVIRONMENT": "production"} | compose()["server"]["environment"]
        ports = {name: free_port() for name in ("LISTEN", "HEALTH_LISTEN", "METRICS_LISTEN")}
        here = {f"TAMATAR_{name}": f"127.0.0.1:{port}" for name, port in ports.items()}
        given = settings_of(said, places) | environment | here
        given |= {"TAMATAR_DATABASE_URL": database, "TAMATAR_BCRYPT_COST": "12"}
        # Without certificate and callers, its real addresses would be refused.
        assert said["TAMATAR_LISTEN"].startswith("0.0.0.0:")

        with serving(cwd=tmp_path, **given) as server:
            assert server.addresses == [here["TAMATAR_LISTEN"]]
            until(lambda: is_served(cwd=tmp_path, **given))
            authority = grpc.ssl_channel_credentials((made_secrets / "server/tls.crt").read_bytes())
            with grpc.secure_channel(f"localhost:{ports['LISTEN']}", authority) as channel:
                grpc.channel_ready_future(channel).result(PATIENCE)
            with urllib.request.urlopen(f"http://{here['TAMATAR_METRICS_LISTEN']}/metrics") as page:
                assert b"tamatar_call_max" in page.read()

    def test_selectors_and_volumes_match_pods_and_secrets(self):
        template = manifest("deployment.yaml")["spec"]["template"]
        labels = template["metadata"]["labels"].items()
        budget = manifest("disruption-budget.yaml")["spec"]["selector"]["matchLabels"]
        policy = manifest("network-policy.yaml")["spec"]["podSelector"]["matchLabels"]
        job = manifest("migration.yaml")["spec"]["template"]["metadata"]["labels"].items()
        volumes = {volume["secret"]["secretName"] for volume in template["spec"]["volumes"]}

        for selector in (manifest("service.yaml")["spec"]["selector"], budget):
            assert selector.items() <= labels
            assert not selector.items() <= job
        assert policy.items() <= labels & job
        assert volumes | {"tamatar-auth"} == secrets().keys()
        files = {name for name in volumes for name in secrets()[name]["stringData"]}
        assert files == {"callers.toml", "tls.crt", "tls.key"}
        assert {
            value for secret in secrets().values() for value in secret["stringData"].values()
        } == {""}

    def test_documented_commands_make_secrets_of_pods(self, made_secrets):
        program, made = kubectl(), {}
        (commands,) = page_blocks("console", "On Kubernetes")
        for line in commands.splitlines():
            words = line.split()
            assert words[0] == "kubectl"
            asked = (program, *words[1:], "--dry-run=client", "--output=yaml")
            secret = yaml.safe_load(run(*asked, cwd=made_secrets.parents[1]).stdout)
            made[secret["metadata"]["name"]] = secret

        for name, template in secrets().items():
            assert made[name]["data"].keys() == template["stringData"].keys()
            assert made[name].get("type", "Opaque") == template.get("type", "Opaque")
            assert all(base64.b64decode(value) for value in made[name]["data"].values())


@pytest.fixture(scope="module")
def exported(postgres, tmp_path_factory):
    """The page of a server: the labels and values of each metric."""
    folder = tmp_path_factory.mktemp("exported")
    name = f"exported_{uuid4().hex}"
    url = postgres.create(name, TEMPLATE)
    listen = f"127.0.0.1:{free_port()}"
    metrics = {"TAMATAR_METRICS_ENABLED": "true", "TAMATAR_METRICS_LISTEN": listen}
    with serving("--dev", cwd=folder, TAMATAR_DATABASE_URL=url, **metrics) as server:
        make_calls(*server.addresses, folder)
        with urllib.request.urlopen(f"http://{listen}/metrics") as answer:
            page = answer.read().decode()
    postgres.drop(name)
    found = {"up": {}}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def make_calls(address, folder):
    """Make calls that succeed, and some that are refused."""
    run(BIN / "python", ROOT / "examples/first_calls.py", address, cwd=folder)


class TestMonitoring:
    """Queries, dashboard and alerts."""

    @pytest.mark.parametrize("where", queries())
    def test_queries_match_exported_metrics(self, where, exported):
        methods = {f"{service}/{name}" for service, rules in ACCESS_RULES.items() for name in rules}
        known = {
            "rpc_method": methods,
            "rpc_response_status_code": {code.name for code in grpc.StatusCode},
        }
        asked = list(selectors(queries()[where]))
        assert asked
        for selector in asked:
            labels = exported[selector.name]
            for matcher in selector.matchers.matchers:
                if matcher.name in OF_PROMETHEUS | {OF_FAILED_CALLS}:
                    continue
                assert matcher.name in labels, selector
                if matcher.op == promql_parser.MatchOp.Equal:
                    assert matcher.value in known.get(matcher.name, labels[matcher.name])

    @pytest.mark.parametrize("method", WATCHES)
    def test_streams_ended_by_server_count_as_no_failures(self, method):
        operators = promql_parser.MatchOp
        failed = (
            (OF_FAILED_CALLS, operators.NotEqual, ""),
            ("rpc_response_status_code", operators.Equal, "UNAVAILABLE"),
        )
        checked = []
        for where, query in queries().items():
            for selector in selectors(query):
                matchers = selector.matchers.matchers
                if any((each.name, each.op, each.value) in failed for each in matchers):
                    (of_methods,) = [each for each in matchers if each.name == "rpc_method"]
                    assert of_methods.op == operators.NotRe
                    assert re.fullmatch(of_methods.value, method), where
                    checked.append(where)

        assert checked

    def test_every_metric_is_on_dashboard(self, exported):
        shown = {
            re.sub(r"_(bucket|sum|count)$", "", selector.name)
            for where, query in queries().items()
            if where.startswith("panel ")
            for selector in selectors(query)
        }
        ours = {
            re.sub(r"_(bucket|sum|count)$", "", name)
            for name in exported
            if name.startswith(("rpc_", "db_", "tamatar_")) and not name.endswith("_created")
        }

        assert ours - shown == set()

    def test_every_alert_has_a_runbook(self):
        rules = alerts()
        assert rules
        for rule in rules:
            page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert page == f"{REPOSITORY}/blob/main/docs/operate/incidents.md"
            assert anchor in anchors(linked_file(ROOT, page).read_text()), rule["alert"]
            assert rule["labels"]["severity"] in {"page", "warn"}


class TestPatroni:
    """deploy/patroni/, which tests/cluster runs."""

    SETTINGS = yaml.safe_load((DEPLOY / "patroni/patroni.yml").read_text())["bootstrap"]["dcs"]

    def test_lock_of_leader_outlives_its_retries(self):
        """Patroni's own rule; it replaces values that break it."""
        dcs = self.SETTINGS

        assert dcs["ttl"] >= dcs["loop_wait"] + 2 * dcs["retry_timeout"]

    def test_acknowledged_writes_are_on_a_standby(self):
        names = ("synchronous_mode", "synchronous_mode_strict", "failsafe_mode")

        assert [self.SETTINGS[name] for name in names] == [True] * 3

    def test_proxy_leaves_machines_without_patroni(self):
        text = (DEPLOY / "patroni/haproxy.cfg").read_text()

        assert "option httpchk OPTIONS /primary\n" in text
        assert "on-marked-down shutdown-sessions" in text
