"""The command `protoset`: the protos of the service for tools that may not use reflection."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2

from tamatar_auth.cli.exits import CommandError, ExitCode


def protoset(
    file: Annotated[Path, typer.Argument(help="The file to write, such as auth.binpb.")],
) -> None:
    """Write the compiled protos to a file. `grpcurl -protoset` reads it."""
    try:
        file.write_bytes(read_protoset())
    except OSError as error:
        message = f"{file} cannot be written: {error.strerror}."
        raise CommandError(message, ExitCode.REFUSED) from None


def read_protoset() -> bytes:
    """Return the compiled protos of all services and of error details, with all imports."""
    health = FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(health)
    ours = files("tamatar.auth.v1").joinpath("auth.binpb").read_bytes()
    return ours + FileDescriptorSet(file=[health]).SerializeToString()
