"""Packaging: lock files, Makefile and wheel."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tamatar_auth
from tests.support.commands import BIN, run

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]

INSTALLING_PAGES = ("README.md", "docs/guide/getting-started.md")
EXTRAS = PROJECT["project"]["optional-dependencies"]


def of_extra(name: str) -> list[str]:
    """Return the requirements of an extra, with those of the extras it includes."""
    asked = [(line, re.fullmatch(r"tamatar-auth\[(\w+)\]", line)) for line in EXTRAS[name]]
    return [one for line, more in asked for one in (of_extra(more[1]) if more else [line])]


RUNTIME = [*PROJECT["project"]["dependencies"], *of_extra("server")]
LOCAL = [
    *PROJECT["project"]["dependencies"],
    *of_extra("embedded"),
    *GROUPS["build"],
    *GROUPS["sources"],
]
LOCKED = {
    "runtime": RUNTIME,
    "local": LOCAL,
    "dev": [*LOCAL, *(line for line in GROUPS["dev"] if isinstance(line, str))],
    "build": GROUPS["build"],
    "proto": GROUPS["proto"],
    "oldest": GROUPS["oldest"],
    "lock": GROUPS["lock"],
}

PIN = re.compile(r"([a-z0-9-]+)==([^\s;]+)(?: ; [^\\]+)? \\")
BUILT = re.compile(r"--no-binary ([a-z0-9-]+)")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def lines(lock: str) -> list[str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(lock: str) -> dict[str, str]:
    return {pin[1]: pin[2] for line in lines(lock) if (pin := PIN.fullmatch(line))}


def output(*command: str | Path, cwd: Path) -> str:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


class TestLockFiles:
    """Lock files of the environments."""

    def test_each_environment_has_a_lock_file(self) -> None:
        assert {path.stem for path in (ROOT / "requirements").iterdir()} == set(LOCKED)

    @pytest.mark.parametrize("lock", LOCKED)
    def test_lock_file_holds_only_pins_and_hashes(self, lock: str) -> None:
        kinds = [PIN, HASH, BUILT] if lock == "dev" else [PIN, HASH]

        assert not [line for line in lines(lock) if not any(kind.fullmatch(line) for kind in kinds)]

    def test_packages_without_a_wheel_are_built_with_locked_tools(self) -> None:
        built = {found[1] for line in lines("dev") if (found := BUILT.fullmatch(line))}

        assert built == {"python-etcd", "ydiff"}
        assert built <= pins("dev").keys()
        assert "setuptools" in pins("local")
        assert "--no-build-isolation" in (ROOT / "tools/environment.sh").read_text()

    @pytest.mark.parametrize("lock", LOCKED)
    def test_lock_file_meets_requirements_of_project(self, lock: str) -> None:
        locked = pins(lock)
        unmet = [
            str(wanted)
            for wanted in map(Requirement, LOCKED[lock])
            if not wanted.specifier.contains(
                locked.get(canonicalize_name(wanted.name), "0"), prereleases=True
            )
        ]

        assert not unmet, "`make lock` renews the lock files"

    def test_tests_run_on_versions_of_the_service(self) -> None:
        assert pins("runtime").items() <= pins("local").items() <= pins("dev").items()


class TestWheel:
    """The wheel, and environments that have it."""

    def test_make_help_explains_every_target(self) -> None:
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        explained = re.findall(
            r"^  make ([a-z-]+) +\S", output("make", "help", cwd=ROOT), re.MULTILINE
        )

        assert targets is not None
        assert sorted(explained) == sorted(targets[1].split())

    def test_wheel_holds_service_stubs_and_migrations(self, wheel: Path) -> None:
        def files(folder: str, root: str = "") -> set[str]:
            below = (ROOT / root / folder).rglob("*")
            found = {p.relative_to(ROOT / root).as_posix() for p in below if p.is_file()}
            return {name for name in found if "__pycache__" not in name}

        migrations = {f"tamatar_auth/{name}" for name in files("migrations")}
        stubs = files("tamatar", "generated")
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}

        assert names == files("tamatar_auth", "src") | stubs | migrations

    def test_wheel_holds_the_license(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            (license_file,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))

            assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()

    def test_wheel_installs_the_command(self, wheel_environment: Path, tmp_path: Path) -> None:
        said = output(wheel_environment / "bin/tamatar-auth", "version", cwd=tmp_path)

        assert tamatar_auth.__version__ in said

    def test_install_commands_on_pages_install_the_wheel(self, wheel: Path, tmp_path: Path) -> None:
        pages = [(ROOT / page).read_text() for page in INSTALLING_PAGES]
        block = re.compile(r"(?m)^```console\nmake wheel\n(.*)\n```$")
        (commands,) = {command for page in pages for command in block.findall(page)}
        (tmp_path / "dist").mkdir()
        shutil.copy(wheel, tmp_path / "dist")
        output(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
        python = tmp_path / "venv/bin/python"

        assert "hatchling build --target wheel" in output("make", "--dry-run", "wheel", cwd=ROOT)
        run(
            *("sh", "-c", commands),
            cwd=tmp_path,
            PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
            PIP_PYTHON=str(python),
            # The tests use no package index.
            PIP_NO_INDEX="1",
            PIP_NO_DEPS="1",
        )

        assert output(python, "-c", "import tamatar.auth.v1, tamatar_auth", cwd=tmp_path) == ""
        assert set(re.findall(r"dist/[^\s\[]+", "".join(pages))) == {f"dist/{wheel.name}"}

    def test_stubs_are_typed_for_both_kinds_of_channel(
        self, wheel_environment: Path, tmp_path: Path
    ) -> None:
        caller = tmp_path / "caller.py"
        caller.write_text(
            "import grpc\n"
            "from tamatar.auth.v1 import user_service_pb2 as pb\n"
            "from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub\n"
            "\n"
            "\n"
            "async def create(channel: grpc.aio.Channel) -> pb.CreateUserResponse:\n"
            "    return await UserServiceStub(channel).CreateUser(pb.CreateUserRequest())\n"
            "\n"
            "\n"
            "def create_now(channel: grpc.Channel) -> pb.CreateUserResponse:\n"
            "    return UserServiceStub(channel).CreateUser(pb.CreateUserRequest())\n"
        )
        python = wheel_environment / "bin/python"
        mypy = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache")

        output(*mypy, "--python-executable", python, caller, cwd=tmp_path)
        output(python, "-W", "error", caller, cwd=tmp_path)

    def test_client_package_is_typed(self, wheel_environment: Path, tmp_path: Path) -> None:
        caller = tmp_path / "caller.py"
        caller.write_text(
            "from concurrent.futures import ThreadPoolExecutor\n"
            "\n"
            "import grpc\n"
            "from tamatar.auth.v1 import session_service_pb2 as pb\n"
            "from tamatar_auth.client import SessionError, SessionGuard, aio\n"
            "from tamatar_auth.client import connect, current_session\n"
            "from tamatar_auth.client.testing import FakeAuthServer\n"
            "\n"
            "REQUEST = pb.ValidateSessionRequest(session_token='tms_unknown')\n"
            "\n"
            "\n"
            "async def validated(address: str) -> pb.ValidateSessionResponse:\n"
            "    async with aio.connect(address, token=lambda: 'tmc_') as auth:\n"
            "        grpc.aio.server(interceptors=[aio.SessionGuard(auth, recheck=5)])\n"
            "        return await auth.sessions.ValidateSession(REQUEST)\n"
            "\n"
            "\n"
            "def who() -> str:\n"
            "    return current_session().user.email\n"
            "\n"
            "\n"
            "with FakeAuthServer() as fake, connect(fake.address, plaintext=True) as auth:\n"
            "    guard = SessionGuard(auth, max_age=10)\n"
            "    grpc.server(ThreadPoolExecutor(1), interceptors=[guard])\n"
            "    try:\n"
            "        answer: pb.ValidateSessionResponse = auth.sessions.ValidateSession(REQUEST)\n"
            "    except SessionError as error:\n"
            "        fields: int = len(error.fields)\n"
        )
        python = wheel_environment / "bin/python"
        mypy = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache")

        output(*mypy, "--python-executable", python, caller, cwd=tmp_path)
        output(python, "-W", "error", caller, cwd=tmp_path)

    def test_wheel_offers_fixtures_to_pytest(self, wheel_environment: Path, tmp_path: Path) -> None:
        code = "def test_fixture(auth_client):\n    assert auth_client.users\n"
        (tmp_path / "test_project.py").write_text(code)
        output(wheel_environment / "bin/python", "-m", "pytest", cwd=tmp_path)


class TestImage:
    """The Dockerfile, and what it gets to see."""

    DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")

    def test_image_has_labels_of_project_and_build(self) -> None:
        labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', self.DOCKERFILE))

        assert labels == {
            "title": "Tamatar Auth",
            "licenses": PROJECT["project"]["license"],
            "source": PROJECT["project"]["urls"]["Repository"],
            "version": "${VERSION}",
            "revision": "${REVISION}",
        }

    def test_build_arguments_of_image_are_documented(self) -> None:
        page = (ROOT / "docs/operate/deploying.md").read_text()
        declared = re.findall(r"^ARG (\w+)", self.DOCKERFILE, re.MULTILINE)

        assert re.findall(r"--build-arg (\w+)=", page) == declared

    def test_image_is_built_of_what_dockerignore_admits(self) -> None:
        copies = re.findall(r"^COPY (?!--from)(.*) \S+$", self.DOCKERFILE, re.MULTILINE)
        copied = [source for line in copies for source in line.split()]
        ignored, *lines = (
            line
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if not line.startswith("#")
        )

        assert ignored == "*"
        assert sorted(f"!{source}" for source in copied) == sorted(lines[:-1])
        assert lines[-1] == "**/__pycache__"
