"""Every code block on a page is run by a test, or a list says why not."""

import os
import re
import urllib.request

import psycopg
import pytest

from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tests.support import pages
from tests.support.certificates import DAY
from tests.support.commands import BIN, ROOT, run, serving, tamatar
from tests.support.deploy_files import anchors

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in pages.PAGES}

DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))

RUN_BY = {
    "README.md": ("tests/docs/test_readme.py", {"console", "python"}),
    "docs/operate/audit.md": ("tests/security/test_audit.py", {"json"}),
    "docs/guide/cli.md": ("tests/docs/test_cli_page.py", {"console", "text"}),
    "docs/guide/second-factors.md": ("tests/docs/test_web_example.py", {"js", "python"}),
    "docs/guide/user-story.md": ("tests/docs/test_web_example.py", {"python"}),
    "docs/guide/client.md": ("tests/docs/test_client_page.py", {"python"}),
    "docs/guide/testing.md": ("tests/client/test_pytest_plugin.py", {"python"}),
    "docs/guide/web.md": ("tests/docs/test_web_page.py", {"python"}),
    "docs/operate/deploying.md": ("tests/docs/test_deploying_page.py", {"console", "text"}),
    "docs/guide/getting-started.md": ("tests/repo/test_packaging.py", {"console"}),
    "docs/guide/grpcurl.md": ("tests/docs/test_grpcurl_page.py", {"console", "text"}),
    "docs/guide/import.md": ("tests/docs/test_import_page.py", {"console", "json"}),
    "docs/operate/incidents.md": ("tests/docs/test_pages.py", {"console", "sql"}),
    "docs/operate/operations.md": (
        "tests/docs/test_operations_page.py",
        {"console", "ini", "sql", "text"},
    ),
    "docs/operate/running.md": ("tests/docs/test_pages.py", {"console"}),
    "docs/operate/telemetry.md": ("tests/docs/test_pages.py", {"console"}),
    "docs/operate/upgrading.md": ("tests/docs/test_upgrading_page.py", {"sql"}),
    "examples/go/README.md": ("tests/interop/test_languages.py", {"console"}),
    "examples/java/README.md": ("tests/interop/test_languages.py", {"console"}),
    "examples/typescript/README.md": ("tests/interop/test_languages.py", {"console"}),
    "protos/README.md": ("tests/interop/test_languages.py", {"console"}),
}
"""For each page: the test that runs its code, and the languages it covers."""

NOT_RUN = {
    ("CONTRIBUTING.md", "make setup "): "the targets that run the tests",
    ("CONTRIBUTING.md", "src/tamatar_auth/"): "a picture",
    ("CONTRIBUTING.md", "cli > workers "): "a picture; pyproject.toml has the contract",
    ("README.md", "flowchart "): "a picture",
    ("README.md", "sequenceDiagram"): "a picture",
    ("README.md", "make run "): "what it starts is started by tests/server/test_lifecycle.py",
    ("docs/operate/chaos.md", "make chaos "): "tests/chaos runs shorter ones; these take minutes",
    (
        "docs/operate/chaos.md",
        "make cluster ",
    ): "tests/cluster runs a shorter one; these take minutes",
    ("docs/operate/deploying.md", "docker build "): "tests/repo/test_packaging.py compares it",
    ("docs/operate/deploying.md", "docker compose "): "there is no Docker where the tests run",
    (
        "docs/operate/deploying.md",
        "useradd ",
    ): "needs root; test_packaging.py installs it",
    (
        "docs/operate/deploying.md",
        "cd /etc/tamatar-auth",
    ): "there is no systemd where the tests run",
    ("docs/operate/deploying.md", "patroni --validate"): "tests/cluster checks and runs the files",
    ("docs/operate/deploying.md", "kubectl delete job "): "there is no cluster where the tests run",
    ("docs/operate/deploying.md", "kubectl port-forward "): "there is no cluster here either",
    ("examples/go/README.md", "request := "): "a part of a program, with the names of the stubs",
    ("examples/java/README.md", "var request = "): "a part of a program, as in Go",
    ("examples/typescript/README.md", "const { user }"): "a part of a program, as in Go",
    ("examples/web/README.md", "make setup "): "tests/support/web_example.py runs its parts",
    ("docs/operate/operations.md", "pool_mode = "): "tests/support/pgbouncer.py writes one",
}
"""Blocks that no test runs, by page and beginning, with the reason."""


