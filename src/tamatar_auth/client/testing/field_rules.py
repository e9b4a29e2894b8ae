"""The field rules of the protos (`buf.validate`), read from the descriptors.

The client has no protovalidate, which takes 12 MB. This module knows the rules that
the protos use, and no others; a test compares it with the rules of the real service.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from tamatar_auth.client.testing.errors import BrokenRule

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTROL, _NO_CONTROL = r"\x00-\x1f\x7f-\x9f", r" -~\xa0-\U0010ffff"
"""The contents of the classes `\\p{Cc}` and `\\P{Cc}` of RE2, which Python does not have."""


def broken_rules(message: Message, parent_path: str = "") -> Iterator[BrokenRule]:
    """Yield a violation for each rule that a message breaks, without the value.

    `parent_path` is the path of the message in the request, such as `filter.`.
    """
    for oneof in message.DESCRIPTOR.oneofs:
        if rules_of(oneof).required_oneof and message.WhichOneof(oneof.name) is None:
            yield BrokenRule(f"{parent_path}{oneof.name}", "must be set")
    for field in message.DESCRIPTOR.fields:
        yield from _broken_rules_of_field(message, field, f"{parent_path}{field.name}")


def _broken_rules_of_field(message: Message, field: Any, path: str) -> Iterator[BrokenRule]:
    rules, value = rules_of(field), getattr(message, field.name)
    if field.is_repeated:
        yield from _broken_rules_of_list(value, rules.repeated, path)
    elif field.has_presence and not message.HasField(field.name):
        if rules.required:
            yield BrokenRule(path, "must be set")
    elif rules.HasField("duration"):
        least, most = rules.duration.gte.seconds, rules.duration.lte.seconds
        if not least <= value.seconds + value.nanos / 1e9 <= most:
            bounds = f"greater than or equal to {least}s and less than or equal to {most}s"
            yield BrokenRule(path, f"must be {bounds}")
    elif field.message_type is not None:
        yield from broken_rules(value, f"{path}.")
    elif value or not rules.ignore:
        for description in _broken_rules_of_value(value, rules, field):
            yield BrokenRule(path, description)


def _broken_rules_of_list(values: Any, rules: Any, path: str) -> Iterator[BrokenRule]:
    if len(values) < rules.min_items:
        yield BrokenRule(path, f"must have at least {_count(rules.min_items, 'item')}")
    if rules.HasField("max_items") and len(values) > rules.max_items:
        yield BrokenRule(path, f"must have at most {_count(rules.max_items, 'item')}")
    for index, value in enumerate(values):
        if isinstance(value, str):
            for description in _broken_rules_of_text(value, rules.items.string):
                yield BrokenRule(f"{path}[{index}]", description)


def _broken_rules_of_value(value: Any, rules: Any, field: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _broken_rules_of_text(value, rules.string)
    elif rules.int32.HasField("gte") and value < rules.int32.gte:
        yield f"must be {rules.int32.gte} or more"
    elif rules.enum.defined_only and value not in field.enum_type.values_by_number:
        yield "must be one of the values of the enum"


def _broken_rules_of_text(text: str, rules: Any) -> Iterator[str]:
    if len(text) < rules.min_len:
        yield f"must have at least {_count(rules.min_len, 'character')}"
    if rules.HasField("max_len") and len(text) > rules.max_len:
        yield f"must have at most {_count(rules.max_len, 'character')}"
    if rules.HasField("pattern") and not _pattern(rules.pattern).fullmatch(text):
        yield "has a character or a form that is not allowed"
    if rules.ip and not _is_ip_address(text):
        yield "must be an IPv4 or IPv6 address"
    if rules.uuid and not _UUID.fullmatch(text):
        yield "must be a UUID"


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of RE2 that stands between ^ and $."""

    def python_class(found: re.Match[str]) -> str:
        return found[0].replace(r"\p{Cc}", _CONTROL).replace(r"\P{Cc}", _NO_CONTROL)

    classes = re.sub(r"\[[^]]*\]", python_class, pattern)
    return re.compile(classes.replace(r"\P{Cc}", f"[{_NO_CONTROL}]"), re.ASCII)


@cache
def rules_of(descriptor: Any) -> Any:
    """Return the rules of a field or of a oneof."""
    options = descriptor.GetOptions().SerializeToString()
    return _options_class().FromString(options).rules


@cache
def _options_class() -> Any:
    """Return a class for options of fields and oneofs, with the rules of buf.validate.

    It reads the bytes of the options, because buf.validate may not be installed.
    """
    messages = [{"name": name, "field": fields} for name, fields in _MESSAGES.items()]
    file = {"name": "tamatar_auth/rules.proto", "package": "rules", "messageType": messages}
    pool = descriptor_pool.DescriptorPool()
    pool.Add(json_format.ParseDict(file, FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("rules.Options"))


def _field(name: str, number: int, kind: str) -> Mapping[str, object]:
    """Return the JSON of a field, of a scalar type or of a message of this package."""
    field = {"name": name, "number": number, "label": "LABEL_OPTIONAL"}
    if kind[0].isupper():
        return {**field, "type": "TYPE_MESSAGE", "typeName": f".rules.{kind}"}
    return {**field, "type": f"TYPE_{kind.upper()}"}


_MESSAGES = {
    "Options": [_field("rules", 1159, "Rules")],
    "Rules": [  # of a field, but for the first
        _field("required_oneof", 1, "bool"),
        _field("int32", 3, "Int32"),
        _field("string", 14, "String"),
        _field("enum", 16, "Enum"),
        _field("repeated", 18, "Repeated"),
        _field("duration", 21, "DurationBounds"),
        _field("required", 25, "bool"),
        _field("ignore", 27, "int32"),
    ],
    "String": [
        _field("min_len", 2, "uint64"),
        _field("max_len", 3, "uint64"),
        _field("pattern", 6, "string"),
        _field("ip", 14, "bool"),
        _field("uuid", 22, "bool"),
    ],
    "Int32": [_field("gte", 5, "int32")],
    "Enum": [_field("defined_only", 2, "bool")],
    "DurationBounds": [_field("lte", 4, "Seconds"), _field("gte", 6, "Seconds")],
    "Seconds": [_field("seconds", 1, "int64")],
    "Repeated": [
        _field("min_items", 1, "uint64"),
        _field("max_items", 2, "uint64"),
        _field("items", 4, "Rules"),
    ],
}
"""The part of buf/validate/validate.proto that the protos use."""
