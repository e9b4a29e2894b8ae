"""The command `protoset`: the protos of the service for tools that may not use reflection."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from tamatar.auth.v1 import diagnostics_service_pb2, session_service_pb2, user_service_pb2
from tamatar_auth.cli.exits import CommandError, ExitCode

PROTO_MODULES = (
    user_service_pb2,
    session_service_pb2,
    diagnostics_service_pb2,
    health_pb2,
    error_details_pb2,  # no service imports it; clients decode the details of a status with it
)


def protoset(
    file: Annotated[Path, typer.Argument(help="The file to write, such as auth.binpb.")],
) -> None:
    """Write the compiled protos to a file. `grpcurl -protoset` reads it."""
    try:
        file.write_bytes(build_protoset())
    except OSError as error:
        message = f"{file} cannot be written: {error.strerror}."
        raise CommandError(message, ExitCode.REFUSED) from None


def build_protoset() -> bytes:
    """Return the compiled protos of the services and of error details, with all imports."""
    descriptor_set = FileDescriptorSet()
    seen: set[str] = set()
    for module in PROTO_MODULES:
        for file in _with_imports(module.DESCRIPTOR):
            if file.name not in seen:
                seen.add(file.name)
                file.CopyToProto(descriptor_set.file.add())
    return descriptor_set.SerializeToString()


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """Yield the imports of a file, then the file."""
    for imported in file.dependencies:
        yield from _with_imports(imported)
    yield file
