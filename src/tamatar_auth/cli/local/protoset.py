"""What the service answers, in the form that tools read which may not ask it."""

from collections.abc import Iterator

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from tamatar.auth.v1 import diagnostics_service_pb2, session_service_pb2, user_service_pb2

PROTO_MODULES = (
    user_service_pb2,
    session_service_pb2,
    diagnostics_service_pb2,
    health_pb2,
    error_details_pb2,  # no call names it: it is what the details of a status are read by
)


def build_protoset() -> bytes:
    """Return the compiled protos of every service, of the details of errors, and all imports."""
    descriptor_set = FileDescriptorSet()
    seen: set[str] = set()
    for module in PROTO_MODULES:
        for file in _with_imports(module.DESCRIPTOR):
            if file.name not in seen:
                seen.add(file.name)
                file.CopyToProto(descriptor_set.file.add())
    return descriptor_set.SerializeToString()


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """Yield a file after the files that it imports."""
    for imported in file.dependencies:
        yield from _with_imports(imported)
    yield file
