"""Compile protos/ to the code in generated/, and to images that buf reads.

    python tools/protos.py generate      write generated/
    python tools/protos.py check         list the files of generated/ that are outdated
    python tools/protos.py image FILE    write the compiled protos (--comments: with comments)

Runs in `.venv-proto`, because the version of the compiler decides which grpcio and protobuf the
stubs need. The service's own versions would exclude callers with older ones.

The stubs keep the field rules (`buf.validate`) as options, but do not import the file that defines
them. Otherwise the wheel would contain a top-level package `buf`, which could overwrite that of
another distribution. Validators find the rules by their field numbers. Edition 2024 of the
language has `import option` for this.

A `py.typed` marks the stubs as typed. There is no `__init__.py`, so `tamatar` stays a namespace
package that other distributions can share. The service config is copied, because the client reads
it. auth.binpb is for other languages: it has the rules, the comments and all imports.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc_tools
import protovalidate
from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated"
GOOGLEAPIS = Path(field_behavior_pb2.__file__).parents[2]
VALIDATE = "buf/validate/validate.proto"
SERVICE_CONFIG = "grpc_service_config.json"
PROTOSET = "tamatar/auth/v1/auth.binpb"
ERROR_SOURCES = ("google/rpc/status.proto", "google/rpc/error_details.proto")
"""The protos of the details of a status. Callers decode them, and our protos do not import them."""
PLUGINS = ("mypy", "mypy_grpc")


def main() -> int:
    """Run the command of the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate")
    commands.add_parser("check")
    image = commands.add_parser("image")
    image.add_argument("file", type=Path)
    image.add_argument("--comments", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        compiler = Compiler(Path(folder))
        if options.command == "image":
            compiler.write_image(options.file, comments=options.comments)
            return 0
        fresh = compiler.generate()
        if options.command == "check":
            return check(fresh)
        return write(fresh)


def write(fresh: dict[Path, bytes]) -> int:
    """Write the changed files of generated/ and remove the stale ones."""
    present = contents(GENERATED)
    stale = present.keys() - fresh.keys()
    changed = [name for name in fresh if fresh[name] != present.get(name)]
    for name in stale:
        (GENERATED / name).unlink()
    for name in changed:
        (GENERATED / name).parent.mkdir(parents=True, exist_ok=True)
        (GENERATED / name).write_bytes(fresh[name])
    print(f"generated/: {len(changed)} files written, {len(stale)} removed.")
    return 0


def check(fresh: dict[Path, bytes]) -> int:
    """Print the files that `generate` would change; return the exit status."""
    present = contents(GENERATED)
    differing = [n for n in fresh.keys() | present.keys() if fresh.get(n) != present.get(n)]
    for name in sorted(differing):
        print(f"generated/{name.as_posix()} is outdated: run `make proto`.")
    return 1 if differing else 0


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the files below a folder by their paths in it."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


class Compiler:
    """Runs protoc on all files of protos/."""

    def __init__(self, folder: Path) -> None:
        """Use this folder for the input and output of protoc."""
        self.output = folder / "generated"
        self._folder = folder
        self._sources = sorted(p.relative_to(PROTOS).as_posix() for p in PROTOS.rglob("*.proto"))
        self._imports = folder / "imports.binpb"
        # The package has no validate.proto, only the descriptor that it was compiled to.
        validate = protovalidate.ViolationPb.desc().file.proto.to_binary()
        imports = FileDescriptorSet()
        imports.file.add().ParseFromString(validate)
        self._imports.write_bytes(imports.SerializeToString())

    def write_image(self, image: Path, *others: str, comments: bool = False) -> None:
        """Write the compiled protos, other files, and all that they import."""
        options = ["--include_imports", f"--descriptor_set_out={image}"]
        options += ["--include_source_info"] if comments else []
        self._compile(*options, *self._sources, *others)

    def generate(self) -> dict[Path, bytes]:
        """Return the stubs by their paths below generated/."""
        self.output.mkdir()
        image = self._folder / "image.binpb"
        self.write_image(image, *ERROR_SOURCES, comments=True)
        files = trimmed(FileDescriptorSet.FromString(image.read_bytes()))
        protoset = files.SerializeToString(deterministic=True)
        image.write_bytes(without_rules_file(files).SerializeToString())
        # The gRPC stubs of files without services would be empty.
        services = [f.name for f in files.file if f.service and f.name in self._sources]
        for code, types, names in (
            ("python", "mypy", self._sources),
            ("grpc_python", "mypy_grpc", services),
        ):
            outputs = (f"--{code}_out={self.output}", f"--{types}_out=quiet:{self.output}")
            self._protoc(f"--descriptor_set_in={image}", *outputs, *names)
        for folder in {stub.parent for stub in self.output.rglob("*.py")}:
            (folder / "py.typed").touch()
        for config in PROTOS.rglob(SERVICE_CONFIG):
            shutil.copy(config, self.output / config.parent.relative_to(PROTOS))
        (self.output / PROTOSET).write_bytes(protoset)
        return contents(self.output)

    def _compile(self, *arguments: str) -> None:
        self._protoc(
            f"--descriptor_set_in={self._imports}",
            f"--proto_path={PROTOS}",
            f"--proto_path={GOOGLEAPIS}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            *arguments,
        )

    def _protoc(self, *arguments: str) -> None:
        scripts = Path(sys.executable).parent
        plugins = [f"--plugin=protoc-gen-{n}={scripts}/protoc-gen-{n}" for n in PLUGINS]
        status = protoc.main(["protoc", *plugins, *arguments])
        if status:
            sys.exit(status)


def without_rules_file(files: FileDescriptorSet) -> FileDescriptorSet:
    """Return the compiled files without `buf/validate`. Its options keep their numbers."""
    kept = [file for file in files.file if file.name != VALIDATE]
    for file in kept:
        if VALIDATE in file.dependency:
            file.dependency.remove(VALIDATE)
    return FileDescriptorSet(file=kept)


def trimmed(files: FileDescriptorSet) -> FileDescriptorSet:
    """Remove the comments of imports, and the JSON names of fields, which grpcurl would print."""
    for file in files.file:
        if not (PROTOS / file.name).exists():
            file.ClearField("source_code_info")
        for field in fields(file.message_type):
            field.ClearField("json_name")
    return files


def fields(messages: Iterable[DescriptorProto]) -> Iterator[FieldDescriptorProto]:
    """Yield the fields of messages, and of those nested in them."""
    for message in messages:
        yield from message.field
        yield from fields(message.nested_type)


if __name__ == "__main__":
    sys.exit(main())
