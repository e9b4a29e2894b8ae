"""Imports and exports ask the service first, and write files only after that."""

import os

import pytest

from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tests.support.certificates import DAY
from tests.support.commands import serving, tamatar
from tests.support.databases import TEMPLATE

BAD_HEADER = "mail\nx@example.com\n"


@pytest.fixture(scope="module")
def guarded(postgres, tmp_path_factory):
    """The address of a server with callers, and the file of a caller's token by role."""
    folder = tmp_path_factory.mktemp("guarded")
    callers = CallerFile(folder / "callers.toml")
    tokens = {role: folder / role for role in (Role.ACCOUNTS, Role.ADMIN)}
    for role, file in tokens.items():
        file.write_text(callers.add(role, [role], DAY).text)
    name = f"order_{os.getpid()}"
    given = {
        "TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE),
        "TAMATAR_CALLERS_FILE": str(folder / "callers.toml"),
    }
    with serving(cwd=folder, **given) as server:
        yield server.addresses[0], tokens
    postgres.drop(name)


@pytest.fixture
def import_as(tmp_path, guarded):
    """Return a function that imports a file as a caller with a role, or without a token."""
    address, tokens = guarded

    def run(role, text, *options, code, entered=""):
        (tmp_path / "users.csv").write_text(text)
        token = f'token_file = "{tokens[role]}"\n' if role else ""
        (tmp_path / "contexts.toml").write_text(f'[contexts.local]\naddress = "{address}"\n{token}')
        env = {"TAMATAR_CONTEXTS_FILE": str(tmp_path / "contexts.toml")}
        file = "-" if entered else "users.csv"
        ended = tamatar("import", file, *options, cwd=tmp_path, code=code, entered=entered, **env)
        return ended.stderr

    return run


@pytest.mark.parametrize(
    ("role", "reason"), [(None, "CALLER_UNKNOWN"), (Role.ACCOUNTS, "CALLER_NOT_ALLOWED")]
)
def test_import_by_refused_caller_reads_no_file(import_as, tmp_path, role, reason):
    said = import_as(role, BAD_HEADER, code=5)
    piped = import_as(role, "", "--format", "csv", "--report", "r", code=5, entered=BAD_HEADER)

    for text in (said, piped):
        assert f"({reason})" in text
        assert len(text.splitlines()) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["contexts.toml", "users.csv"]


def test_export_by_refused_caller_replaces_no_file(import_as, tmp_path):
    before = "email\nada@example.com\n"
    import_as(Role.ACCOUNTS, before, code=5)
    env = {"TAMATAR_CONTEXTS_FILE": str(tmp_path / "contexts.toml")}

    replaced = tamatar("export", "users.csv", "--force", cwd=tmp_path, code=5, **env)
    created = tamatar("export", "new.csv", cwd=tmp_path, code=5, **env)

    for said in (replaced.stderr, created.stderr):
        assert "(CALLER_NOT_ALLOWED)" in said
        assert "users, the last one" not in said
    assert (tmp_path / "users.csv").read_text() == before
    assert not (tmp_path / "new.csv").exists()


def test_import_with_invalid_header_writes_no_report(import_as, tmp_path):
    said = import_as(Role.ADMIN, BAD_HEADER, code=2)

    assert said.startswith("The first line must name the column email")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "users.csv.report.jsonl").exists()


def test_import_with_invalid_header_keeps_earlier_report(import_as, tmp_path):
    report = tmp_path / "users.csv.report.jsonl"
    assert "created 1" in import_as(Role.ADMIN, "email\nada@example.com\n", code=0)
    before = report.read_text()

    import_as(Role.ADMIN, BAD_HEADER, code=2)

    assert report.read_text() == before
