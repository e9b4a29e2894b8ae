"""Made-up messages of any type: valid, at the bounds, and beyond them."""

import random
from collections import deque
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.support.soft_authenticator import SoftPasskey

CANARY = b"cnry"
"""Part of every made-up text, so no status may hold it."""

_C = CANARY.decode()

BOUNDS = (0, 1, -1, 50, 1000, 1001, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32 - 1)
SECONDS = (0, 1, -1, 1_700_000_000, 253_402_300_799, 253_402_300_800, -62_135_596_801, 2**62)
NANOS = (0, 999_999_999, 1_000_000_000, -1)
PATHS = (
    *("email", "username", "first_name", "last_name", "avatar_url", "profile", "profile.bio"),
    *("profile.display_name", "*", "user_id", f"{_C}.{_C}", ""),
)
TEXTS = (
    *("", " ", _C, f"{_C}\x00", f"{_C}\n{_C}", f"\u202e{_C}", f"{_C}\U0001f345", f"e\u0301{_C}"),
    *(f"%{_C}_", f"' OR '{_C}", f"{_C}@", f"@{_C}", f"{_C}@example.com", f"{_C}@xn--80ak6.com"),
    *(f"tms_{_C}", f"https://example.com/{_C}", f"javascript:{_C}", f"İ{_C}ß", f"{_C}/{_C}"),
    *(_C * count for count in (5, 16, 32, 63, 64, 65, 128, 500, 4000)),
    *("a" * 60 + f"{_C}@example.com", "en-GB", "Europe/Paris", f"{_C} horse battery staple"),
)
PASSWORDS = (f"{_C} horse battery staple", f"{_C} pässword of another", f"{_C} third one 123")

SENSIBLE = {
    "avatar_url": f"https://example.com/{_C}",
    "locale": "en-GB",
    "time_zone": "Europe/Paris",
    "ip_address": "192.0.2.1",
    "credential_json": SoftPasskey("localhost", bytes(16)).register('{"challenge": ""}'),
    "passkey_credential_json": SoftPasskey("localhost", bytes(16)).sign('{"challenge": ""}'),
    "order_by": "",
    "service": "",
}
"""Values of fields that have a form of their own."""

MOST_KNOWN = 300
DEEPEST = 4


class Messages:
    """Makes messages up, also from values of responses."""

    def __init__(self) -> None:
        self._known: dict[str, MutableSequence[str]] = {}

    def of(self, kind: Descriptor, chance: random.Random, depth: int = 0) -> Message:
        """Make a message up."""
        message = GetMessageClass(kind)()
        if kind.full_name.startswith("google.protobuf."):
            _fill_well_known(message, kind.name, chance)
            return message
        # Most messages are nearly valid: in some, one field is spoilt.
        spoilt = chance.choice((0.0, 0.0, 0.1, 0.5))
        chosen = {oneof.name: chance.choice(oneof.fields).name for oneof in kind.oneofs}
        for field in kind.fields:
            oneof = field.containing_oneof
            if oneof is not None and len(oneof.fields) > 1 and chosen[oneof.name] != field.name:
                continue
            if chance.random() < 0.7:
                self._set(message, field, chance, spoilt, depth)
        return message

    def learn(self, message: Message) -> None:
        """Remember the texts of a response, to send them again."""
        for field, value in message.ListFields():
            values: Any = value if field.is_repeated else [value]
            if field.type == FieldDescriptor.TYPE_STRING:
                known = self._known.setdefault(_topic(field.name), deque(maxlen=MOST_KNOWN))
                known.extend(values[:3])
            elif field.type == FieldDescriptor.TYPE_MESSAGE and not _is_map(field):
                for part in values[:3]:
                    self.learn(part)

    def _set(
        self,
        message: Message,
        field: FieldDescriptor,
        chance: random.Random,
        spoilt: float,
        depth: int,
    ) -> None:
        def one() -> Any:
            return self._value(field, chance, spoilt)

        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if _is_map(field) or depth >= DEEPEST:
                return
            kind: Any = field.message_type
            parts = [self.of(kind, chance, depth + 1) for _ in range(_many(field, chance))]
            if field.is_repeated:
                getattr(message, field.name).extend(parts)
            elif parts:
                getattr(message, field.name).CopyFrom(parts[0])
        elif field.is_repeated:
            getattr(message, field.name).extend(one() for _ in range(_many(field, chance)))
        else:
            setattr(message, field.name, one())

    def _value(self, field: FieldDescriptor, chance: random.Random, spoilt: float) -> Any:
        if field.type == FieldDescriptor.TYPE_STRING:
            owner: Any = field.containing_type
            return self._text(field.name, owner.name, chance, spoilt)
        if field.type == FieldDescriptor.TYPE_ENUM:
            kind: Any = field.enum_type
            numbers = [value.number for value in kind.values]
            return chance.choice([*numbers, 99, -1] if chance.random() < spoilt else numbers)
        return _NUMBERS[field.cpp_type](chance, spoilt)

    def _text(self, name: str, owner: str, chance: random.Random, spoilt: float) -> str:
        if chance.random() < spoilt:
            return chance.choice(TEXTS)
        known = self._known.get(_topic(name))
        # Most created users are new.
        if known and chance.random() < (0.1 if owner == "CreateUserRequest" else 0.7):
            return chance.choice(known)
        return _sensible(name, chance)


