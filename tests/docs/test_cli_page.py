"""docs/guide/cli.md: the commands on the page work, and errors print as the page shows."""

import os
import re

import pytest

from tamatar_auth.cli.remote.contexts import CONTEXTS
from tamatar_auth.cli.remote.factors import FACTORS
from tamatar_auth.cli.remote.sessions import SESSIONS
from tamatar_auth.cli.remote.users import USERS
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tests.support.certificates import DAY, Authority
from tests.support.commands import BIN, ROOT, run, serving
from tests.support.databases import TEMPLATE

PAGE = (ROOT / "docs/guide/cli.md").read_text()
(COMMANDS,) = re.findall(r"(?ms)^```console\n(.*?)^```$", PAGE)
(REFUSAL,) = re.findall(r"(?ms)^```text\n(.*?)^```$", PAGE)
(PIPE,) = re.findall(r"`(tamatar-auth [^`]* xargs [^`]*)`", PAGE)
LISTINGS = {
    "user": USERS,
    "session": SESSIONS,
    "user factors": FACTORS,
    "context": CONTEXTS,
}
ADDRESS = "auth.example.com:50051"


def test_cli_page_lists_columns_in_order_of_importance():
    rows = re.findall(r"(?m)^\| `([\w ]+) list` \| (.*) \| (.*) \|$", PAGE)

    assert rows == [
        (name, ", ".join(headers), ", ".join(headers[: listing.kept]))
        for name, listing in LISTINGS.items()
        for headers in [list(listing.columns.values())]
    ]


@pytest.fixture
def encrypted(postgres, tmp_path):
    """The address of a server with TLS, for a user with the files of the page."""
    authority = Authority.make()
    (tmp_path / "ca.pem").write_bytes(authority.root.pem)
    certificate, key = authority.sign("localhost").write(tmp_path)
    callers = CallerFile(tmp_path / "callers.toml")
    token = callers.add("operator", [Role.ACCOUNTS], DAY)
    (tmp_path / ".tamatar-token").write_text(f"{token.text}\n")
    name = f"cli_page_{os.getpid()}"
    settings = {
        "TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE),
        "TAMATAR_CALLERS_FILE": str(tmp_path / "callers.toml"),
        "TAMATAR_TLS_CERTIFICATE_FILE": str(certificate),
        "TAMATAR_TLS_KEY_FILE": str(key),
    }
    with serving(cwd=tmp_path, **settings) as server:
        yield f"localhost:{server.addresses[0].rpartition(':')[2]}"
    postgres.drop(name)


def test_cli_page_commands_work_and_refusal_prints_as_shown(encrypted, tmp_path):
    assert ADDRESS in COMMANDS
    given = {"HOME": str(tmp_path), "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}

    def ask(commands, code=0):
        return run("sh", "-e", "-c", commands, cwd=tmp_path, code=code, **given)

    said = ask(COMMANDS.replace(ADDRESS, encrypted))
    ada = ask("tamatar-auth user create ada@example.com -o name").stdout
    ask("tamatar-auth user deactivate ada@example.com --yes")
    piped = ask(PIPE.replace("\\|", "|")).stdout
    refused = ask("tamatar-auth user create ada@example.com --username ab", code=1)

    listed, users = said.stdout.splitlines()[1], said.stdout.splitlines()[2:]
    assert listed.split() == ["production", encrypted, "yes", "a", "token"]
    assert len(users) == 1, "the headers of a table without users"
    assert f"production is {encrypted}" in said.stderr
    assert ["user_id", ada.strip()] in [line.split() for line in piped.splitlines()]
    assert refused.stderr == REFUSAL
