"""The standard streams of commands: closed, full, or interrupted by Ctrl-C."""

import fcntl
import os
import signal
import subprocess
import termios

import pytest

from tests.support.commands import COMMAND, environment, run
from tests.support.terminals import CTRL_C, type_into
from tests.support.waiting import PATIENCE, until


def redirected(redirections, *arguments, cwd, code, **env):
    """Run a command with redirections of a shell."""
    words = ("sh", "-c", f'exec "$0" "$@" {redirections}', COMMAND, *arguments)
    return run(*words, cwd=cwd, code=code, **env)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("session", "validate"), "Use --token-stdin to pass the token"),
        (("session", "validate", "--token-stdin"), "There is no token in stdin."),
        (("import", "-", "--format", "csv"), "The first line must name the column email"),
        (("user", "delete", "test1@example.com"), "There is no such user."),
    ],
)
def test_closed_stdin_counts_as_empty(tmp_path, surroundings, arguments, words):
    code = 4 if "delete" in arguments else 2
    said = redirected("<&-", *arguments, cwd=tmp_path, code=code, **surroundings)

    assert words in said.stderr


def test_closed_output_is_discarded(tmp_path, surroundings):
    redirected(">&-", "user", "list", cwd=tmp_path, code=0, **surroundings)
    redirected("<&- >&- 2>&-", "user", "get", "a@b.example", cwd=tmp_path, code=4, **surroundings)


@pytest.mark.parametrize("arguments", [("user", "list"), ("export", "-", "--format", "csv")])
def test_full_disk_is_named(tmp_path, surroundings, arguments):
    said = redirected(">/dev/full", *arguments, cwd=tmp_path, code=1, **surroundings)

    assert said.stderr.endswith("The output cannot be written: No space left on device.\n")


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        (("session", "create", "ada@example.com"), b"Password: "),
        (("context", "add", "far", "auth.example.com:50051"), b"Token (empty for none) []: "),
        (("session", "revoke-user", "ada@example.com"), b"[y/N]: "),
    ],
    ids=["password", "token", "confirmation"],
)
def test_ctrl_c_at_prompt_exits_with_130(cli, tmp_path, surroundings, arguments, prompt):
    cli("user", "create", "ada@example.com", code=None)  # a second one is refused

    code, screen = type_into(*arguments, prompt=prompt, keys=CTRL_C, cwd=tmp_path, env=surroundings)

    assert code == 130
    assert screen.endswith(b"Aborted!\r\n")


def test_denied_confirmation_exits_with_1(cli, tmp_path, surroundings):
    cli("user", "create", "ada@example.com", code=None)
    words = ("session", "revoke-user", "ada@example.com")

    code, _ = type_into(*words, prompt=b"[y/N]: ", keys=b"n\n", cwd=tmp_path, env=surroundings)

    assert code == 1


@pytest.mark.parametrize("file", ["-", "pipe"])
def test_ctrl_c_ends_import_that_waits_for_input(tmp_path, surroundings, file):
    os.mkfifo(tmp_path / "pipe")
    # Open for both, so that no end waits for the other.
    with (tmp_path / "pipe").open("rb+", buffering=0) as pipe:
        pipe.write(b'{"email": "ada@example.com"}\n')
        process = subprocess.Popen(
            [COMMAND, "import", file, "--format", "jsonl"],
            cwd=tmp_path,
            env=environment(surroundings),
            stdin=pipe,
            stderr=subprocess.PIPE,
        )
        until(lambda: not int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), "little"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert said == b"0 rows: created 0, existing 0, refused 0.\n"


@pytest.mark.parametrize(
    "arguments", ["user get \"$(printf 'a\\377@example.com')\"", "session validate --token-stdin"]
)
def test_text_that_is_not_utf8_is_named(tmp_path, surroundings, arguments):
    script = f"printf 'tms_\\377' | {COMMAND} {arguments}"
    said = run("sh", "-c", script, cwd=tmp_path, code=2, **surroundings)

    assert said.stderr == "An argument or the input is not UTF-8.\n"


def test_export_to_stdout_is_utf8_in_every_locale(cli):
    cli("user", "create", "bjorn@example.com", "--first-name", "Björn")

    printed = cli("export", "-", "--format", "csv", PYTHONIOENCODING="latin-1").stdout

    assert "Björn" in printed