def _sensible(name: str, chance: random.Random) -> str:
    """Make up a plausible value for a field."""
    if name in SENSIBLE:
        return SENSIBLE[name]
    if "password" in name:
        return chance.choice(PASSWORDS)
    number = chance.getrandbits(40)
    if "email" in name:
        return f"{_C}{number}@example.com"
    if name.endswith(("_id", "_ids")):
        return str(UUID(int=chance.getrandbits(128), version=4))
    return f"{_C}{number:x}"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Spoil some bytes of a message: replace, add, or remove them."""
    spoilt = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(spoilt) + 1)
        kind = chance.randrange(4)
        if kind == 0 and at < len(spoilt):
            spoilt[at] = chance.getrandbits(8)
        elif kind == 1:
            spoilt[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 2:
            del spoilt[at : at + chance.randint(1, 8)]
        else:
            spoilt += spoilt[at : at + 64]
    return bytes(spoilt)


def _topic(name: str) -> str:
    """Return the topic of a field: responses name what requests take."""
    for topic in ("page_token", "session_id", "user_id", "token", "email", "username"):
        if topic in name:
            return topic
    return name


def _many(field: FieldDescriptor, chance: random.Random) -> int:
    return chance.choice((0, 1, 1, 2, 3, 30)) if field.is_repeated else 1


def _is_map(field: FieldDescriptor) -> bool:
    kind: Any = field.message_type
    return bool(kind.GetOptions().map_entry)


def _fill_well_known(message: Any, name: str, chance: random.Random) -> None:
    if name in {"Timestamp", "Duration"}:
        message.seconds, message.nanos = chance.choice(SECONDS), chance.choice(NANOS)
    elif name == "FieldMask":
        message.paths.extend(chance.choices(PATHS, k=chance.randrange(4)))
    elif name.endswith("Value") and hasattr(message, "value"):
        kind = message.DESCRIPTOR.fields_by_name["value"]
        message.value = Messages()._value(kind, chance, 0.5)


def _integer(low: int, high: int) -> Callable[[random.Random, float], int]:
    def integer(chance: random.Random, spoilt: float) -> int:
        number = chance.choice(BOUNDS) if chance.random() < spoilt else chance.choice((0, 1, 50))
        return min(max(number, low), high)

    return integer


_NUMBERS: Mapping[int, Callable[[random.Random, float], Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: lambda chance, _: chance.random() < 0.5,
    FieldDescriptor.CPPTYPE_INT32: _integer(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: _integer(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: _integer(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: _integer(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: lambda chance, _: chance.choice((0.0, float("nan"), 1e308)),
    FieldDescriptor.CPPTYPE_FLOAT: lambda chance, _: chance.choice((0.0, float("inf"))),
    FieldDescriptor.CPPTYPE_STRING: lambda chance, _: chance.randbytes(chance.randrange(40)),
}
