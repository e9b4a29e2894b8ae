"""The clients in examples/, built by their scripts."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import BIN, ROOT, environment, missing_tool, run
from tests.support.waiting import PATIENCE

BUILD_PATIENCE = 600
"""Seconds that a compiler with an empty cache may take on a busy machine."""


@dataclass(frozen=True)
class Language:
    """What an example needs, and where its packages are if .ci/run fetched them."""

    name: str
    tools: Sequence[str]
    packages: Callable[[], Path]


def _modules_of_go() -> Path:
    modules = run("go", "env", "GOMODCACHE", cwd=ROOT).stdout.strip()
    return Path(modules, "google.golang.org")


LANGUAGES = (
    Language("go", ["go"], _modules_of_go),
    Language(
        "java", ["mvn", "javac"], lambda: Path.home() / ".m2/repository/io/grpc/grpc-netty-shaded"
    ),
    Language(
        "typescript", ["node"], lambda: ROOT / "examples/typescript/node_modules/@grpc/grpc-js"
    ),
)


class ExampleClient:
    """A client that was built: it validates the session tokens of its standard input."""

    def __init__(self, name: str, script: Path) -> None:
        self.name = name
        self.folder = script.parent
        self._script = script

    def validate(self, *tokens: str, options: Sequence[str], code: int, **env: str) -> list[str]:
        """Return the line that the client prints for each token."""
        ended = self.run(*tokens, options=options, code=code, **env)
        lines: list[str] = ended.stdout.splitlines()
        assert len(lines) == len(tokens)
        return lines

    def run(self, *tokens: str, options: Sequence[str], code: int | None = None, **env: str) -> Any:
        """Run the client on session tokens, and expect an exit code if one is given."""
        entered = "".join(f"{token}\n" for token in tokens)
        return run(
            self._script,
            *options,
            cwd=self.folder,
            code=code,
            patience=PATIENCE,
            entered=entered,
            **env,
        )

    def refuse(self, *options: str) -> str:
        """Return what the client prints about wrong options."""
        ended = run(self._script, *options, cwd=self.folder, code=2)
        said: str = ended.stderr
        return said

    @contextlib.contextmanager
    def running(self, *options: str, **env: str) -> Iterator[Callable[[str], str]]:
        """Run the client while the block runs; yield a function that validates a token."""
        pipe: Any = subprocess.PIPE
        with subprocess.Popen(
            [self._script, *options], env=environment(env), stdin=pipe, stdout=pipe, text=True
        ) as process:

            def validate(token: str) -> str:
                assert process.stdin
                assert process.stdout
                process.stdin.write(f"{token}\n")
                process.stdin.flush()
                return process.stdout.readline().removesuffix("\n")

            try:
                yield validate
            finally:
                process.kill()


def build(language: Language, folder: Path) -> ExampleClient:
    """Build a copy of an example once for all processes of this run of the tests."""
    for tool in language.tools:
        shutil.which(tool) or missing_tool(
            f"{tool} is missing: examples/{language.name} is not run"
        )
    if not language.packages().is_dir():
        missing_tool(f"the packages of examples/{language.name} are missing: .ci/run fetches them")
    example = folder / "examples" / language.name
    with (folder / f"{language.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not example.exists():
            _build(language, example)
    return ExampleClient(language.name, example / "run")


def _copy_protos(folder: Path) -> None:
    """Copy the protos, with the patience of the tests as the deadline of every call."""
    fresh = Path(tempfile.mkdtemp(dir=folder.parent)) / folder.name
    shutil.copytree(ROOT / "protos", fresh)
    config = fresh / "tamatar/auth/v1/grpc_service_config.json"
    deadline = f'"timeout": "{PATIENCE:.0f}s"'
    config.write_text(re.sub(r'"timeout": "\d+s"', deadline, config.read_text()))
    with contextlib.suppress(OSError):  # another process has copied them
        fresh.rename(folder)


def _build(language: Language, example: Path) -> None:
    source = ROOT / "examples" / language.name
    left = shutil.ignore_patterns("gen", "build", "node_modules", "auth.binpb")
    fresh = example.with_name(f"{language.name}-fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, ignore=left)
    _copy_protos(example.parent.parent / "protos")
    if (source / "node_modules").exists():
        (fresh / "node_modules").symlink_to(source / "node_modules")
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    offline = {"PATH": path, "GOPROXY": "off", "GOFLAGS": "-mod=readonly"}
    ended = run(fresh / "run", cwd=fresh, code=2, patience=BUILD_PATIENCE, **offline)
    assert "--address" in ended.stderr or "-address" in ended.stderr, ended.stderr
    fresh.rename(example)
