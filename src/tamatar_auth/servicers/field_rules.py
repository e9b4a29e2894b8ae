"""The field rules of the protos, and the violations that callers get."""

import re
from collections.abc import Sequence

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from tamatar_auth.errors import FieldViolation

_TEXTS = {
    "required": "must be set",
    "string.pattern": "has a character or a form that is not allowed",
    "string.max_len": "must have at most {} characters",
    "string.max_bytes": "must have at most {} bytes",
    "string.min_len": "must have at least {} characters",
    "string.uuid": "must be a UUID",
    "string.uuid_empty": "must be a UUID",
    "string.ip": "must be an IPv4 or IPv6 address",
    "string.ip_empty": "must be an IPv4 or IPv6 address",
    "enum.defined_only": "must be one of the values of the enum",
    "int32.gte": "must be {} or more",
    "repeated.min_items": "must have at least {} items",
    "repeated.max_items": "must have at most {} items",
}


class FieldRules:
    """The rules beside the fields of the protos (`buf.validate`)."""

    def __init__(self) -> None:
        self._collect_violations = Validator().collect_violations

    def broken_rules(self, message: Message) -> Sequence[FieldViolation]:
        """Return a violation for each rule that a message breaks, without the value."""
        return [_violation(found) for found in self._collect_violations(message)]


def _violation(found: Violation) -> FieldViolation:
    violation = found.proto
    text = _TEXTS.get(violation.rule_id)
    # Rules without a text here have protovalidate's text, which never contains the value.
    description = text.format(found.rule_value) if text else violation.message
    return FieldViolation(
        _path(found), re.sub(r"\b1 (character|byte|item)s\b", r"1 \1", description)
    )


def _path(found: Violation) -> str:
    """Write the path of a field as `profile.bio` or `user_ids[3]`."""
    field = found.proto.field
    parts = []
    for element in field.elements if field else ():
        index = element.subscript
        parts.append(element.field_name + (f"[{index.value}]" if index is not None else ""))
    return ".".join(parts)
