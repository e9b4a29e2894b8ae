"""`tamatar-auth user`: its output, its changes and its exit codes."""

import asyncio
import json
import os
import pty
import re
import subprocess
from uuid import uuid4

import pytest

from tamatar_auth.storage.repositories import user_counts
from tests.support.calls import PASSWORD, ada
from tests.support.commands import COMMAND, environment, tamatar

ENTERED = f"{PASSWORD}\n"


@pytest.fixture
def email(cli):
    """The address of a user who can sign in."""
    address = f"{uuid4().hex}@example.com"
    cli(
        "user",
        "create",
        address,
        "--first-name",
        "Ada",
        "--verified",
        "--password-stdin",
        entered=ENTERED,
    )
    return address


def printed_json(ended):
    return json.loads(ended.stdout)


def get(cli, who, *options):
    return printed_json(cli("user", "get", who, "-o", "json", *options))


class TestRead:
    """Commands that show users."""

    def test_user_create_is_found_by_every_name(self, cli):
        name = f"u{uuid4().hex[:12]}"
        given = ("--username", name, "--last-name", "L", "--display-name", "D", "-o", "json")

        created = printed_json(cli("user", "create", f"{name}@example.com", *given))

        for who in (created["user_id"], f"{name}@EXAMPLE.com", name):
            assert get(cli, who) == created
        assert created["profile"]["display_name"] == "D"
        assert not created["email_verified"]
        assert "last_login_time" not in created

    def test_user_output_is_same_in_every_format(self, cli, email):
        as_json = cli("user", "list", "--email", email, "-o", "json")
        as_table = cli("user", "list", "--email", email)

        (row,) = printed_json(as_json)["users"]
        header, line = as_table.stdout.splitlines()
        assert header.split() == [
            "Id",
            "Email",
            "Active",
            "Verified",
            "Username",
            "Name",
            "Created",
            "Deleted",
        ]
        assert line.split()[:2] == [row["user_id"], email]
        assert get(cli, email).items() >= row.items()

    def test_user_list_without_matches_is_empty(self, cli):
        none = ("user", "list", "--email", "nobody-is-called-so")

        assert printed_json(cli(*none, "-o", "json")) == {
            "users": [],
            "next_page_token": "",
            "total_size": "0",
            "total_size_is_estimate": False,
        }
        assert len(cli(*none).stdout.splitlines()) == 1

    def test_user_list_filters_sorts_and_limits(self, cli):
        mark = f"l{uuid4().hex[:10]}"
        for number in range(3):
            cli("user", "create", f"{mark}{number}@example.com", *["--verified"] * (number == 1))
        cli("user", "deactivate", f"{mark}2@example.com", "--yes")

        def found(*options):
            ended = cli("user", "list", "--email", mark, "-o", "json", *options)
            users = printed_json(ended)["users"]
            return [user["email"].partition("@")[0][-1] for user in users], ended.stderr

        assert found() == (["2", "1", "0"], "")
        assert found("--order", "email") == (["0", "1", "2"], "")
        assert found("--verified") == (["1"], "")
        assert found("--unverified", "--active") == (["0"], "")
        assert found("--inactive") == (["2"], "")
        assert found("--deleted") == ([], "")
        assert found("--created-from", "2100-01-01") == ([], "")
        assert found("--created-before", "2100-01-01T00:00:00") == (["2", "1", "0"], "")
        assert found("--limit", "2") == (
            ["2", "1"],
            "There are 3: use --limit or --page-token to list more.\n",
        )

    def test_user_list_after_a_page_token_counts_nothing(self, cli):
        mark = f"l{uuid4().hex[:10]}"
        for number in range(3):
            cli("user", "create", f"{mark}{number}@example.com")
        listed = ("user", "list", "--email", mark, "--limit", "1")
        token = printed_json(cli(*listed, "-o", "json"))["next_page_token"]

        ended = cli(*listed, "--page-token", token)

        assert ended.stderr.startswith("There are more than 1: ")

    def test_user_stats_counts_users_that_match(self, cli):
        mark = f"s{uuid4().hex[:10]}"
        for number in range(3):
            cli("user", "create", f"{mark}{number}@example.com", *["--verified"] * (number == 1))

        stats = printed_json(cli("user", "stats", "--email", mark, "-o", "json"))

        assert stats["user_count"] == "3"
        assert stats["first_create_time"] < stats["last_create_time"]
        verified = ("user", "stats", "--email", mark, "--verified", "-o", "name")
        assert cli(*verified).stdout == "1\n"
        assert "user_count" in cli("user", "stats").stdout


async def test_estimates_are_marked_in_tables_and_json(users, service, tmp_path, monkeypatch):
    monkeypatch.setattr(user_counts, "MAX_COUNTED_ENTRIES", 1)
    for number in range(3):
        await users.CreateUser(ada(email=f"u{number}@example.com", password=""))

    async def run(*arguments):
        address = {"TAMATAR_ADDRESS": str(service.addresses[0])}
        return await asyncio.to_thread(tamatar, "user", *arguments, cwd=tmp_path, **address)

    listed = await run("list", "--limit", "2")
    counted = await run("stats")
    figures = printed_json(await run("stats", "-o", "json"))

    assert re.match(r"There are ~[\d,]+: ", listed.stderr)
    assert re.search(r"user_count +~[\d,]+", counted.stdout)
    assert figures["user_count_is_estimate"] is True
    assert (await run("stats", "-o", "name")).stdout.strip() == figures["user_count"]


