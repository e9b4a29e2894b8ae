"""docs/guide/grpcurl.md: every command works, and prints the text below it."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from tamatar_auth.security.authorization import ACCESS_RULES
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tests.support.certificates import DAY, Authority
from tests.support.commands import (
    BIN,
    ROOT,
    environment,
    find_grpcurl,
    missing_tool,
    serving,
)
from tests.support.databases import TEMPLATE
from tests.support.waiting import PATIENCE

PAGE = (ROOT / "docs/guide/grpcurl.md").read_text()
BLOCKS = re.findall(r"(?ms)^## (.*?)$|^```console\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", PAGE)


def examples():
    """Yield every block of commands, with its headline and its output."""
    title = ""
    for headline, commands, printed in BLOCKS:
        title = headline or title
        if commands:
            yield pytest.param(title, commands, printed, id=f"{title}: {commands[:60].strip()}")


@pytest.fixture(scope="module")
def guarded(postgres, tmp_path_factory):
    """A folder with the credentials of callers of a guarded server, and their tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority.make()
    (folder / "ca.pem").write_bytes(authority.root.pem)
    authority.sign("localhost").write(folder)
    authority.sign("gateway.test").write(folder, "gateway")
    callers = CallerFile(file := folder / "callers.toml")
    gateway = callers.add("gateway", [Role.VALIDATOR], DAY, dns_names=["gateway.test"])
    tokens = {
        "TOKEN": gateway.text,
        "ADMIN_TOKEN": callers.add("operator", [Role.ADMIN], DAY).text,
    }
    database = f"grpcurl_{uuid4().hex}"  # a worker each
    url = postgres.create(database, TEMPLATE)
    settings = {
        "TAMATAR_DATABASE_URL": url,
        "TAMATAR_CALLERS_FILE": str(file),
        "TAMATAR_TLS_CERTIFICATE_FILE": str(folder / "server.pem"),
        "TAMATAR_TLS_KEY_FILE": str(folder / "server.key"),
    }
    yield folder, settings, tokens
    postgres.drop(database)


@pytest.fixture(scope="module")
def encrypted(guarded):
    folder, settings, tokens = guarded
    with serving(cwd=folder, **settings) as server:
        yield folder, server.addresses[0], tokens


@pytest.fixture(scope="module")
def mutual(guarded):
    folder, settings, _ = guarded
    with serving(
        cwd=folder, **settings, TAMATAR_TLS_CLIENT_CA_FILE=str(folder / "ca.pem")
    ) as server:
        yield folder, server.addresses[0], {}


@pytest.mark.parametrize(("title", "commands", "printed"), list(examples()))
def test_grpcurl_page_command_prints_as_shown(title, commands, printed, request, tmp_path):
    program = find_grpcurl()
    if "oathtool" in commands and shutil.which("oathtool") is None:
        missing_tool("oathtool is missing: .ci/run installs it")
    if "TLS" in title:
        wanted = "mutual" if "certificate" in title else "encrypted"
        folder, address, variables = request.getfixturevalue(wanted)
        there = commands.replace("auth.example.com:50051", f"localhost:{address.split(':')[1]}")
    else:
        folder, address, variables = tmp_path, request.getfixturevalue("sample_address"), {}
        there = commands.replace("127.0.0.1:50051", address)
    assert there != commands
    path = os.pathsep.join([str(Path(program).parent), str(BIN), os.environ["PATH"]])

    ended = subprocess.run(
        ["sh", "-e", "-c", there],
        cwd=folder,
        env=environment(variables | {"PATH": path}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    if printed:
        assert ended.stdout.rstrip("\n") == printed.rstrip("\n")
        assert ended.returncode != 0
    else:
        assert ended.returncode == 0, ended.stdout
        assert ended.stdout.strip()


def test_grpcurl_page_calls_every_service():
    for service in ACCESS_RULES:
        if "Reflection" not in service:
            assert f"{service}/" in PAGE
