"""The callers file: what is read from it, and how errors in it are reported."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamatar_auth.security import caller_file
from tamatar_auth.security.caller_file import CallersError, parse_callers, read_callers
from tamatar_auth.security.callers import CallerToken, Role

FILE = Path("callers.toml")
DIGEST = "a" * 64
LATER = "2999-01-01T00:00:00Z"


def read(text):
    return parse_callers(text.encode() if isinstance(text, str) else text, FILE)


def gateway(*lines):
    return "\n".join(["[callers.gateway]", *lines])


def tokens(*entries):
    listed = ", ".join(f'{{sha256 = "{digest}", expires = {end}}}' for digest, end in entries)
    return f"tokens = [{listed}]"


def test_callers_example_in_docstring_is_valid():
    example = (caller_file.__doc__ or "").partition("\n\n")[2]

    (known,) = read(example).known

    assert (known.caller.name, known.caller.roles) == ("gateway", {Role.VALIDATOR})
    assert known.names == {"spiffe://example.com/gateway", "dns:gateway.example.com"}


def test_caller_is_found_by_token_until_it_expires():
    valid, expired = CallerToken.issue(), CallerToken.issue()
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    callers = read(
        gateway(
            'roles = ["accounts"]',
            tokens((valid.digest.hex(), LATER), (expired.digest.hex(), past)),
        )
    )

    found = callers.find_by_token(valid.text)
    assert found is not None
    assert found.name == "gateway"
    assert callers.find_by_token(expired.text) is None
    assert callers.find_token_owner(expired.text) == found
    assert callers.find_by_token(CallerToken.issue().text) is None


def test_dns_name_does_not_match_spiffe_id():
    callers = read(
        gateway('roles = ["admin"]', 'spiffe_ids = ["spiffe://example.com/a"]')
        + '\n[callers.host]\nroles = ["admin"]\ndns_names = ["a.example.com"]'
    )

    assert [caller.name for caller in callers.find_by_names(["spiffe://example.com/a"])] == [
        "gateway"
    ]
    assert [caller.name for caller in callers.find_by_names(["dns:a.example.com"])] == ["host"]
    assert not callers.find_by_names(["dns:spiffe://example.com/a", "a.example.com"])


def test_caller_token_repr_is_silent():
    token = CallerToken.issue()

    assert token.text not in repr(token)
    assert token.text.startswith("tmc_")
    assert len(token.text) == 47


ROLE, TOKEN = 'roles = ["validator"]', tokens((DIGEST, LATER))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[callers.gateway", "is not TOML: "),
        (b"\xff", "is not TOML: no text in UTF-8"),
        ("x = " + "[" * 90_000, "is not TOML: "),
        ("#" * (1024 * 1024 + 1), "must not be larger than 1048576 bytes"),
        ("[caller.gateway]", "caller: is not known here"),
        ("callers = 3", "callers: must be a table"),
        ("[callers]\ngateway = 3", "caller gateway: must be a table"),
        (gateway(TOKEN), "caller gateway: roles: must be set"),
        (gateway("roles = []", TOKEN), "caller gateway: roles: must not be empty"),
        (gateway('roles = "admin"', TOKEN), "caller gateway: roles: must be a list"),
        (gateway('roles = ["root"]', TOKEN), "caller gateway: roles[0]: input should be 'vali"),
        (gateway(ROLE), "caller gateway: must have a token, a SPIFFE id or a DNS name"),
        (gateway(ROLE, TOKEN, 'token = "x"'), "caller gateway: token: is not known here"),
        (gateway(ROLE, tokens(("tmc_x", LATER))), "tokens[0].sha256: must be the SHA-256 of a"),
        (gateway(ROLE, tokens((DIGEST, "2999-01-01"))), "tokens[0].expires: must be a date with"),
        (gateway(ROLE, tokens((DIGEST, "'soon'"))), "tokens[0].expires: must be a date with a"),
        (gateway(ROLE, tokens((DIGEST, LATER[:-1]))), "tokens[0].expires: must have an offset"),
        (gateway(ROLE, f'tokens = [{{sha256 = "{DIGEST}"}}]'), "tokens[0].expires: must be set"),
        (
            gateway(ROLE, tokens(*((str(n) * 64, LATER) for n in range(3)))),
            "caller gateway: must not have more than 2 valid tokens",
        ),
        (
            gateway(ROLE, tokens((DIGEST, LATER), (DIGEST, LATER))),
            "caller gateway: has a token that is in the file twice",
        ),
        (
            gateway(ROLE, 'spiffe_ids = ["spiffe://a/b"]')
            + '\n[callers.b]\nroles = ["admin"]\nspiffe_ids = ["spiffe://a/b"]',
            "caller gateway: has a SPIFFE id or DNS name that is in the file twice",
        ),
        (gateway(ROLE, 'spiffe_ids = ["https://a/b"]'), "spiffe_ids[0]: must be a SPIFFE id"),
        (gateway(ROLE, 'spiffe_ids = ["spiffe://a/../b"]'), "spiffe_ids[0]: must be a SPIFFE id"),
        (gateway(ROLE, 'dns_names = ["*.example.com"]'), "dns_names[0]: must be a DNS name in"),
        (gateway(ROLE, 'dns_names = ["A.example.com"]'), "dns_names[0]: must be a DNS name in"),
        (
            f"[callers.local]\n{ROLE}\n{TOKEN}",
            "caller local: is the name of all callers of a server without this file",
        ),
        (f"[callers.'a\\u0000b c']\n{ROLE}\n{TOKEN}", "must be a name of a-z"),
        (f"[callers.{'x' * 64}]\n{ROLE}\n{TOKEN}", "must be a name of a-z"),
    ],
)
def test_callers_error_names_file_and_caller_in_one_line(text, why):
    with pytest.raises(CallersError) as refused:
        read(text)

    said = str(refused.value)
    assert said.startswith("callers.toml: ")
    assert why in said
    assert len(said.splitlines()) == 1


def test_callers_above_limit_are_refused():
    entries = (f"[callers.c{n}]\n{ROLE}\n{tokens((f'{n:064x}', LATER))}" for n in range(1001))

    with pytest.raises(CallersError, match="1000"):
        read("\n".join(entries))


def test_unreadable_callers_file_is_reported(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(CallersError, match="cannot be read"):
            read_callers(path)


@given(st.text(max_size=60) | st.from_regex(r"\[callers\.[a-z]{1,3}\]\n[a-z_]{1,9} = .{0,20}"))
def test_any_callers_text_raises_only_callers_error(text):
    with contextlib.suppress(CallersError):
        read(text.encode(errors="replace"))
