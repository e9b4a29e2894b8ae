"""The rules and the statuses of the fake service, compared with those of the real one."""

import hypothesis
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import strategies as st

from tamatar.auth.v1 import factor_service_pb2, session_service_pb2, user_service_pb2
from tamatar_auth.client import ErrorReason
from tamatar_auth.client.testing.errors import has_retry_delay, status_of
from tamatar_auth.client.testing.field_rules import broken_rules, rules_of
from tamatar_auth.client.testing.servicers import (
    FakeFactorServicer,
    FakeSessionServicer,
    FakeUserServicer,
)
from tamatar_auth.errors import Failure
from tamatar_auth.servicers.field_rules import FieldRules

REQUESTS = {
    method.input_type.name: method.input_type._concrete_class
    for file in (user_service_pb2, session_service_pb2, factor_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.client_streaming
}

FAILURES = {failure.reason: failure for failure in Failure.__subclasses__()}

TEXTS = st.sampled_from(
    [
        *("", "x", "ada", " ada ", "-x-", "a.b_c-d", "\u0130\u00df", "a\tb", "a\nb", "x\n", "\x85"),
        *("\U0001f345" * 30, "\U0001f345" * 31, "en-GB", "en_GB", "Europe/Berlin", "a//b"),
        *("https://x", "https://x y", "http://x\n", "https://", "192.0.2.1", "::1", "fe80::1%lo"),
        *("1.2.3", "0190d9a0-0000-7000-8000-000000000000", "0190D9A0-0000-7000-8000-00000000000G"),
        *("x" * number for number in (30, 31, 35, 36, 64, 65, 100, 101, 128, 129, 255, 256, 257)),
        *("x" * number for number in (512, 513, 2000, 2001, 2048, 2049)),
    ]
)


def messages(descriptor):
    """Return a strategy for messages whose fields are at and beyond their bounds."""

    @st.composite
    def build(draw):
        message = descriptor._concrete_class()
        for field in descriptor.fields:
            if not draw(st.booleans()):
                continue
            if field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(TEXTS, max_size=3)))
            elif field.message_type is not None:
                draw_message = messages(field.message_type)
                getattr(message, field.name).CopyFrom(draw(draw_message))
            elif field.type == field.TYPE_STRING:
                setattr(message, field.name, draw(TEXTS))
            elif field.type == field.TYPE_BOOL:
                setattr(message, field.name, True)
            else:
                setattr(message, field.name, draw(st.integers(-1, 9)))
        return message

    return build()


def test_fake_lacks_bulk_calls_only():
    servicers = {
        "UserService": FakeUserServicer,
        "SessionService": FakeSessionServicer,
        "FactorService": FakeFactorServicer,
    }
    lacking = {
        method.name
        for file in (user_service_pb2, session_service_pb2, factor_service_pb2)
        for name, service in file.DESCRIPTOR.services_by_name.items()
        for method in service.methods
        if not hasattr(servicers[name], method.name)
    }

    assert lacking == {"ImportUsers", "ExportUsers"}


@pytest.mark.parametrize("name", REQUESTS)
def test_fake_field_rules_equal_those_of_service(name):
    real_rules = FieldRules()

    @hypothesis.given(messages(REQUESTS[name].DESCRIPTOR))
    def check(message):
        assert sorted(broken_rules(message)) == sorted(real_rules.broken_rules(message))

    check()


@pytest.mark.parametrize("count", [0, 1, 1000, 1001])
def test_fake_rule_of_list_length_equals_service(count):
    message = user_service_pb2.BatchGetUsersRequest(user_ids=["x"] * count)

    assert sorted(broken_rules(message)) == sorted(FieldRules().broken_rules(message))


@pytest.mark.parametrize("name", REQUESTS)
def test_fake_reads_every_rule_of_request(name):
    def descriptors(descriptor):
        yield from (*descriptor.fields, *descriptor.oneofs)
        for field in descriptor.fields:
            if field.message_type is not None:
                yield from descriptors(field.message_type)

    def unread(rules):
        yield from UnknownFieldSet(rules)
        for _, value in rules.ListFields():
            if hasattr(value, "DESCRIPTOR"):
                yield from unread(value)

    for descriptor in descriptors(REQUESTS[name].DESCRIPTOR):
        assert not list(unread(rules_of(descriptor))), descriptor.full_name


@pytest.mark.parametrize("reason", sorted(set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}))
def test_fake_status_of_reason_equals_service(reason):
    failure = FAILURES[reason]

    assert status_of(reason).name == failure.code
    assert has_retry_delay(reason) == (failure.retry_after is not None)
