"""The fixtures that the package offers to pytest, in a run of their own."""

import os
import re
import sys

from tests.support.commands import ROOT, run
from tests.support.waiting import PATIENCE

TESTS_PAGE = (ROOT / "docs/guide/testing.md").read_text()
FIXTURES, AIO, CLASS, FACTORS, REAL = re.findall(r"(?ms)^```python\n(.*?)^```$", TESTS_PAGE)


def run_tests(folder, code, *options, expected=0, **env):
    """Run tests of a project that has our plugin and no other."""
    (folder / "test_project.py").write_text(code)
    command = (sys.executable, "-m", "pytest", "-p", "tamatar_auth.pytest_plugin", *options)
    given = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"} | env
    ended = run(*command, cwd=folder, code=expected, patience=4 * PATIENCE, **given)
    return ended.stdout


def test_fixtures_ignore_proxy_of_environment(tmp_path):
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:1")

    run_tests(tmp_path, FIXTURES, **proxies, no_proxy="", no_grpc_proxy="")


def test_project_without_the_fixtures_imports_no_grpc(tmp_path):
    run_tests(
        tmp_path,
        "import sys\n\n\ndef test_modules():\n"
        "    ours = {name for name in sys.modules if name.startswith('tamatar')}\n"
        "    assert ours == {'tamatar_auth', 'tamatar_auth.pytest_plugin'}\n"
        "    assert not {'grpc', 'google.protobuf'} & set(sys.modules)\n",
    )


def test_fixtures_of_fake_run_page(tmp_path):
    assert "2 passed" in run_tests(tmp_path, FIXTURES)


def test_second_factors_of_fake_run_page(tmp_path):
    assert "2 passed" in run_tests(tmp_path, FACTORS)


def test_fixtures_of_fake_are_separate_for_each_test(tmp_path):
    code = "def test_{0}(auth_server):\n    auth_server.add_user('ada@example.com')\n"

    assert "2 passed" in run_tests(tmp_path, code.format(1) + code.format(2))


def test_fixture_for_asyncio_runs_page(tmp_path):
    asyncio = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto")

    assert "1 passed" in run_tests(tmp_path, AIO, *asyncio)


def test_fixtures_of_real_service_run_page(tmp_path):
    foreign = {"TAMATAR_DATABASE_URL": "postgresql://nowhere.invalid/x", "TAMATAR_LISTEN": "x"}

    assert "1 passed" in run_tests(tmp_path, REAL, **foreign)


def test_real_service_that_fails_names_extra_and_cause(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "typer.py").write_text("raise ModuleNotFoundError('gone', name='typer')\n")
    path = os.pathsep.join([str(broken), os.environ.get("PYTHONPATH", "")])

    said = run_tests(tmp_path, REAL, expected=1, PYTHONPATH=path)

    assert "pip install 'tamatar-auth[embedded]'" in said
    assert "The package typer is missing." in said


def test_testing_page_names_methods_of_fake(fake):
    exec(CLASS, {})  # noqa: S102 - it is the page's

    (table,) = re.findall(r"(?ms)^\| Method \|.*?\n\n", TESTS_PAGE)
    helpers = re.findall(r"(?<=[|,]) `(\w+)[(`]", table)
    assert {"add_user", "revoke_all", "is_available"} <= set(helpers)
    assert all(hasattr(fake, name) for name in helpers)
