"""Programs of Prometheus: the server, and promtool."""

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.commands import missing_tool
from tests.support.waiting import PATIENCE, until


def find_program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`, or skip or fail the test."""
    return shutil.which(name) or missing_tool(f"{name} is missing: .ci/run installs prometheus")


def free_address() -> str:
    """Return an address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Prometheus:
    """A running Prometheus."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API; raise for an error."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://{self.address}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """Return the values of a query that are numbers."""
        found = [float(each["value"][1]) for each in self.get("query", query=query)["result"]]
        return [value for value in found if value == value]  # noqa: PLR0124 - NaN differs from itself

    def fired(self) -> set[str]:
        """Return the names of the alerts that have fired."""
        query = 'max_over_time(ALERTS{alertstate="firing"}[1h])'
        found = self.get("query", query=query)["result"]
        return {each["metric"]["alertname"] for each in found}

    def is_ready(self) -> bool:
        """Return whether it answers queries."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=PATIENCE) as page:
                return bool(page.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def running(folder: Path, configuration: dict[str, Any]) -> Iterator[Prometheus]:
    """Run a Prometheus with a configuration while the block runs."""
    program = find_program("prometheus")
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = free_address()
    options = {"config.file": "prometheus.yaml", "web.listen-address": address}
    options["storage.tsdb.path"] = "data"
    command = [program, *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(address)
        until(lambda: process.poll() is not None or prometheus.is_ready())
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield prometheus
    finally:
        process.terminate()
        process.wait(PATIENCE)
