"""Build a release in dist/ and check it.

    python tools/release.py    the wheel, the sdist, auth.binpb, the service config and SHA256SUMS

The wheel is installed with its dependencies into a fresh environment of each supported Python that
this machine has. The versions that it lacks are printed.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
TOOLS = Path(sys.executable).parent
SERVICE_CONFIG = ROOT / "protos/tamatar/auth/v1/grpc_service_config.json"
MINOR_VERSION = "Programming Language :: Python :: 3."
START_TIMEOUT = 120
"""Seconds in which a service must be healthy."""


def main() -> int:
    """Build, check and try the release; return the exit status."""
    shutil.rmtree(DIST, ignore_errors=True)
    wheel, sdist = build(DIST)
    run(TOOLS / "twine", "check", "--strict", wheel, sdist)
    if problems := [*misplaced_files(sdist), *rebuilt_differently(wheel, sdist)]:
        print(*problems, sep="\n")
        return 1
    missing = [version for version in supported_versions() if not try_on(version, wheel)]
    (DIST / "SHA256SUMS").write_text(checksums(DIST))
    print((DIST / "SHA256SUMS").read_text(), end="")
    if missing:
        print(f"Not tried, because this machine lacks them: Python {', '.join(missing)}.")
    return 0


def build(folder: Path) -> tuple[Path, Path]:
    """Build all files of a release into a folder; return the wheel and the sdist."""
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder)
    run(TOOLS / "tamatar-auth", "protoset", folder / "auth.binpb")
    shutil.copy(SERVICE_CONFIG, folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def misplaced_files(sdist: Path) -> Iterator[str]:
    """Yield the files that only one of the sdist and the repository has."""
    with tarfile.open(sdist) as archive:
        files = (member.name for member in archive if member.isfile())
        names = {name.partition("/")[2] for name in files}
    tracked = set(output("git", "ls-files", "-z").rstrip("\0").split("\0"))
    yield from (f"git does not track {name}" for name in sorted(names - tracked - {"PKG-INFO"}))
    yield from (f"The sdist lacks {name}" for name in sorted(tracked - names))


def rebuilt_differently(wheel: Path, sdist: Path) -> Iterator[str]:
    """Yield a problem unless the sdist builds the same wheel, byte by byte."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
        (source,) = Path(folder).iterdir()
        build_wheel = (sys.executable, "-m", "hatchling", "build", "--target", "wheel")
        output(*build_wheel, "--directory", folder, cwd=source)
        if Path(folder, wheel.name).read_bytes() != wheel.read_bytes():
            yield f"{sdist.name} builds another {wheel.name}"


def supported_versions() -> list[str]:
    """Return the minor versions of Python that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minors = (c.removeprefix(MINOR_VERSION) for c in project["classifiers"])
    return [f"3.{minor}" for minor in minors if minor.isdigit()]


def try_on(version: str, wheel: Path) -> bool:
    """Install the wheel with a Python and call its service; return False without that Python."""
    python = find_python(version)
    if not python:
        return False
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", folder)
        programs = Path(folder, "bin")
        install = (programs / "python", "-m", "pip", "install", "--quiet")
        run(*install, wheel)
        run(programs / "python", "-c", "import tamatar_auth.client.testing", cwd=folder)
        run(*install, f"{wheel}[embedded]")
        run(programs / "tamatar-auth", "--version", cwd=folder)
        first_calls(programs, folder)
    print(f"Tried with {output(python, '--version').strip()}.", flush=True)
    return True


def find_python(version: str) -> str | None:
    """Return a Python of a minor version that can create environments, of PATH or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"python{version}", *map(str, pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in candidates:
        command = [candidate, "-c", "import ensurepip, venv"]
        if (
            shutil.which(candidate)
            and not subprocess.run(command, capture_output=True, check=False).returncode
        ):
            return candidate
    return None


def first_calls(programs: Path, folder: str) -> None:
    """Run examples/first_calls.py against a service with a PostgreSQL of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    serve: list[str | Path] = [programs / "tamatar-auth", "serve", "--dev", "--listen", address]
    with subprocess.Popen(
        serve, cwd=folder, env=environment(), stderr=subprocess.DEVNULL
    ) as server:
        try:
            await_service(programs, address)
            run(programs / "python", ROOT / "examples/first_calls.py", address, cwd=folder)
        finally:
            server.terminate()


def await_service(programs: Path, address: str) -> None:
    """Return when the service at an address is healthy."""
    command: list[str | Path] = [programs / "tamatar-auth", "healthcheck", "--address", address]
    for _ in range(START_TIMEOUT):
        if not subprocess.run(
            command, env=environment(), capture_output=True, check=False
        ).returncode:
            return
        time.sleep(1)
    sys.exit(f"The service did not start within {START_TIMEOUT} s.")


def checksums(folder: Path) -> str:
    """Return the lines of `sha256sum` for the files of a folder."""
    return "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(folder.iterdir())
        if file.name != "SHA256SUMS"
    )


def environment() -> dict[str, str]:
    """Return the environment without settings of a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TAMATAR_")}


def run(*command: str | Path, cwd: str | Path = ROOT) -> None:
    """Run a program that must succeed."""
    subprocess.run(command, cwd=cwd, env=environment(), check=True)


def output(*command: str | Path, cwd: str | Path = ROOT) -> str:
    """Run a program that must succeed, and return its output."""
    return subprocess.run(
        command, cwd=cwd, env=environment(), check=True, text=True, stdout=subprocess.PIPE
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
