"""docs/operate/deploying.md: its commands lead to a service that answers, and to a first user."""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.calls import PASSWORD
from tests.support.commands import BIN, find_grpcurl, run, serving, tamatar
from tests.support.deploy_files import (
    DEPLOY,
    compose,
    make_secrets,
    page_blocks,
    read_unit,
    read_variables,
    settings_of,
)

AT_TERMINAL = (
    sys.executable,
    "-c",
    """
import os, pty, sys

def read(terminal):
    global line
    printed = os.read(terminal, 1024)
    line = (line + printed).rpartition(b"\\n")[2]
    if line.endswith(b": "):
        os.write(terminal, f"{sys.argv[2]}\\n".encode())
    return printed

line = b""
sys.exit(os.waitstatus_to_exitcode(pty.spawn(["sh", "-e", "-c", sys.argv[1]], read)))
""",
)
"""Runs commands at a terminal, and types the same text at each prompt."""


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder in which the page is followed, with its secrets."""
    folder = tmp_path_factory.mktemp("followed")
    make_secrets(folder)
    return folder


def here(given, database):
    """Return settings of a deployed server for this machine."""
    given = given | {"TAMATAR_DATABASE_URL": database, "TAMATAR_BCRYPT_COST": "12"}
    return given | {name: "127.0.0.1:0" for name in given if name.endswith("LISTEN")}


@contextlib.contextmanager
def composed(folder, database):
    """Migrate and serve as the containers of the compose file do; yield the port."""
    places = {"/etc/tamatar": folder / "deploy/secrets/server"}
    given = {"TAMATAR_ENVIRONMENT": "production"} | compose()["server"]["environment"]
    given = settings_of(given, places) | read_variables(folder / "deploy/secrets/tamatar.env")
    given = here(given, database)
    tamatar(*compose()["migration"]["command"], cwd=folder, **given)
    with serving(cwd=folder, **given) as server:
        yield server.addresses[0].rpartition(":")[2]


def test_deploying_page_leads_to_first_user(followed, empty_database):
    health, calls = page_blocks("console", "The first user")
    (answer,) = page_blocks("text", "The first user")
    path = os.pathsep.join([str(BIN), str(Path(find_grpcurl()).parent), os.environ["PATH"]])
    given = {"PATH": path, "HOME": str(followed)}

    with composed(followed, empty_database) as port:

        def follow(block):
            commands = block.replace("localhost:50051", f"localhost:{port}")
            return run(*AT_TERMINAL, commands, PASSWORD, cwd=followed, **given).stdout

        checked, done = (follow(block).replace("\r", "") for block in (health, calls))

    assert checked == answer
    assert "ada@example.com" in done


def test_deploying_page_installs_what_unit_reads(followed, migrated_database, tmp_path):
    (commands,) = page_blocks("console", "With systemd")
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    commands = commands.replace("/etc/", f"{tmp_path}/etc/").replace("-g tamatar-auth ", "")
    shutil.copytree(DEPLOY / "systemd", followed / "deploy/systemd")
    run("sh", "-e", "-c", commands, cwd=followed)
    installed = tmp_path / "etc/tamatar-auth"
    unit = read_unit((tmp_path / "etc/systemd/system/tamatar-auth.service").read_text())
    (credential,) = unit["LoadCredential"]

    assert unit["WorkingDirectory"] == ["/etc/tamatar-auth"]
    assert credential == "password-keys:/etc/tamatar-auth/password-keys"
    given = settings_of(read_variables(installed / ".env"), {"/etc": tmp_path / "etc"})
    given |= dict(line.split("=", 1) for line in unit["Environment"])
    given |= settings_of(given, {"%d": installed})
    with serving(
        cwd=tmp_path, TAMATAR_PASSWORD_KEYS="", **here(given, migrated_database)
    ) as server:
        assert server.addresses
