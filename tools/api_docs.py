"""Write docs/reference/api.md from the compiled protos, the rules of access and the failures.

    python -m tools.api_docs generate    write the page
    python -m tools.api_docs check       check that the page is up to date

Runs in `.venv`, and compiles the protos with `.venv-proto`, or reads a compiled `--image FILE`.
"""

import argparse
import importlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, MethodOptions

from tamatar_auth import errors
from tamatar_auth.security.authorization import ACCESS_RULES
from tools.api_protos import PACKAGE, ProtoElement, Protos, type_name
from tools.api_rules import ONEOF_RULES, describe_field

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference/api.md"
PROTOC_PYTHON = ROOT / ".venv-proto/bin/python"

INTRODUCTION = """\
# The API

Every call of `tamatar.auth.v1`, its rules, and the reasons that it fails with. `make proto` generates this page from [protos/](https://github.com/tamatar/tamatar-auth/tree/main/protos/tamatar/auth/v1), from [the rules of access](https://github.com/tamatar/tamatar-auth/blob/main/src/tamatar_auth/security/authorization.py) and from [the failures](https://github.com/tamatar/tamatar-auth/tree/main/src/tamatar_auth/errors). `make check` compares them.

Any call may fail with `INVALID_FIELDS`, `MALFORMED_REQUEST`, `CALLER_UNKNOWN`, `CALLER_NOT_ALLOWED`, `SERVER_BUSY`, `STORAGE_UNAVAILABLE`, `STORAGE_TIMED_OUT`, `TRANSACTION_CONFLICT` or `INTERNAL_FAULT`. The tables list the other reasons of each call. [Reasons](#reasons) explains all of them, and [Errors](errors.md) says what a caller does then. The server also offers `grpc.health.v1.Health` to everyone, and reflection to admins.
"""  # noqa: E501 - a paragraph of the page is a line of it

IDEMPOTENCY = {
    MethodOptions.NO_SIDE_EFFECTS: "Changes nothing.",
    MethodOptions.IDEMPOTENT: "May be repeated.",
}


def main() -> int:
    """Run the command of the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=("generate", "check"))
    parser.add_argument("--image", type=Path)
    options = parser.parse_args()
    image = options.image.read_bytes() if options.image else compiled()
    page = Page(Protos(image)).text()
    if options.command == "generate":
        PAGE.write_text(page)
        return 0
    if PAGE.exists() and PAGE.read_text() == page:
        return 0
    print("docs/reference/api.md is outdated: run `make proto`.")
    return 1


def compiled() -> bytes:
    """Compile the protos and return their image, with comments."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "protos.binpb")
        command: list[str | Path] = [PROTOC_PYTHON, "tools/protos.py", "image", "--comments", image]
        subprocess.run(command, cwd=ROOT, check=True)
        return image.read_bytes()


def failures() -> Mapping[str, type[errors.Failure]]:
    """Return the classes of failures by reason."""
    for module in pkgutil.iter_modules(errors.__path__):
        importlib.import_module(f"{errors.__name__}.{module.name}")
    ours = (e for e in errors.Failure.__subclasses__() if e.__module__.startswith(errors.__name__))
    return {each.reason: each for each in ours}


