"""docs/reference/api.md lists everything that the protos declare, with the rules in words."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

import tamatar.auth.v1.error_reason_pb2
import tamatar.auth.v1.session_service_pb2
import tamatar.auth.v1.user_service_pb2
from tamatar_auth.security.authorization import ACCESS_RULES
from tests.support.commands import ROOT
from tools.api_docs import Page, failures
from tools.api_protos import PACKAGE, Protos
from tools.api_rules import FIELD_RULES, describe_rules

PAGE = (ROOT / "docs/reference/api.md").read_text()


def section(title):
    """Return the text below a headline, up to the next one."""
    return PAGE.partition(f"\n### {title}\n")[2].partition("\n### ")[0]


def field(**rules):
    made = descriptor_pb2.FieldDescriptorProto(name="a", type="TYPE_STRING")
    options = made.options.Extensions[FIELD_RULES]
    options.MergeFrom(type(options)(**rules))
    return made


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, []),
        ({"string": {"min_len": 1, "max_len": 255}}, ["1 to 255 characters"]),
        ({"string": {"max_len": 255}}, ["at most 255 characters"]),
        ({"string": {"min_len": 3}}, ["at least 3 characters"]),
        ({"string": {"pattern": r"^\P{Cc}*$"}}, ["no control characters"]),
        ({"string": {"pattern": "^a|b$"}}, ["matches `^a|b$`"]),
        ({"string": {"uuid": True}, "ignore": "IGNORE_IF_ZERO_VALUE"}, ["a UUID", "or not set"]),
        ({"int32": {"gte": 0, "lte": 9}}, ["at most 9", "at least 0"]),
        ({"repeated": {"max_items": 5, "items": {"string": {"uuid": True}}}}, None),
        ({"required": True, "string": {"prefix": "x"}}, ["required", "`prefix: x`"]),
        ({"cel": [{"id": "a", "message": "must be odd"}]}, ["must be odd"]),
    ],
)
def test_field_rules_are_all_described_in_words(rules, words):
    expected = words if words is not None else ["at most 5 items", "each a UUID"]

    assert describe_rules(field(**rules)) == expected


def test_api_page_lists_every_call_with_its_roles():
    for service, methods in ACCESS_RULES.items():
        if service.startswith(PACKAGE):
            for method, rule in methods.items():
                (line,) = [row for row in PAGE.splitlines() if row.startswith(f"| [{method}](")]
                assert all(f"`{role.value}`" in line for role in rule.roles)
                assert "Roles: " in section(method)


def test_api_page_lists_every_field_with_its_rules():
    pool = descriptor_pool.Default()
    for name in (f"{PACKAGE}.UserService", f"{PACKAGE}.SessionService"):
        for method in pool.FindServiceByName(name).methods:
            for message in (method.input_type, method.output_type):
                for each in message.fields:
                    assert f"| `{each.name}` | " in section(method.name), (method.name, each.name)

    assert "| `user_ids` | list of string | required; 1 to 1000 items; each a UUID |" in section(
        "BatchGetUsers"
    )
    assert "| `etag` | string | set by the service |" in section("User")
    assert "| `client` | [SessionClient](#sessionclient) | never changes |" in section("Session")
    assert "exactly one of `identifier`" in section("GetUser")


def test_api_page_includes_reasons_of_referenced_call():
    (line,) = [row for row in PAGE.splitlines() if row.startswith("| [RefreshSession](")]

    assert "`SESSION_UNKNOWN`" in line
    assert "`SESSION_REUSED`" in line


def test_api_page_lists_every_reason_with_its_status():
    for reason, failure in failures().items():
        assert f"| `{reason}` | {failure.code} | " in PAGE


def test_comment_with_wrong_status_is_found():
    image = descriptor_pb2.FileDescriptorSet()
    reasons = tamatar.auth.v1.error_reason_pb2.DESCRIPTOR
    reasons.CopyToProto(image.file.add())
    place = image.file[0].source_code_info.location.add(path=[5, 0, 2, 1])
    place.leading_comments = " NOT_FOUND: at least one field breaks a rule."

    with pytest.raises(SystemExit, match="INVALID_FIELDS is INVALID_ARGUMENT"):
        Page(Protos(image.SerializeToString())).text()
