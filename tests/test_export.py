"""`python -m backend.export`: what it writes runs our own processes, and what it cannot write it says in a sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
import requests
import yaml

from tests.journeys.environment import PATIENCE, ROOT, processes_with, ready, settings_for, started, until

PROCESSES = ["db", "rest", "websocket", "executor", "scheduler", "notifier"]
# What systemd does between fork and exec: the socket becomes descriptor 3, and LISTEN_PID this very process.
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def variables(tmp_path: Path, free_port: Callable[[], int]) -> dict[str, str]:
    return settings_for(tmp_path, free_port)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where to write to: short enough for a socket."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def export(
    *arguments: str | Path, variables: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backend.export", *map(str, arguments)]
    environment = {**(variables or os.environ), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=40, check=False)


def written(format: str, folder: Path, variables: dict[str, str]) -> Path:
    found = export(format, "--to", folder, variables=variables)
    assert (found.returncode, found.stderr) == (0, "")
    names = sorted(line.removeprefix("wrote ") for line in found.stdout.splitlines())
    assert names == sorted(map(str, folder.iterdir())), "it says what it has written"
    return folder


def values(unit: Path, name: str) -> list[str]:
    """The values of a key of a unit; in ours nothing needs an escape that a shell would not take."""
    lines = unit.read_text().splitlines()
    return [value for line in lines for key, _, value in [line.partition("=")] if key == name]


def unquoted(value: str) -> str:
    assert value[0] == value[-1] == '"', value
    return value[1:-1]


def test_there_is_a_unit_for_each_line_and_a_socket_for_each_that_listens(folder: Path, variables: dict[str, str]):
    names = {path.name for path in written("systemd", folder, variables).iterdir()}
    services = {f"agent-server-{name}.service" for name in PROCESSES}
    assert names == services | {"agent-server.target", "agent-server-rest.socket", "agent-server-websocket.socket"}
    for name in PROCESSES[1:]:
        [after] = values(folder / f"agent-server-{name}.service", "After")
        assert "agent-server-db.service" in after, "the database starts first"


@contextmanager
def as_under_systemd(folder: Path, unit: str, variables: dict[str, str], news: socket.socket) -> Iterator[str]:
    """Start a unit with its socket, as systemd does; give the address. It has to end as one that is told to stop."""
    service = folder / f"{unit}.service"
    [address] = values(folder / f"{unit}.socket", "ListenStream")
    host, _, port = address.rpartition(":")
    own = dict(unquoted(value).split("=", 1) for value in values(service, "Environment"))
    [command] = values(service, "ExecStart")
    arguments = [unquoted(word) for word in command.removeprefix(":").split(" ")]
    with socket.create_server((host, int(port))) as listener:
        handed = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": f"{unit}.socket", "NOTIFY_SOCKET": str(news.getsockname())}
        # Were the socket not taken, the port would be in use.
        process = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno()), *arguments],
            cwd=values(service, "WorkingDirectory")[0],
            env={"DATABASE_URL": variables["DATABASE_URL"], "ENCRYPTION_KEY": "k" * 43 + "=", **own, **handed},
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
        )
        try:
            yield f"http://{address}"
            process.send_signal(signal.SIGTERM)
            status = process.wait(PATIENCE)
            assert str(status) in values(service, "SuccessExitStatus")[0].split()
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["rest", "websocket"])
def test_a_unit_answers_on_the_socket_that_systemd_hands_over(
    folder: Path, tmp_path: Path, variables: dict[str, str], database_url: str, name: str
):
    written("systemd", folder, variables)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
        news.bind(str(folder / "notify"))
        news.settimeout(PATIENCE)
        variables["DATABASE_URL"] = database_url
        with as_under_systemd(folder, f"agent-server-{name}", variables, news) as address:
            # Connections wait from the first moment on, not only when it is ready.
            assert requests.get(f"{address}/livez", timeout=PATIENCE).ok
            while b"READY=1" not in news.recv(100_000).splitlines():
                pass
            assert requests.get(f"{address}/readyz", timeout=PATIENCE).ok


def test_the_address_follows_flags_of_the_line_and_the_settings(tmp_path: Path, variables: dict[str, str]):
    flags = "python -m backend.rest --port 9001 --agent-api-host 127.0.0.2"
    (tmp_path / "Procfile").write_text(f"a: {flags}\nb: python -m backend.rest\nc: python -m backend.rest --port 0\n")
    assert export("systemd", variables=variables, cwd=tmp_path).returncode == 0
    folder = tmp_path / "export/systemd"
    assert values(folder / "agent-server-a.socket", "ListenStream") == ["127.0.0.2:9001"]
    assert values(folder / "agent-server-b.socket", "ListenStream") == [f"127.0.0.1:{variables['AGENT_API_PORT']}"]
    assert not (folder / "agent-server-c.socket").exists(), "systemd knows no 'any free port'"


def test_what_is_set_is_written_but_for_the_address_with_a_password(folder: Path, variables: dict[str, str]):
    variables |= {"DATABASE_URL": "postgresql://me:secret@db/x", "APP_ENV": "development"}
    for format in ("systemd", "supervisord", "compose"):
        found = export(format, "--to", folder / format, variables=variables)
        assert found.stderr == "DATABASE_URL is not written, for it is secret: put it into .env.\n"
        text = "".join(path.read_text() for path in (folder / format).iterdir())
        assert "secret" not in text
        assert "development" not in text
        assert variables["AGENT_API_PORT"] in text
    assert "postgres" not in yaml.safe_load((folder / "compose/compose.yaml").read_text())["services"]


def test_supervisord_runs_all_restarts_what_is_killed_and_leaves_nothing(folder: Path, variables: dict[str, str]):
    variables["LOG_LEVEL"] = "debug"
    written("supervisord", folder, variables)
    variables["AGENT_API_KEY"] = f"agpt_{'k' * 40}"
    supervisord = Path(sys.executable).with_name("supervisord")
    with started(variables, str(supervisord), "-n", "-c", f"{folder}/agent-server.conf") as environment:
        until(lambda: running(environment.status()) == set(PROCESSES))
        before = environment.status()["executor"]["pid"]
        os.kill(before, signal.SIGKILL)
        until(lambda: environment.status()["executor"]["pid"] != before and running(environment.status()))
        until(lambda: ready(environment))
        graph = environment.post("/api/v2/graphs", (ROOT / "examples/word-count.json").read_bytes())
        assert environment.run(graph, Text="one two")["outputs"] == {"Answer": ["2 words, 7 characters"]}
        environment.process.send_signal(signal.SIGTERM)
        said, _ = environment.process.communicate(timeout=PATIENCE)
        assert processes_with(variables) == []
    assert "with SIGKILL" not in said, "all ended by themselves"
    lines = (folder / "rest.log").read_text().splitlines()
    assert {orjson.loads(line)["process"] for line in lines} == {"rest"}, "the log is that of production"


def running(statuses: dict[str, dict]) -> set[str]:
    return {name for name, status in statuses.items() if status["state"] == "running"}


def test_compose_has_every_line_and_a_postgresql_of_its_own_instead_of_ours(folder: Path, variables: dict[str, str]):
    written("compose", folder, variables)
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    postgres = services.pop("postgres")
    assert list(services) == PROCESSES[1:]
    for name, service in services.items():
        assert service["command"] == ["python", "-m", f"backend.{name}"]
        assert service["environment"]["DATABASE_URL"].endswith("@postgres:5432/postgres")
        assert service["environment"]["APP_ENV"] == "production"
        assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
        assert service["restart"] == "unless-stopped"
        assert int(service["stop_grace_period"].removesuffix("s")) > 8
        context = (folder / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).resolve() == (folder / "Dockerfile").resolve()
        assert (folder / service["env_file"][0]["path"]).resolve() == ROOT / ".env"
    assert services["rest"]["ports"] == [f"127.0.0.1:{variables['AGENT_API_PORT']}:{variables['AGENT_API_PORT']}"]
    assert "/readyz" in services["rest"]["healthcheck"]["test"][-1]
    # Of PostgreSQL 18 the volume is a level higher than it was.
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql"]


def test_the_image_has_all_that_the_processes_need(folder: Path, variables: dict[str, str]):
    written("compose", folder, variables)
    steps = (folder / "Dockerfile").read_text().splitlines()
    assert f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim" in steps
    [lock] = [line.split()[1] for line in steps if line.startswith("COPY requirements")]
    assert (ROOT / lock).is_file()
    left_out = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".env", ".venv", ".data", ".git"} <= set(left_out)
    assert not {"backend", "requirements.lock"} & set(left_out)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["upstart"], 2, "argument FORMAT: invalid choice: 'upstart' (choose from"),
        ([], 2, "the following arguments are required: FORMAT"),
        (["systemd", "--to", "file"], 1, "cannot write file (File exists): name another folder with --to."),
        (["systemd", "--to", "file/deeper"], 1, "(Not a directory): name another folder with --to."),
        (["compose", "--to", "others"], 1, "others/compose.yaml is not of this command's making: move it away"),
        (["systemd", "--to", "folders"], 1, "cannot write folders/agent-server.target (Is a directory)"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, arguments: list[str], status: int, sentence: str):
    (tmp_path / "Procfile").write_text("a: true\n")
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others/compose.yaml").write_text("services: {}\n")
    (tmp_path / "folders/agent-server.target").mkdir(parents=True)
    found = export(*arguments, cwd=tmp_path)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (status, "", 1), found.stderr
    assert sentence in found.stderr
    assert (tmp_path / "others/compose.yaml").read_text() == "services: {}\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a python", "line 1 of the Procfile is 'a python'"),
        ("a: python -m backend.rest --port many", "cannot tell where 'python -m backend.rest --port many' of"),
        ("a: python -m backend.rest | grep 'x", "(No closing quotation)"),
    ],
)
def test_a_line_that_cannot_be_read_is_one_sentence(tmp_path: Path, line: str, sentence: str):
    (tmp_path / "Procfile").write_text(f"{line}\n")
    found = export("systemd", cwd=tmp_path)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert sentence in found.stderr


def test_a_wrong_setting_is_one_sentence(tmp_path: Path):
    (tmp_path / "Procfile").write_text("a: true\n")
    found = export("systemd", variables={**os.environ, "AGENT_API_PORT": "many"}, cwd=tmp_path)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert found.stderr.startswith("AGENT_API_PORT is 'many'")
