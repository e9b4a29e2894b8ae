"""The clients in Go and TypeScript: stubs generated as protos/README.md says, built, and run."""

import os
import re
import shutil
from pathlib import Path

import grpc
import pytest

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tests.interop.story import PASSWORD
from tests.support.commands import BIN, ROOT, missing_tool, run

PAGE = (ROOT / "protos/README.md").read_text()
PROTOSET, FOR_GO, FOR_TYPESCRIPT = re.findall(r"(?ms)^```console\n(.*?)^```$", PAGE)

PATIENCE = 300
"""Seconds that a compiler with an empty cache may take."""


@pytest.fixture
def token(sample_address):
    """The token of a session of a sample user."""
    with grpc.insecure_channel(sample_address) as channel:
        who = CreateSessionRequest(email="test1@example.com", password=PASSWORD)
        yield SessionServiceStub(channel).CreateSession(who, timeout=30).session_token


def generated(name, folder, command):
    """Copy an example, and generate its stubs with the commands of the page."""
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    example = folder / name
    left = shutil.ignore_patterns("gen", "build", "node_modules", "auth.binpb")
    shutil.copytree(ROOT / "examples" / name, example, ignore=left)
    modules = ROOT / "examples" / name / "node_modules"
    if modules.exists():
        (example / "node_modules").symlink_to(modules)
    assert command in f"{(example / 'buf.gen.yaml').read_text().splitlines()[0][2:]}\n"
    offline = {"PATH": path, "GOPROXY": "off", "BUF_CACHE_DIR": str(folder)}
    for line in (PROTOSET, command):
        run("sh", "-c", line, cwd=example, patience=PATIENCE, **offline)
    return example


@pytest.mark.timeout(PATIENCE)
def test_go_client_builds_and_validates_session(sample_address, token, tmp_path):
    go = shutil.which("go") or pytest.skip("go is missing: its client is not run")
    modules = run(go, "env", "GOMODCACHE", cwd=tmp_path).stdout.strip()
    if not Path(modules, "google.golang.org").is_dir():
        missing_tool("the modules of examples/go are missing: .ci/run downloads them")

    example = generated("go", tmp_path, FOR_GO)
    offline = {"GOPROXY": "off", "GOFLAGS": "-mod=readonly"}
    assert run(go, "fmt", "main.go", cwd=example).stdout == ""
    run(go, "build", "-o", "client", ".", cwd=example, patience=PATIENCE, **offline)

    assert (
        run(example / "client", sample_address, token, cwd=example).stdout == "test1@example.com\n"
    )
    refused = run(example / "client", sample_address, "tms_unknown", cwd=example).stdout
    assert refused == "Unauthenticated SESSION_UNKNOWN\n"


@pytest.mark.timeout(PATIENCE)
def test_typescript_client_builds_and_validates_session(sample_address, token, tmp_path):
    node = shutil.which("node") or pytest.skip("node is missing: its client is not run")
    if not (ROOT / "examples/typescript/node_modules").is_dir():
        missing_tool("the packages of examples/typescript are missing: .ci/run installs them")

    example = generated("typescript", tmp_path, FOR_TYPESCRIPT)
    run(example / "node_modules/.bin/tsc", cwd=example, patience=PATIENCE)

    def validate(secret):
        return run(
            node, "build/validate.js", f"http://{sample_address}", secret, cwd=example
        ).stdout

    assert validate(token) == "test1@example.com\n"
    assert validate("tms_unknown") == "Unauthenticated SESSION_UNKNOWN\n"


def test_lock_files_name_no_registry():
    lock = (ROOT / "examples/typescript/package-lock.json").read_text()

    assert '"resolved"' not in lock
    assert '"integrity"' in lock