def blocks(page, language=r"\w*"):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", PAGES[page])


def excused(page, block):
    return [key for key in NOT_RUN if key[0] == page and block.startswith(key[1])]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_excused(page):
    test, languages = RUN_BY.get(page, ("", set()))
    found = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGES[page])
    left = {language for language, block in found if not excused(page, block)}

    assert left == languages, "have a test run them, and name it in RUN_BY"
    if test:
        name = page.rpartition("/")[2] if page.startswith("docs/") else page
        assert name in (ROOT / test).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_headline_leads_to_one(page):
    for link, anchor in re.findall(r"\]\(([^)\s#]*)#([^)]+)\)", PAGES[page]):
        there = pages.linked_file(ROOT / page, link) if link else ROOT / page
        assert there is None or anchor in anchors(there.read_text()), (link, anchor)


def test_every_page_of_the_site_is_listed_in_an_index():
    def listed(page):
        links = re.findall(r"\]\(([^)\s#]+)\)", page.read_text())
        return {pages.linked_file(page, link) for link in links}

    docs = ROOT / "docs"
    found = listed(docs / "index.md") | listed(docs / "decisions/index.md")

    assert set(docs.rglob("*.md")) - found == {docs / "index.md"}


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_has_number_status_and_sections(path):
    number, _ = path.stem.split("-", 1)

    title, _, status, *_ = path.read_text().splitlines()

    assert re.match(rf"# {int(number)}\. \S", title)
    assert re.match(r"Status: (accepted|replaced by \[.*), \d{4}-\d\d-\d\d$", status)
    sections = re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE)
    assert sections == ["Context", "Decision", "Consequences"]


def test_every_excuse_matches_a_block():
    used = {key for page in PAGES for block in blocks(page) for key in excused(page, block)}

    assert used == set(NOT_RUN)


@pytest.mark.parametrize("number", range(len(blocks("docs/operate/incidents.md", "sql"))))
def test_incidents_page_sql_runs(migrated_database, number):
    with psycopg.connect(migrated_database) as connection:
        for statement in blocks("docs/operate/incidents.md", "sql")[number].strip().split(";\n"):
            connection.execute(statement.encode())


def test_running_page_commands_manage_callers(tmp_path):
    (commands,) = blocks("docs/operate/running.md", "console")

    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    printed = run("sh", "-e", "-c", commands, cwd=tmp_path, PATH=path).stdout.splitlines()

    assert [line[:4] for line in printed[:2]] == ["tmc_", "tmc_"]
    assert printed[0] != printed[1]
    assert "gateway" in "".join(printed[2:])


def test_incidents_page_command_ends_leaked_token(tmp_path):
    callers = CallerFile(tmp_path / "callers.toml")
    callers.add("gateway", [Role.VALIDATOR], DAY)
    before = (tmp_path / "callers.toml").read_text()
    (command,) = blocks("docs/operate/incidents.md", "console")

    given = {"TAMATAR_CALLERS_FILE": str(tmp_path / "callers.toml")}
    tamatar(*command.split()[1:], cwd=tmp_path, **given)

    digests = re.compile(r'sha256 = "(\w+)"')
    after = digests.findall((tmp_path / "callers.toml").read_text())
    assert len(after) == 1
    assert after != digests.findall(before)


@pytest.mark.parametrize("line", blocks("docs/operate/telemetry.md", "console")[0].splitlines())
def test_telemetry_page_commands_enable_telemetry(line, migrated_database, tmp_path):
    command, _, comment = (part.strip() for part in line.partition("#"))
    given = {
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "TAMATAR_DATABASE_URL": migrated_database,
        "TAMATAR_LISTEN": "127.0.0.1:0",
        "TAMATAR_METRICS_LISTEN": "127.0.0.1:0",
    }
    named = re.sub(r"^((?:\w+=\S+ )*)", r"\1exec ", command)
    with serving(cwd=tmp_path, command=("sh", "-c", named), **given) as server:
        assert server.addresses
        if comment:
            address = server.events("telemetry")[0]["metrics_address"]
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                assert b"tamatar_call_max" in answer.read()
