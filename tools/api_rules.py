"""Say in words what the `buf.validate` options of a field want."""

from collections.abc import Iterator
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

NO_CONTROL_CHARACTERS = r"^\P{Cc}*$"
LARGEST = 2**63

FORMATS = {
    "uuid": "a UUID",
    "email": "an email address",
    "uri": "a URI",
    "hostname": "a host name",
    "ip": "an IP address",
    "defined_only": "a value of the enum",
    "unique": "no item twice",
}


def rules_in_words(field: FieldDescriptorProto) -> list[str]:
    """Return what a value must be, a phrase for each rule; none is left out."""
    options = field.options.Extensions[validate_pb2.field]
    words = ["required"] if options.required else []
    words += _of_rules(options)
    if options.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        words.append("or not set")
    if options.ignore == validate_pb2.IGNORE_ALWAYS:
        return []
    return words + [cel.message or f"`{cel.expression}`" for cel in options.cel]


def _of_rules(options: Any) -> list[str]:
    kind = options.WhichOneof("type")
    if kind is None:
        return []
    rules = getattr(options, kind)
    given = {descriptor.name: value for descriptor, value in rules.ListFields()}
    return list(_phrases(given))


def _phrases(given: dict[str, Any]) -> Iterator[str]:
    for least, most, unit in (
        ("min_len", "max_len", "characters"),
        ("min_bytes", "max_bytes", "bytes"),
        ("min_items", "max_items", "items"),
        ("min_pairs", "max_pairs", "entries"),
    ):
        bounds = given.pop(least, None), given.pop(most, None)
        if bounds != (None, None):
            yield _span(*bounds, unit)
    for name, value in given.items():
        yield _phrase(name, value)


def _span(least: int | None, most: int | None, unit: str) -> str:
    if least is None:
        return f"at most {most} {unit}"
    if most is None or most >= LARGEST:
        return f"at least {least} {unit}"
    return f"{least} to {most} {unit}"


def _phrase(name: str, value: Any) -> str:
    if name in FORMATS and value is True:
        return FORMATS[name]
    if name == "pattern":
        return "no control characters" if value == NO_CONTROL_CHARACTERS else f"matches `{value}`"
    if name == "items":
        return f"each {', '.join(_of_rules(value))}"
    signs = {"gt": "more than", "gte": "at least", "lt": "less than", "lte": "at most"}
    if name in signs:
        return f"{signs[name]} {value}"
    return f"`{name}: {str(value).strip()}`"
