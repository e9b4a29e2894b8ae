"""Describe the `buf.validate` options of a field in words."""

from collections.abc import Iterator
from typing import Any

from google.api import field_behavior_pb2

# The last three are here for the pool: the file of the rules imports them.
from google.protobuf import (  # noqa: F401
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    timestamp_pb2,
)
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from protovalidate import ViolationPb

_POOL = descriptor_pool.Default()
_POOL.AddSerializedFile(ViolationPb.desc().file.proto.to_binary())

FIELD_RULES: Any = _POOL.FindExtensionByName("buf.validate.field")
ONEOF_RULES: Any = _POOL.FindExtensionByName("buf.validate.oneof")
IGNORE = _POOL.FindEnumTypeByName("buf.validate.Ignore").values_by_name

NO_CONTROL_CHARACTERS = r"^\P{Cc}*$"
UNBOUNDED = 2**63

FORMATS = {
    "uuid": "a UUID",
    "email": "an email address",
    "uri": "a URI",
    "hostname": "a host name",
    "ip": "an IP address",
    "defined_only": "a value of the enum",
    "unique": "no item twice",
}

BEHAVIORS = {
    field_behavior_pb2.REQUIRED: "required",
    field_behavior_pb2.OUTPUT_ONLY: "set by the service",
    field_behavior_pb2.IMMUTABLE: "never changes",
}


def describe_field(field: FieldDescriptorProto) -> list[str]:
    """Return a phrase for each behavior and each rule of a field."""
    behaviors = field.options.Extensions[field_behavior_pb2.field_behavior]
    words = [BEHAVIORS[each] for each in behaviors] + describe_rules(field)
    return list(dict.fromkeys(words))


def describe_rules(field: FieldDescriptorProto) -> list[str]:
    """Return a phrase for each rule of a field. No rule is omitted."""
    options = field.options.Extensions[FIELD_RULES]
    words = ["required"] if options.required else []
    words += _describe_options(options)
    if options.ignore == IGNORE["IGNORE_IF_ZERO_VALUE"].number:
        words.append("or not set")
    if options.ignore == IGNORE["IGNORE_ALWAYS"].number:
        return []
    return words + [cel.message or f"`{cel.expression}`" for cel in options.cel]


def _describe_options(options: Any) -> list[str]:
    kind = options.WhichOneof("type")
    if kind is None:
        return []
    rules = getattr(options, kind)
    rule_values = {descriptor.name: value for descriptor, value in rules.ListFields()}
    return list(_describe_rules(rule_values))


def _describe_rules(rule_values: dict[str, Any]) -> Iterator[str]:
    for minimum, maximum, unit in (
        ("min_len", "max_len", "characters"),
        ("min_bytes", "max_bytes", "bytes"),
        ("min_items", "max_items", "items"),
        ("min_pairs", "max_pairs", "entries"),
    ):
        bounds = rule_values.pop(minimum, None), rule_values.pop(maximum, None)
        if bounds != (None, None):
            yield _describe_range(*bounds, unit)
    for name, value in rule_values.items():
        yield _describe_rule(name, value)


def _describe_range(minimum: int | None, maximum: int | None, unit: str) -> str:
    if minimum is None:
        return f"at most {maximum} {unit}"
    if maximum is None or maximum >= UNBOUNDED:
        return f"at least {minimum} {unit}"
    return f"{minimum} to {maximum} {unit}"


def _describe_rule(name: str, value: Any) -> str:
    if name in FORMATS and value is True:
        return FORMATS[name]
    if name == "pattern":
        return "no control characters" if value == NO_CONTROL_CHARACTERS else f"matches `{value}`"
    if name == "items":
        return f"each {', '.join(_describe_options(value))}"
    signs = {"gt": "more than", "gte": "at least", "lt": "less than", "lte": "at most"}
    if name in signs:
        return f"{signs[name]} {value}"
    return f"`{name}: {str(value).strip()}`"
