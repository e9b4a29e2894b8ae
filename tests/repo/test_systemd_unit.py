"""deploy/systemd: systemd accepts the unit, and the server ends in the time that it has."""

import shutil

from tamatar_auth.config.settings import Settings
from tamatar_auth.workers.supervisor import STOP_MARGIN_SECONDS
from tests.support.commands import COMMAND, missing_tool, run, tamatar
from tests.support.deploy_files import DEPLOY, read_unit

TEXT = (DEPLOY / "systemd/tamatar-auth.service").read_text()
EXPOSURE = 20
"""Tenths of systemd's score, where 100 is a service without any restriction."""


def analyze(*words, folder):
    """Run systemd-analyze on the unit, with the command that is installed here."""
    program = shutil.which("systemd-analyze")
    program = program or missing_tool("systemd-analyze is missing: .ci/run installs systemd")
    unit = folder / "tamatar-auth.service"
    unit.write_text(TEXT.replace("/opt/tamatar-auth/bin/tamatar-auth", str(COMMAND)))
    return run(program, *words, unit, cwd=folder)


def test_systemd_accepts_unit(tmp_path):
    verified = analyze("verify", folder=tmp_path)

    assert "tamatar-auth" not in verified.stderr


def test_unit_restricts_server(tmp_path):
    analyze("security", "--offline=true", f"--threshold={EXPOSURE}", folder=tmp_path)


def test_unit_runs_a_command_that_exists(tmp_path):
    (command,) = read_unit(TEXT)["ExecStart"]

    program, *words = command.split()
    assert program.endswith("/tamatar-auth")
    assert "Usage: tamatar-auth" in tamatar(*words, "--help", cwd=tmp_path).stdout


def test_unit_gives_server_time_to_drain():
    defaults = Settings.load(env_file=None)
    end = (defaults.drain_delay + defaults.shutdown_grace).total_seconds()
    (seconds,) = read_unit(TEXT)["TimeoutStopSec"]

    assert int(seconds.removesuffix("s")) >= end + STOP_MARGIN_SECONDS


def test_unit_does_not_restart_server_with_invalid_settings(tmp_path):
    given = {"TAMATAR_ENVIRONMENT": "production"}
    code = tamatar("serve", cwd=tmp_path, code=None, **given).returncode

    assert read_unit(TEXT)["RestartPreventExitStatus"] == [str(code)]
