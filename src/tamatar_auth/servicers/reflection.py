"""Server reflection, v1 and v1alpha, for grpcurl and buf curl."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
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
    """The default descriptor pool, with methods as symbols and the file of v1."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()
        try:
            self._pool.FindServiceByName(V1)
        except KeyError:
            self._pool.AddSerializedFile(_v1_file().SerializeToString())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file that defines a symbol, or raise `KeyError`."""
        try:
            file: FileDescriptor = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            file = self._pool.FindMethodByName(symbol).containing_service.file
        return file


def _v1_file() -> FileDescriptorProto:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
