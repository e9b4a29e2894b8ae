"""Tables and the other formats of `--output`, in terminals of every width and in pipes."""

import fcntl
import json
import os
import pty
import shlex
import shutil
import struct
import subprocess
import termios
from uuid import UUID, uuid4

import pytest
from rich.cells import cell_len

from tamatar_auth.cli.tables import print_table
from tests.support.commands import COMMAND, environment, missing_tool
from tests.support.waiting import until

LONG = f"{'a' * 64}@{'b' * 63}.{'c' * 63}.{'d' * 57}.com"
"""The longest address that the service accepts."""

NAME = "山田 太郎"
HEADERS = ["Id", "Email", "Active", "Verified", "Username", "Name", "Created", "Deleted"]


@pytest.fixture
def listed(cli):
    """A prefix of the addresses of two users, and the first user."""
    prefix = f"t{uuid4().hex[:12]}"
    created = cli("user", "create", f"{prefix}@example.com", "--first-name", NAME, "-o", "json")
    cli("user", "create", f"{prefix}.b@example.com", "--username", f"{prefix}.b")
    return prefix, json.loads(created.stdout)


@pytest.fixture
def at_terminal(surroundings, tmp_path):
    """Return a function that runs a command at a terminal, and returns its lines and stderr."""

    def ask(*arguments, columns):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        env = {**environment(surroundings), "COLUMNS": str(columns)}
        with subprocess.Popen(
            [COMMAND, *arguments],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
        ) as process:
            os.close(theirs)
            printed = b"".join(iter(lambda: _read(ours), b""))
            said = process.stderr.read().decode()
        os.close(ours)
        assert process.returncode == 0, said
        return printed.decode().splitlines(), said

    return ask


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side was closed
        return b""


class TestTerminal:
    """Tables at a terminal."""

    @pytest.mark.parametrize(
        ("columns", "headers"), [(60, 2), (80, 3), (100, 5), (120, 6), (200, 8)]
    )
    def test_narrow_terminal_drops_last_columns(self, at_terminal, listed, columns, headers):
        prefix, user = listed

        lines, said = at_terminal("user", "list", "--email", prefix, columns=columns)

        assert lines[0].split() == HEADERS[:headers]
        assert [line.split()[:2] for line in lines[2:]] == [[user["user_id"], user["email"]]]
        assert all(cell_len(line) <= max(columns, 65) for line in lines)
        assert ("Use -o wide" in said) is (headers < len(HEADERS))
        assert all(header in said for header in HEADERS[headers:])

    @pytest.mark.parametrize("columns", [60, 80, 120, 200])
    def test_id_and_long_address_stay_whole_at_any_width(self, cli, at_terminal, columns):
        cli("user", "create", LONG, code=None)

        lines, _ = at_terminal("user", "list", "--email", LONG, columns=columns)

        assert lines[0].split() == ["Id", "Email"]
        user_id, email = lines[1].split()
        assert (str(UUID(user_id)), email) == (user_id, LONG)

    def test_wide_format_prints_every_column(self, at_terminal, listed):
        prefix, user = listed

        lines, said = at_terminal("user", "list", "--email", prefix, "-o", "wide", columns=60)

        assert lines[0].split() == HEADERS
        assert lines[2].split()[-3:] == [*NAME.split(), user["create_time"]]
        assert not said

    def test_columns_of_wide_characters_are_aligned(self, at_terminal, listed):
        prefix, user = listed

        header, _, line = at_terminal("user", "list", "--email", prefix, columns=200)[0]

        before = line[: line.index(user["create_time"])]
        assert cell_len(before) == header.index("Created")

    def test_user_list_in_tmux_prints_ids_and_addresses(self, surroundings, tmp_path, listed):
        if shutil.which("tmux") is None:
            missing_tool("tmux is missing: .ci/run installs it")
        prefix, user = listed
        tmux = ["tmux", "-S", str(tmp_path / "tmux")]
        asked = shlex.join([str(COMMAND), "user", "list", "--email", prefix])
        env = environment(surroundings) | {"TERM": "xterm"}

        def show():
            shown = subprocess.run(
                [*tmux, "capture-pane", "-p"], env=env, capture_output=True, text=True, check=True
            )
            return shown.stdout.splitlines()

        started = [*tmux, "new-session", "-d", "-x", "80", "-y", "24", f"{asked}; echo done; cat"]
        subprocess.run(started, cwd=tmp_path, env=env, check=True)
        try:
            lines = until(lambda: "done" in (lines := show()) and lines)
        finally:
            subprocess.run([*tmux, "kill-server"], env=env, check=True)

        assert lines[0].split() == HEADERS[:3]
        assert lines[2].split() == [user["user_id"], user["email"], "yes"]


class TestPipe:
    """Output that is read by a program."""

    def test_table_in_pipe_has_every_column_and_no_colours(self, cli, listed):
        prefix, user = listed

        printed = cli("user", "list", "--email", prefix, COLUMNS="40", FORCE_COLOR="1")

        header, _, line = printed.stdout.splitlines()
        assert header.split() == HEADERS
        assert line.index(user["email"]) == header.index("Email")
        assert "\x1b" not in printed.stdout
        assert not printed.stderr

    def test_control_characters_in_table_are_written_out(self, capsys):
        print_table(("Client", "Next"), [("a\x1b[31m\u202eb\nc\u2028", "d")])

        assert capsys.readouterr().out.splitlines() == [
            "Client                    Next",
            "a\\x1b[31m\\u202eb c\\u2028  d",
        ]

    def test_name_format_prints_one_id_a_line(self, cli, listed):
        prefix, user = listed

        names = cli("user", "list", "--email", prefix, "-o", "name").stdout.splitlines()
        created = cli("user", "create", f"{prefix}.c@example.com", "-o", "name").stdout.strip()
        updated = cli("user", "update", created, "--bio", "x", "-o", "name").stdout.strip()

        assert len(names) == 2
        assert names[1] == user["user_id"]
        assert updated == created == str(UUID(created))

    def test_page_token_continues_a_json_list(self, cli, listed):
        prefix, _ = listed
        asked = ("user", "list", "--email", prefix, "-o", "json", "--limit", "1")

        first = json.loads(cli(*asked).stdout)
        second = json.loads(cli(*asked, "--page-token", first["next_page_token"]).stdout)

        assert len({user["user_id"] for user in first["users"] + second["users"]}) == 2
        assert second["next_page_token"] == ""

    def test_unknown_format_is_refused_with_the_known(self, cli):
        said = cli("user", "list", "-o", "yaml", code=2).stderr

        assert "'yaml' is not one of 'table', 'wide', 'json', 'name'" in said

    def test_failure_with_json_format_prints_to_stderr(self, cli):
        ended = cli("user", "get", "nobody@example.com", "-o", "json", code=4)

        assert ended.stdout == ""
        assert "(USER_NOT_FOUND)" in ended.stderr
