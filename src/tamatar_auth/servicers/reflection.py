"""Server reflection, v1 and v1alpha, for grpcurl and buf curl."""

from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import aio

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
        database = _Files()
        self._pool: Any = descriptor_pool.DescriptorPool(database)
        for name in database.compiled:
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
    """Our protos with the field rules, which the stubs do not import, and the default pool."""

    def __init__(self) -> None:
        ours = files("tamatar.auth.v1").joinpath("auth.binpb").read_bytes()
        self.compiled = {file.name: file for file in FileDescriptorSet.FromString(ours).file}
        v1 = _v1_file()
        self.compiled[v1.name] = v1

    def FindFileByName(self, name: str) -> FileDescriptorProto:
        """Return a file by its name, or raise `KeyError`."""
        return self.compiled.get(name) or _copy(descriptor_pool.Default().FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptorProto:
        """Return the file of the default pool that defines a symbol, or raise `KeyError`."""
        return _copy(descriptor_pool.Default().FindFileContainingSymbol(symbol))


def _copy(file: FileDescriptor) -> FileDescriptorProto:
    copied = FileDescriptorProto()
    file.CopyToProto(copied)
    return copied


def _v1_file() -> FileDescriptorProto:
    file: Any = pb.DESCRIPTOR
    text = text_format.MessageToString(_copy(file)).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
