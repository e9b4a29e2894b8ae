"""`tamatar-auth caller`: its edits of the file and its output."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tamatar_auth.security.caller_file import CallersError, read_callers
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tests.support.commands import tamatar

DAY = timedelta(days=1)
GATEWAY = ("gateway", [Role.VALIDATOR])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "callers.toml"


@pytest.fixture
def file(path):
    return CallerFile(path)


def known(path):
    return {credentials.caller.name: credentials for credentials in read_callers(path).known}


def test_new_callers_file_is_private_and_holds_no_token(file, path):
    token = file.add(*GATEWAY, DAY)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token.text not in path.read_text()
    assert read_callers(path).find_by_token(token.text).name == "gateway"
    assert list(path.parent.iterdir()) == [path]


def test_caller_with_certificate_needs_no_token(file, path):
    names = {"spiffe_ids": ["spiffe://example.com/signup"], "dns_names": ["a.test"]}

    assert file.add("signup", [Role.ACCOUNTS], None, **names) is None
    assert known(path)["signup"].names == {"spiffe://example.com/signup", "dns:a.test"}


def test_edit_keeps_other_callers_comments_and_mode(file, path):
    file.add(*GATEWAY, DAY)
    path.write_text(f"# ours\n{path.read_text()}")
    path.chmod(0o640)
    before = path.read_text()

    file.add("signup", [Role.ACCOUNTS], DAY)
    assert path.read_text().startswith(before.rstrip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640

    file.remove("signup")
    assert path.read_text().strip() == before.strip()


def test_rotate_keeps_old_token_during_overlap(file, path):
    first = file.add(*GATEWAY, 90 * DAY)
    second = file.rotate("gateway", DAY, 90 * DAY)

    callers = read_callers(path)
    assert callers.find_by_token(first.text) == callers.find_by_token(second.text) is not None
    ends = known(path)["gateway"].tokens
    now = datetime.now(UTC)
    assert now + DAY / 2 < ends[first.digest] <= now + DAY < ends[second.digest]


def test_rotate_with_two_valid_tokens_is_refused(file, path):
    first = file.add(*GATEWAY, 90 * DAY)
    second = file.rotate("gateway", DAY, 90 * DAY)
    with pytest.raises(CallersError, match="has 2 valid tokens already: wait until"):
        file.rotate("gateway", DAY, DAY)

    third = file.rotate("gateway", timedelta(0), DAY)

    callers = read_callers(path)
    assert callers.find_by_token(third.text)
    assert not callers.find_by_token(first.text)
    assert not callers.find_by_token(second.text)


def test_refused_edit_leaves_callers_file_unchanged(file, path):
    file.add(*GATEWAY, DAY)
    before = path.read_bytes()

    for attempt in (
        lambda: file.add(*GATEWAY, DAY),
        lambda: file.add("A b", [Role.ADMIN], DAY),
        lambda: file.add("unknown", [Role.ADMIN], None),
        lambda: file.rotate("unknown", DAY, DAY),
        lambda: file.remove("unknown"),
    ):
        with pytest.raises(CallersError):
            attempt()
        assert path.read_bytes() == before

    path.write_text("[callers")
    with pytest.raises(CallersError, match="is not TOML"):
        file.add("signup", [Role.ACCOUNTS], DAY)
    assert path.read_text() == "[callers"
    assert list(path.parent.iterdir()) == [path]


def test_edit_through_symlink_keeps_the_link(file, path, tmp_path):
    file.add(*GATEWAY, DAY)
    link = tmp_path / "link.toml"
    link.symlink_to(path)

    CallerFile(link).add("signup", [Role.ACCOUNTS], DAY)

    assert link.is_symlink()
    assert set(known(path)) == {"gateway", "signup"}


def test_concurrent_edits_lose_no_caller(file, path):
    names = [f"caller-{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: file.add(name, [Role.VALIDATOR], DAY), names))

    assert set(known(path)) == set(names)


def test_caller_commands_print_token_once(path, tmp_path):
    given = {"TAMATAR_CALLERS_FILE": str(path)}
    added = tamatar("caller", "add", "gateway", "--role", "validator", cwd=tmp_path, **given)
    rotated = tamatar("caller", "rotate", "gateway", "--overlap", "1h", cwd=tmp_path, **given)
    listed = tamatar("caller", "list", "--file", str(path), cwd=tmp_path).stdout
    as_json = tamatar("caller", "list", "-o", "json", cwd=tmp_path, **given).stdout

    (caller,) = json.loads(as_json)["callers"]
    ends = sorted(map(datetime.fromisoformat, caller["tokens"]))
    assert (caller["name"], caller["roles"], len(ends)) == ("gateway", ["validator"], 2)
    texts = [added.stdout.strip(), rotated.stdout.strip()]
    assert all(read_callers(path).find_by_token(text).name == "gateway" for text in texts)
    assert listed.split("\n")[1].split()[:3] == ["gateway", "validator", "until"]
    assert listed.count("until") == 2
    assert not any(text in listed + path.read_text() for text in texts)

    tamatar("caller", "remove", "gateway", cwd=tmp_path, **given)
    assert known(path) == {}


def test_caller_add_as_json_prints_name_and_token(path, tmp_path):
    asked = ("caller", "add", "gateway", "--role", "admin", "--file", str(path), "-o", "json")

    issued = json.loads(tamatar(*asked, cwd=tmp_path).stdout)

    assert issued["name"] == read_callers(path).find_by_token(issued["token"]).name
    assert issued["lifetime"] == "90d"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("add gateway --role admin", 2, "TAMATAR_CALLERS_FILE"),
        ("add gateway --role root --file c.toml", 2, "must be one of validator, accounts, admin"),
        ("add gateway --role admin --expires 1s --file c.toml", 2, "must be between 1m and 3650d"),
        ("add gateway --role admin --expires soon --file c.toml", 2, "must be a duration"),
        ("add local --role admin --file c.toml", 2, "caller local: is the name"),
        ("rotate gateway --file c.toml", 2, "there is no caller gateway"),
        ("list --file c.toml", 2, "c.toml cannot be read"),
        ("add gateway --role admin --file none/c.toml", 2, "none cannot be opened"),
    ],
)
def test_failed_caller_command_prints_cause(arguments, code, said, tmp_path):
    ended = tamatar("caller", *arguments.split(), cwd=tmp_path, code=code)

    assert said in ended.stderr
    assert ended.stdout == ""
