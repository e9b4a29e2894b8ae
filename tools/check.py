"""Run the checks, print the result of each, and the output of those that fail.

python tools/check.py            all checks
python tools/check.py buf mypy   the checks whose names contain one of these words
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
PROTOC_PYTHON = ROOT / ".venv-proto/bin/python"
OLDEST_PYTHON = ROOT / ".venv-oldest/bin/python"
BUF_CONFIG = ("--config", "protos/buf.yaml")


class Outcome(NamedTuple):
    """The result of a check."""

    name: str
    passed: bool
    seconds: float
    output: str


def main(words: list[str]) -> int:
    """Run the checks whose names contain one of the words, or all; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "protos.binpb")
        compiled = run("protos compile", compilation(image))
        chosen = {
            name: command
            for name, command in checks(image).items()
            if not words or any(word in name for word in words)
        }
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            outcomes = threads.map(run, chosen.keys(), chosen.values())
            passed = [print_outcome(outcome) for outcome in chain([compiled], outcomes)]
    return 0 if all(passed) else 1


def compilation(image: Path) -> list[str | Path]:
    """Return the command that compiles the protos to the image for the other checks."""
    return [PROTOC_PYTHON, "tools/protos.py", "image", "--comments", image]


def checks(image: Path) -> dict[str, list[str | Path]]:
    """Return the command of each check by name."""
    buf, hadolint, ruff = TOOLS / "buf", TOOLS / "hadolint", TOOLS / "ruff"
    folder = shlex.quote(str(image.parent))
    tamatar = shlex.quote(str(TOOLS / "tamatar-auth"))
    return {
        "ruff check": [ruff, "check", "--no-fix", "--output-format=concise", "."],
        "ruff format": [ruff, "format", "--check", "."],
        "import-linter": [TOOLS / "lint-imports", "--no-logo"],
        # The image contains the imports too, and those are not linted.
        "buf lint": [buf, "lint", image, *BUF_CONFIG, "--path", "tamatar"],
        "buf format": [buf, "format", "--diff", "--exit-code", "protos"],
        "buf breaking": [
            *(buf, "breaking", image, *BUF_CONFIG, "--exclude-imports"),
            *("--against", "protos/released.binpb"),
        ],
        "generated code": [PROTOC_PYTHON, "tools/protos.py", "check"],
        "docs/reference/api.md": [
            *(sys.executable, "-m", "tools.api_docs", "check", "--image", image),
        ],
        "generated code with the oldest grpcio and protobuf": [
            *("env", "PYTHONPATH=generated", OLDEST_PYTHON, "-B", "-c"),
            f"import {', '.join(sorted(generated_modules()))}",
        ],
        "client with its oldest dependencies alone": [
            *("env", "PYTHONPATH=src:generated", OLDEST_PYTHON, "-B", "-c"),
            f"import {', '.join(sorted(client_modules()))}",
        ],
        "hadolint": [hadolint, "Dockerfile"],
        "yamllint": [TOOLS / "yamllint", "--strict", "--config-file", ".yamllint.yaml", "deploy"],
        "compose schema": [
            *(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
            "deploy/compose.yaml",
        ],
        # The oldest version with gRPC probes, and a new one.
        "Kubernetes 1.27 manifests": manifests("1.27"),
        "Kubernetes 1.37 manifests": manifests("1.37"),
        # In a folder of its own, because checks run in parallel.
        "docs site": [
            *("env", "NO_MKDOCS_2_WARNING=1", TOOLS / "mkdocs", "build", "--quiet", "--strict"),
            *("--site-dir", image.with_name("site")),
        ],
        "mypy": [sys.executable, "-m", "mypy"],
        "migrations block no traffic": [sys.executable, "tools/migrations.py"],
        # On an embedded PostgreSQL, whatever database the environment or .env names.
        "migrations match the tables": [
            *("env", "TAMATAR_ENVIRONMENT=development", "TAMATAR_DATABASE_URL=", "DATABASE_URL="),
            *("sh", "-c", f"cd {folder} && {tamatar} migrate up && {tamatar} migrate check"),
        ],
    }


def generated_modules() -> Iterable[str]:
    """Return the dotted names of the modules in generated/."""
    return modules(ROOT / "generated", ROOT / "generated")


def client_modules() -> Iterable[str]:
    """Return the dotted names of the modules of the client, without those for a framework."""
    for module in modules(ROOT / "src/tamatar_auth/client", ROOT / "src"):
        if module.rpartition(".")[2] not in {"django", "fastapi"}:
            yield module


def modules(folder: Path, root: Path) -> Iterable[str]:
    """Return the dotted names of the modules in a folder, relative to a root on the path."""
    for module in folder.rglob("*.py"):
        yield ".".join(module.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def manifests(version: str) -> list[str | Path]:
    """Return the command that checks the manifests with the schemas of a Kubernetes version."""
    # The kustomization has no schema: only kubectl reads it.
    files = [p for p in (ROOT / "deploy/kubernetes").glob("*.yaml") if p.stem != "kustomization"]
    options = ("--strict", "--quiet", "--kubernetes-version", version)
    return [TOOLS / "kubernetes-validate", *options, *files]


def run(name: str, command: list[str | Path]) -> Outcome:
    """Run a check in the top folder of the project."""
    started = time.monotonic()
    try:
        process = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        return Outcome(name, passed=False, seconds=0, output=f"{error}\n")
    return Outcome(name, process.returncode == 0, time.monotonic() - started, process.stdout)


def print_outcome(outcome: Outcome) -> bool:
    """Print the result of a check, and return whether it passed."""
    word = "ok" if outcome.passed else "FAILED"
    print(f"{word:<6}  {outcome.name} ({outcome.seconds:.1f} s)", flush=True)
    if not outcome.passed:
        print(outcome.output, flush=True)
    return outcome.passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
