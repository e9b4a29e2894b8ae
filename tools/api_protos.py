"""Read compiled protos: their elements, and the comment of each."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PACKAGE = "tamatar.auth.v1"

# Field numbers of descriptor.proto. The path of a comment consists of them.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS, ONEOFS = 2, 3, 4, 8
METHODS = VALUES = 2


@dataclass(frozen=True)
class ProtoElement:
    """A service, method, message, field or enum value, with its comment."""

    proto: Any
    comment: str
    children: tuple["ProtoElement", ...] = ()
    oneofs: tuple["ProtoElement", ...] = ()

    @property
    def name(self) -> str:
        """The name without the package."""
        return str(self.proto.name)


class Protos:
    """The protos of our package in an image that has comments."""

    def __init__(self, image: bytes) -> None:
        files = FileDescriptorSet.FromString(image).file
        self._files = [_File(file) for file in files if file.package == PACKAGE]

    @cached_property
    def services(self) -> list[ProtoElement]:
        """The services, each with its methods."""
        return [part for file in self._files for part in file.services()]

    @cached_property
    def messages(self) -> Mapping[str, ProtoElement]:
        """The messages by name, each with its fields."""
        return {part.name: part for file in self._files for part in file.messages()}

    @cached_property
    def enums(self) -> Mapping[str, ProtoElement]:
        """The enums by name, each with its values."""
        return {part.name: part for file in self._files for part in file.enums()}


def type_name(field: FieldDescriptorProto) -> str:
    """Return the type of a field: a message or an enum without our package, or a scalar."""
    if field.type_name:
        return field.type_name.removeprefix(".").removeprefix(f"{PACKAGE}.")
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


class _File:
    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(place.path): _paragraphs(place.leading_comments)
            for place in file.source_code_info.location
        }

    def services(self) -> Iterator[ProtoElement]:
        for number, service in enumerate(self._file.service):
            yield self._service(service, (SERVICES, number))

    def messages(self) -> Iterator[ProtoElement]:
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, (MESSAGES, number))

    def enums(self) -> Iterator[ProtoElement]:
        for number, enum in enumerate(self._file.enum_type):
            yield self._enum(enum, (ENUMS, number))
        for number, message in enumerate(self._file.message_type):
            for inner, enum in enumerate(message.enum_type):
                yield self._enum(enum, (MESSAGES, number, NESTED_ENUMS, inner))

    def _service(self, service: ServiceDescriptorProto, path: tuple[int, ...]) -> ProtoElement:
        return self._element(service, path, self._elements(service.method, (*path, METHODS)))

    def _message(self, message: DescriptorProto, path: tuple[int, ...]) -> Iterator[ProtoElement]:
        fields = self._elements(message.field, (*path, FIELDS))
        oneofs = self._elements(message.oneof_decl, (*path, ONEOFS))
        yield self._element(message, path, fields, oneofs)
        for number, nested in enumerate(message.nested_type):
            yield from self._message(nested, (*path, NESTED, number))

    def _enum(self, enum: EnumDescriptorProto, path: tuple[int, ...]) -> ProtoElement:
        return self._element(enum, path, self._elements(enum.value, (*path, VALUES)))

    def _elements(self, protos: Any, path: tuple[int, ...]) -> tuple[ProtoElement, ...]:
        return tuple(self._element(each, (*path, number)) for number, each in enumerate(protos))

    def _element(
        self, proto: Any, path: tuple[int, ...], *inner: tuple[ProtoElement, ...]
    ) -> ProtoElement:
        return ProtoElement(proto, self._comments.get(path, ""), *inner)


def _paragraphs(comment: str) -> str:
    """Join the lines of each paragraph of a comment."""
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
