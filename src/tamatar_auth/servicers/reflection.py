"""Server reflection, v1 and v1alpha, for grpcurl and buf curl."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import aio

from tamatar_auth.servicers.field_rules import rules_file

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Register both versions. They have different names and the same messages on the wire."""
    servicer: Any = aio.ReflectionServicer([*services, V1, V1ALPHA], _DescriptorPool())
    methods = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
    }
    for name in (V1, V1ALPHA):
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods)])
        server.add_registered_method_handlers(name, methods)


class _DescriptorPool:
    """A descriptor pool with methods as symbols."""

    def __init__(self) -> None:
        files = _Files()
        self._pool: Any = descriptor_pool.DescriptorPool(files)
        for name in files.added:
            self._pool.FindFileByName(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file that defines a symbol, or raise `KeyError`."""
        try:
            file: FileDescriptor = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            file = self._pool.FindMethodByName(symbol).containing_service.file
        return file


class _Files:
    """The files of the default pool, that of v1, and the field rules, which ours import again."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()
        self._rules = rules_file()
        self.added = {file.name: file for file in (_v1_file(), self._rules)}

    def FindFileByName(self, name: str) -> FileDescriptorProto:
        """Return a file by its name, or raise `KeyError`."""
        return self.added.get(name) or self._copy(self._pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptorProto:
        """Return the file that defines a symbol, or raise `KeyError`."""
        return self._copy(self._pool.FindFileContainingSymbol(symbol))

    def _copy(self, file: FileDescriptor) -> FileDescriptorProto:
        copied = FileDescriptorProto()
        file.CopyToProto(copied)
        if copied.package == "tamatar.auth.v1":
            copied.dependency.append(self._rules.name)
        return copied


def _v1_file() -> FileDescriptorProto:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