class Page:
    """The text of docs/reference/api.md."""

    def __init__(self, protos: Protos) -> None:
        self._protos = protos
        self._reasons = {value.name: value for value in protos.enums["ErrorReason"].children}
        self._methods = {m.name: m for service in protos.services for m in service.children}

    def text(self) -> str:
        """Return the whole page."""
        parts = [INTRODUCTION, *self._index()]
        for service in self._protos.services:
            parts += [f"## {service.name}", service.comment]
            for method in service.children:
                parts += self._method(service, method)
        parts += ["## Messages", *self._shared_messages(), "## Enums", *self._enums()]
        parts += ["## Reasons", self._protos.enums["ErrorReason"].comment, *self._reason_table()]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def _index(self) -> Iterator[str]:
        for service in self._protos.services:
            rows = [
                [
                    f"[{method.name}](#{method.name.lower()})",
                    _roles(service, method),
                    ", ".join(f"`{name}`" for name in self._reasons_of(method)),
                ]
                for method in service.children
            ]
            yield f"**{service.name}**"
            yield _table(["Call", "Roles", "Fails with"], rows)

    def _method(self, service: ProtoElement, method: ProtoElement) -> Iterator[str]:
        options = method.proto.options
        idempotency = IDEMPOTENCY.get(options.idempotency_level, "")
        yield f"### {method.name}"
        yield method.comment
        yield f"Roles: {_roles(service, method)}. {idempotency}".strip()
        for kind, streams in (
            ("input_type", method.proto.client_streaming),
            ("output_type", method.proto.server_streaming),
        ):
            name = getattr(method.proto, kind).removeprefix(f".{PACKAGE}.")
            yield from self._message(self._protos.messages[name], streams=streams)

    def _message(self, message: ProtoElement, *, streams: bool = False) -> Iterator[str]:
        prefix = "A stream of " if streams else ""
        if not message.children:
            yield f"{prefix}`{message.name}`, without fields. {message.comment}"
            return
        yield f"{prefix}`{message.name}`: {message.comment}"
        rows = [
            [f"`{field.name}`", self._type(field.proto), self._rules(message, field), field.comment]
            for field in message.children
        ]
        yield _table(["Field", "Type", "Rules", "Description"], rows)

    def _type(self, field: FieldDescriptorProto) -> str:
        name = type_name(field)
        known = name in self._protos.messages or name in self._protos.enums
        linked = f"[{name}](#{name.lower()})" if known else name.rpartition(".")[2]
        is_list = field.label == FieldDescriptorProto.LABEL_REPEATED
        return f"list of {linked}" if is_list else linked

    def _rules(self, message: ProtoElement, field: ProtoElement) -> str:
        words = describe_field(field.proto)
        if field.proto.proto3_optional:
            words.insert(0, "optional")
        elif field.proto.HasField("oneof_index"):
            oneof = message.oneofs[field.proto.oneof_index]
            needed = oneof.proto.options.Extensions[ONEOF_RULES].required
            words.insert(0, f"{'exactly' if needed else 'at most'} one of `{oneof.name}`")
        if field.proto.options.debug_redact:
            words.append("a secret")
        return "; ".join(words)

    def _shared_messages(self) -> Iterator[str]:
        own = {
            name.removeprefix(f".{PACKAGE}.")
            for method in self._methods.values()
            for name in (method.proto.input_type, method.proto.output_type)
        }
        for name, message in sorted(self._protos.messages.items()):
            if name not in own:
                yield f"### {name}"
                yield from self._message(message)

    def _enums(self) -> Iterator[str]:
        for name, enum in sorted(self._protos.enums.items()):
            if name == "ErrorReason":
                yield "### ErrorReason\n\nThe [reasons](#reasons) below."
                continue
            rows = [[f"`{value.name}`", value.comment] for value in enum.children]
            yield f"### {name}"
            yield enum.comment
            yield _table(["Value", "Description"], rows)

    def _reasons_of(self, method: ProtoElement) -> list[str]:
        names_in_comment = re.findall(r"`([A-Z_]+)`", method.comment)
        for other in re.findall(r"as (\w+) does", method.comment):
            names_in_comment = [*self._reasons_of(self._methods[other]), *names_in_comment]
        return list(dict.fromkeys(name for name in names_in_comment if name in self._reasons))

    def _status(self, reason: str) -> str:
        return failures()[reason].code

    def _reason_table(self) -> Iterator[str]:
        rows = []
        for name, value in self._reasons.items():
            if value.proto.number:
                status, _, means = value.comment.partition(": ")
                if status != self._status(name):
                    sys.exit(f"{name} is {self._status(name)}, and its comment says {status}.")
                rows.append([f"`{name}`", status, means[:1].upper() + means[1:]])
        yield _table(["Reason", "Status", "Means"], rows)


def _roles(service: ProtoElement, method: ProtoElement) -> str:
    roles = ACCESS_RULES[f"{PACKAGE}.{service.name}"][method.name].roles
    return ", ".join(f"`{role.value}`" for role in sorted(roles, reverse=True))


def _table(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    cells = [[cell.replace("\n\n", " ").replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    sys.exit(main())