class TestSecrets:
    """Passwords and tokens."""

    def test_user_verify_email_verifies_at_once_or_by_token(self, cli):
        one, other = (f"{uuid4().hex}@example.com" for _ in range(2))
        for address in (one, other):
            cli("user", "create", address)

        assert (
            printed_json(cli("user", "verify-email", one, "-o", "json"))["email_verified"] is True
        )
        printed = cli("user", "verify-email", other, "--print-token")
        assert f"For {other}, valid until" in printed.stderr
        assert get(cli, other)["email_verified"] is False
        cli("user", "verify-email", other, "--token-stdin", entered=printed.stdout)
        assert get(cli, other)["email_verified"] is True
        used = cli("user", "verify-email", other, "--token-stdin", entered=printed.stdout, code=1)
        assert "USER_TOKEN_INVALID" in used.stderr

    def test_user_reset_password_by_input_or_token(self, cli, email):
        reset = ("user", "reset-password", email)

        assert "sessions were ended" in cli(*reset, "--password-stdin", entered=ENTERED).stderr
        assert cli(*reset, "--print-token").stdout.startswith("tmu_")
        issued = printed_json(cli(*reset, "--print-token", "-o", "json"))
        assert issued["token"].startswith("tmu_")
        assert issued["email"] == email
        assert "Use --password-stdin" in cli(*reset, code=2).stderr
        assert "no password in stdin" in cli(*reset, "--password-stdin", code=2).stderr
        short = cli(*reset, "--password-stdin", entered="short\n", code=1).stderr
        assert short.splitlines() == [
            "The request has invalid fields. (INVALID_FIELDS)",
            "  new_password must have at least 12 characters",
        ]

    def test_passwords_and_session_tokens_are_no_arguments(self):
        """The caller's token may be one, and its help warns of that."""
        from tests.docs.test_readme import COMMANDS  # noqa: PLC0415 - it imports every command

        for words, command in COMMANDS.items():
            if words[0] not in {"user", "session", "context", "import", "export"}:
                continue
            for option in command.params:
                secret = option.name in {"password", "token", "new_password"}
                warns = "Other users of the machine can read it" in (option.help or "")
                assert not secret or option.is_flag or warns, (words, option.name)


class TestChanges:
    """Commands that change users."""

    def test_user_update_changes_named_fields_only(self, cli, email):
        etag = get(cli, email)["etag"]

        changed = printed_json(
            cli(
                "user",
                "update",
                email,
                "--first-name",
                "",
                "--bio",
                "Notes",
                "--etag",
                etag,
                "-o",
                "json",
            )
        )

        assert (changed["first_name"], changed["profile"]["bio"]) == ("", "Notes")
        assert (
            "ETAG_MISMATCH"
            in cli("user", "update", email, "--bio", "x", "--etag", etag, code=1).stderr
        )
        assert "There is nothing to change" in cli("user", "update", email, code=2).stderr
        assert get(cli, email)["profile"]["bio"] == "Notes"

    def test_user_commands_deactivate_delete_restore_and_purge(self, cli, email):
        key = get(cli, email)["user_id"]

        assert (
            printed_json(cli("user", "deactivate", email, "--yes", "-o", "json"))["is_active"]
            is False
        )
        assert printed_json(cli("user", "activate", email, "-o", "json"))["is_active"] is True
        gone = printed_json(cli("user", "delete", email, "--yes", "--by", "a test", "-o", "json"))
        assert gone["deleted_by"] == "a test"
        assert "USER_NOT_FOUND" in cli("user", "get", email, code=4).stderr
        assert get(cli, email, "--deleted")["user_id"] == key
        new = f"new-{email}"
        assert (
            printed_json(cli("user", "restore", key, "--email", new, "-o", "json"))["email"] == new
        )
        user_id = cli("user", "get", new, "--deleted", "-o", "name").stdout.strip()
        purged = cli("user", "purge", new, "--yes", "-o", "json")
        assert json.loads(purged.stdout) == {"user_id": user_id}
        assert "was removed" in purged.stderr
        assert "USER_NOT_FOUND" in cli("user", "get", key, "--deleted", code=4).stderr

    @pytest.mark.parametrize("what", ["deactivate", "delete", "purge"])
    def test_user_command_hard_to_undo_needs_confirmation(self, cli, email, what):
        before = get(cli, email)

        assert "Use --yes" in cli("user", what, email, code=2, entered="y\n").stderr
        assert get(cli, email) == before

    @pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
    def test_user_delete_at_terminal_asks_for_confirmation(
        self, cli, surroundings, tmp_path, email, answer, code
    ):
        theirs, ours = pty.openpty()
        with subprocess.Popen(
            [COMMAND, "user", "delete", email],
            cwd=tmp_path,
            env=environment(surroundings),
            stdin=ours,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as asked:
            os.write(theirs, f"{answer}\n".encode())
            said = asked.communicate()[1].decode()
        os.close(theirs)
        os.close(ours)

        assert f"Delete {email} and end its sessions? [y/N]" in said
        assert asked.returncode == code
        cli("user", "get", email, code=4 if answer == "y" else 0)

    def test_user_create_with_taken_email_prints_reason(self, cli, email):
        said = cli("user", "create", email, code=1).stderr

        assert said == "The email address is already registered. (EMAIL_TAKEN)\n"
