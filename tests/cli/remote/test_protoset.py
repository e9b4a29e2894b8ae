"""`tamatar-auth protoset`: the file that tools read in place of reflection."""

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tamatar_auth.security.authorization import ACCESS_RULES
from tests.support.commands import tamatar


def test_protoset_describes_services_and_imports(tmp_path):
    tamatar("protoset", "auth.binpb", cwd=tmp_path)
    described = FileDescriptorSet.FromString((tmp_path / "auth.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)

    for service, methods in ACCESS_RULES.items():
        if "Reflection" not in service:
            found = pool.FindServiceByName(service)
            assert {method.name for method in found.methods} == set(methods)
    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo")
    assert len({file.name for file in described.file}) == len(described.file)
    rules = pool.FindExtensionByName("buf.validate.field")
    request = pool.FindMessageTypeByName("tamatar.auth.v1.ValidateSessionRequest")
    options = request.fields_by_name["session_token"].GetOptions()
    assert options.SerializeToString()
    assert rules.containing_type.full_name == options.DESCRIPTOR.full_name


def test_protoset_to_unwritable_file_is_reported(tmp_path):
    refused = tamatar("protoset", "missing/auth.binpb", cwd=tmp_path, code=1)

    assert refused.stderr == "missing/auth.binpb cannot be written: No such file or directory.\n"
