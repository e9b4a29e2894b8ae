"""Server reflection, v1 and v1alpha: grpcurl and buf curl learn the protos from it."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import aio

_ALPHA = "v1alpha"

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def describe_v1() -> None:
    """Put the protos of v1 into the pool: those of v1alpha under another name.

    grpcio-reflection brings v1alpha only, and clients want to read about what is listed.
    """
    pool = descriptor_pool.Default()
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    renamed = text_format.MessageToString(file).replace(_ALPHA, "v1")
    pool.Add(text_format.Parse(renamed, FileDescriptorProto()))


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Answer both versions. Their messages are the same on the wire; only the name differs."""
    describe_v1()
    servicer: Any = aio.ReflectionServicer([*services, V1, V1ALPHA])
    methods = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, methods) for name in (V1, V1ALPHA)]
    )
