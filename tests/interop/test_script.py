"""A script on the generated stubs: a Python client without asyncio."""

import re
import sys

from tests.support.commands import ROOT, run

SCRIPT = ROOT / "examples" / "first_calls.py"


def test_first_calls_script_prints_expected_results(sample_address, tmp_path):
    printed = run(sys.executable, "-W", "error", SCRIPT, sample_address, cwd=tmp_path).stdout

    assert re.sub(r"\d+\n", "N\n", printed).splitlines() == [
        "ALREADY_EXISTS EMAIL_TAKEN",
        "ALREADY_EXISTS EMAIL_TAKEN",
        "test1@example.com has live sessions: N",
        "UNAUTHENTICATED SESSION_REVOKED",
        "FAILED_PRECONDITION EMAIL_NOT_VERIFIED",
        "UNAUTHENTICATED INVALID_CREDENTIALS",
    ]
