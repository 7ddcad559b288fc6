"""Fixtures: a real server on loopback over SQLite or PostgreSQL, and where screenshots go."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from annotation_server import Server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*arguments: str, db: str | None = None) -> Server:
        servers.append(Server(tmp_path, *arguments, db=db))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """A private PostgreSQL cluster; calling the fixture makes an empty database and returns its URL."""
    programs = {name: _postgres_program(name) for name in ("initdb", "pg_ctl", "createdb")}
    if None in programs.values():
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    home = Path(tempfile.mkdtemp(prefix="redline-pg-"))  # pytest's own folders are closed to other users
    prefix: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        import pwd

        user = next(
            (name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}),
            None,
        )
        if user is None or not shutil.which("runuser"):
            pytest.skip("PostgreSQL does not run as root, and there is no user to run it as")
        prefix = ["runuser", "-u", user, "--"]
        shutil.chown(home, user)
    port = _free_port()

    def run(*command: str | None) -> None:
        done = subprocess.run(
            [*prefix, *(part for part in command if part)], capture_output=True, text=True, cwd="/"
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    cluster = str(home / "data")
    run(
        programs["initdb"],
        "-D",
        cluster,
        "-U",
        "redline",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale",
        "C",
    )
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c shared_buffers=64MB"
    run(programs["pg_ctl"], "-D", cluster, "-l", str(home / "log"), "-o", options, "-w", "start")
    made = 0

    def database() -> str:
        nonlocal made
        made += 1
        run(programs["createdb"], "-h", "127.0.0.1", "-p", str(port), "-U", "redline", f"test{made}")
        return f"postgresql://redline@127.0.0.1:{port}/test{made}"

    yield database
    run(programs["pg_ctl"], "-D", cluster, "-m", "immediate", "stop")
    shutil.rmtree(home)


def _postgres_program(name: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else shutil.which(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/edits.db"
    return str(request.getfixturevalue("postgres")())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: $REDLINE_SCREENSHOTS, else aside."""
    folder = Path(os.environ.get("REDLINE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder
