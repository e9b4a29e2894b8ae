"""README.md and the other pages: their code runs, and every name on them exists."""

import re
import shlex
import signal
import socket
import subprocess
import sys
from collections import Counter

import grpc
import pytest
import typer.main
from grpc_health.v1 import health_pb2

from tamatar.auth.v1 import (
    diagnostics_service_pb2,
    factor_service_pb2,
    session_service_pb2,
    user_service_pb2,
)
from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest
from tamatar_auth.cli.app import app
from tamatar_auth.cli.lazy import LazyCommand
from tamatar_auth.client import connect
from tamatar_auth.config.groups import all_settings
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import OTHER_VARIABLES, REMOVED_VARIABLES
from tests.support.commands import (
    ROOT,
    SAMPLE_PASSWORD,
    environment,
    find_grpcurl,
    find_pyright,
    interruptible,
    run,
    sample_server,
)
from tests.support.pages import PAGES, linked_file
from tests.support.waiting import PATIENCE

ADDRESS = "127.0.0.1:50051"
OWN_ADDRESS = "127.0.0.1:50060"
SITE = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
README = PAGES[0].read_text()
SECURITY = (ROOT / "docs/operate/security.md").read_text()
TEXT = "\n".join(page.read_text() for page in PAGES)

OTHER_PROGRAMS = (
    r"\./run",
    r"CODE=\$\(oathtool",
    r"app\.py",
    "buf",
    "docker",
    "echo",
    "gunicorn",
    "kubectl",
    "patroni",
    r"\S*pip",
    "protoc",
    "systemctl",
    "useradd",
    "uvicorn",
)
"""Programs of others, whose options a page may name."""

SERVICES = {
    service.name: {method.name for method in service.methods}
    for file in (
        user_service_pb2.DESCRIPTOR,
        session_service_pb2.DESCRIPTOR,
        factor_service_pb2.DESCRIPTOR,
        diagnostics_service_pb2.DESCRIPTOR,
        health_pb2.DESCRIPTOR,
    )
    for service in file.services_by_name.values()
}


@pytest.fixture(scope="module")
def address(postgres, tmp_path_factory):
    with sample_server(postgres, tmp_path_factory.mktemp("server")) as address:
        yield address


def blocks(language):
    """Return the code of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def lines_of(program):
    """Return the README's commands that start a program, each in one line."""
    code = "".join(blocks("console")).replace("\\\n", " ")
    return [line for line in code.splitlines() if line.split()[:1] == [program]]


def rows(first_header):
    """Return the rows of the first table whose first header is this, without the header."""
    table = re.search(rf"^\| {first_header} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]


def leaves(command, words=()):
    """Return the commands below a command, by the words that call them."""
    if not hasattr(command, "commands"):
        return {words: command}
    names = command.list_commands(None)
    found = {name: command.commands[name] for name in names}
    below = {
        name: each.load(name) if isinstance(each, LazyCommand) else each
        for name, each in found.items()
    }
    return {
        key: leaf
        for name, each in below.items()
        if not each.hidden
        for key, leaf in leaves(each, (*words, name)).items()
    }


COMMANDS = leaves(typer.main.get_command(app))
OPTIONS = {
    option
    for command in (typer.main.get_command(app), *COMMANDS.values())
    for each in command.params
    for option in (*each.opts, *each.secondary_opts)
}


class TestExamples:
    """Code of the README, which runs."""

    def test_readme_python_example_prints_user(self, address, wheel_environment, tmp_path):
        code, _ = blocks("python")
        assert ADDRESS in code
        example = tmp_path / "example.py"
        example.write_text(code.replace(ADDRESS, address))

        python = wheel_environment / "bin/python"
        printed = run(python, "-W", "error", example, cwd=tmp_path).stdout

        assert re.fullmatch(r"test1@example\.com \d{4}-\d\d-\d\d [\d:.]+\n", printed)

    def test_readme_guarded_service_greets_user_until_ctrl_c(
        self, address, wheel_environment, tmp_path
    ):
        _, code = blocks("python")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            mine = f"127.0.0.1:{probe.getsockname()[1]}"
        assert OWN_ADDRESS in code
        example = tmp_path / "example.py"
        example.write_text(code.replace(ADDRESS, address).replace(OWN_ADDRESS, mine))
        with connect(address) as auth:
            who = CreateSessionRequest(email="test1@example.com", password=SAMPLE_PASSWORD)
            token = auth.sessions.CreateSession(who).session_token

        said = tmp_path / "said"
        with said.open("wb") as output:
            command = interruptible(example, python=wheel_environment / "bin/python")
            server = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
        try:
            with grpc.insecure_channel(mine) as channel:
                grpc.channel_ready_future(channel).result(PATIENCE)
                hello = channel.unary_unary("/shop.v1.Shop/Hello")
                bearer = (("authorization", f"Bearer {token}"),)
                assert hello(b"", metadata=bearer, timeout=PATIENCE) == b"Hello, Test User1!"
                with pytest.raises(grpc.RpcError) as refused:
                    hello(b"", timeout=PATIENCE)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            server.send_signal(signal.SIGINT)
            assert (server.wait(PATIENCE), said.read_text()) == (0, "")
        finally:
            server.kill()
            server.wait()

    @pytest.mark.parametrize("checker", ["mypy", "pyright"])
    def test_readme_python_examples_pass_type_checkers(self, checker, wheel_environment, tmp_path):
        for number, code in enumerate(blocks("python")):
            (tmp_path / f"example_{number}.py").write_text(code)
        python = wheel_environment / "bin/python"

        if checker == "mypy":
            mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python)
            run(*mypy, ".", cwd=tmp_path)
        else:
            (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
            run(find_pyright(), "--pythonpath", python, cwd=tmp_path)

    @pytest.mark.parametrize(
        ("example", "file"),
        [
            ("go", "main.go"),
            ("java", "src/main/java/example/Validate.java"),
            ("typescript", "validate.ts"),
        ],
    )
    def test_names_of_other_languages_are_those_that_run(self, example, file):
        code = (ROOT / "examples" / example / file).read_text()
        (row,) = (row for row in rows("Client") if f"/examples/{example})" in row[0])

        named = re.findall(r"`([\w.\-]+)", " ".join(row))
        assert named
        assert [name for name in named if name not in code] == []

    def test_readme_grpcurl_calls_succeed(self, address, tmp_path):
        program = find_grpcurl()
        calls = [shlex.split(line.replace(ADDRESS, address)) for line in lines_of("grpcurl")]
        assert calls

        said = "".join(run(program, *call[1:], cwd=tmp_path).stdout for call in calls)

        assert "tamatar.auth.v1.SessionService" in said
        assert "tms_" in said


class TestNames:
    """Commands, options, settings and tests that pages name."""

    def test_readme_calls_are_those_of_protos(self):
        said = {name.strip("`").rpartition(".")[2]: calls for name, calls in rows("Service")}
        del said["reflection"]

        assert {
            name: set(calls.partition(":")[0].split(", ")) for name, calls in said.items()
        } == SERVICES

    def test_commands_on_pages_exist_and_all_are_named(self):
        spans = re.findall(r"`([^`\n]+)`", TEXT) + lines_of("tamatar-auth")
        named = {
            tuple(
                word for word in span.split("tamatar-auth ")[1].split() if re.match(r"[a-z]", word)
            )
            for span in spans
            if "tamatar-auth " in span
        }
        for words in named:
            assert any(words[: len(known)] == known for known in COMMANDS), words

        ends = {tuple(span.split()[-n:]) for span in spans for n in (1, 2)}
        for words in COMMANDS:
            assert words in ends or words[-1:] in ends, words

    def test_options_on_pages_exist(self):
        pages = (page for page in PAGES if not page.match("docs/decisions/*"))
        text = "\n".join(page.read_text() for page in pages if page.name != "comparison.md")
        ours = re.sub(
            rf"(?:^|`)(?:{'|'.join(OTHER_PROGRAMS)}) [^`\n]*", "", text, flags=re.MULTILINE
        )
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ours))

        assert named
        assert named <= OPTIONS

    def test_make_targets_on_pages_exist(self):
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE))

        assert targets is not None
        assert {"run", "test", "check"} <= named
        assert named <= set(targets[1].split())

    def test_settings_on_pages_exist(self):
        known = {variable for setting in all_settings(Settings) for variable in setting.variables}
        known |= OTHER_VARIABLES | REMOVED_VARIABLES.keys()  # the changelog names these
        named = set(re.findall(r"\bTAMATAR_[A-Z_]+\b", TEXT))

        assert {row[0].strip("`") for row in rows("Variable")} <= named <= known

    def test_tests_and_files_on_pages_exist(self):
        code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
        known = set(re.findall(r"^ *(?:async )?def (test_\w+)", code, re.MULTILINE))
        named = re.findall(r"`((?:tests/|test_)[^`]*)`", TEXT)

        assert named
        assert not [name for name in named if name not in known and not (ROOT / name).exists()]


class TestLinks:
    """Links and references of pages."""

    def test_security_requirements_are_listed_once(self):
        rows = re.findall(r"^\| ([\d., *]+) \|", SECURITY, re.MULTILINE)
        numbers = Counter(number for row in rows for number in re.findall(r"[\d.]+", row))

        assert numbers
        assert numbers.most_common(1)[0][1] == 1

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
    def test_every_link_on_a_page_leads_to_a_file(self, page):
        links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text())
        targets = [target for link in links if (target := linked_file(page, link))]

        assert [target for target in targets if not target.exists()] == []

    def test_readme_links_are_absolute(self):
        links = re.findall(r"\]\(([^)\s]+)\)", README)

        assert [link for link in links if not link.startswith("https://")] == []

    @pytest.mark.parametrize("page", SITE, ids=lambda page: page.relative_to(ROOT).as_posix())
    def test_site_pages_link_to_other_files_by_repository(self, page):
        links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text())
        own = [linked_file(page, link) for link in links if not link.startswith("https:")]

        assert [target for target in own if not target.is_relative_to(ROOT / "docs")] == []
