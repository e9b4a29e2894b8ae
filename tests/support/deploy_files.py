"""The files in deploy/, read as their users read them."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from tests.support.commands import BIN, ROOT, run

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
PAGE = (ROOT / "docs/operate/deploying.md").read_text()


def page_blocks(language: str, title: str) -> list[str]:
    """Return the blocks of code in a section of the page about deploying."""
    section = re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def make_secrets(folder: Path) -> Path:
    """Run the commands of the page that make secrets; return the folder of secrets."""
    (commands,) = page_blocks("console", "Secrets")
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    run("sh", "-e", "-c", commands, cwd=folder, PATH=path)
    return folder / "deploy/secrets"


def read_variables(file: Path) -> dict[str, str]:
    """Return the variables in a file of settings."""
    lines = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def read_unit(text: str) -> dict[str, list[str]]:
    """Return the values of each name in a unit of systemd."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def manifest(name: str) -> Any:
    """Return the manifest in a file."""
    return yaml.safe_load((KUBERNETES / name).read_text())


def secrets() -> Mapping[str, Any]:
    """Return the templates of secrets by name."""
    every = yaml.safe_load_all((KUBERNETES / "secrets.example.yaml").read_text())
    return {secret["metadata"]["name"]: secret for secret in every}


def container(name: str) -> Any:
    """Return the one container of a Deployment or a Job."""
    (only,) = manifest(name)["spec"]["template"]["spec"]["containers"]
    return only


def compose() -> Any:
    """Return the services of the compose file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def alerts() -> list[Any]:
    """Return the alert rules."""
    (group,) = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    rules: list[Any] = group["rules"]
    return rules


def dashboard() -> Any:
    """Return the dashboard."""
    return json.loads((DEPLOY / "grafana/dashboard.json").read_text())


def panels() -> list[Any]:
    """Return the panels of the dashboard, without its rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Return every PromQL query of dashboard and alerts by its place, as Prometheus gets it."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in alerts()}
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "5m").replace("$job", "tamatar-auth")
            found[f"panel {panel['title']} {target['refId']}"] = re.sub(r"\$\w+", ".*", text)
    return found


def selectors(query: str) -> Iterator[Any]:
    """Yield the selectors of series in a query; fail on a query that Prometheus would refuse."""
    found = []

    def look(part: Any) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            found.append(part.vector_selector)
        elif isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(query), look)
    yield from found


def settings_of(environment: Mapping[str, str], places: Mapping[str, Path]) -> dict[str, str]:
    """Return the variables of a container, with mounted folders replaced by other places."""
    moved = {}
    for name, value in environment.items():
        for mounted, place in places.items():
            value = value.replace(mounted, str(place))  # noqa: PLW2901 - one folder after another
        moved[name] = value
    return moved


def anchors(page: str) -> set[str]:
    """Return the headlines of a page as links name them."""
    headlines = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headlines}
