"""The set-up: `python3 tasks.py` makes .venv whatever state it is in, and becomes invoke.

Each test copies tasks.py into a project whose lock files list one or two tiny wheels of its own, so nothing is
downloaded. The wheel named invoke prints what it was called with.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TASKS = Path(__file__).parents[1] / "tasks.py"
PYTHON = str(Path(sys.executable).resolve())


def wheel(folder: Path, name: str, version: str, **modules: str) -> str:
    """Write a wheel and return its line for a lock file."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {f"{name}/{module}.py": text for module, text in modules.items()} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        hashes = {
            file: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for file, text in files.items()
        }
        record = [f"{file},sha256={digest.rstrip(b'=').decode()},{len(files[file])}" for file, digest in hashes.items()]
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Project:
    """A checkout with tasks.py and lock files, and an environment that reaches no network."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.wheels = root / "wheels"
        self.root.mkdir()
        self.wheels.mkdir()
        shutil.copy(TASKS, self.root)
        invoke = wheel(self.wheels, "invoke", "1.0", __init__="", __main__="import sys; print(sys.argv[3:])")
        extra = wheel(self.wheels, "extra", "1.0", __init__="")
        (self.root / "requirements.lock").write_text(invoke)
        (self.root / "requirements-test.lock").write_text(invoke + extra)
        (self.root / "requirements-bench.lock").write_text(invoke + extra)
        self.environment = {name: value for name, value in os.environ.items() if name[:3] not in ("PIP", "UV_")} | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "UV_NO_CONFIG": "1",
            "UV_NO_INDEX": "1",
        }

    def start(self, *arguments: str, path: str | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PYTHON, str(self.root / "tasks.py"), *arguments],
            env=self.environment | ({"PATH": path} if path else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, path: str | None = None) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        process = self.start(*arguments, path=path)
        out, err = process.communicate()
        return process.returncode, out, err

    def has(self, package: str) -> bool:
        return any((self.root / ".venv").glob(f"lib/python3*/site-packages/{package}/__init__.py"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def path_without_uv(tmp_path: Path) -> str:
    (tmp_path / "bin").mkdir()
    return str(tmp_path / "bin")


@pytest.fixture
def uv_that_hangs(tmp_path: Path) -> Path:
    """The folder of a uv that writes into the pipe `called` beside it, and never ends."""
    folder = tmp_path / "hanging"
    folder.mkdir()
    (folder / "uv").write_text(f"#!/bin/sh\necho >{folder}/called\nexec sleep 600\n")
    (folder / "uv").chmod(0o755)
    os.mkfifo(folder / "called")
    return folder


def test_it_sets_itself_up_and_becomes_invoke(project: Project) -> None:
    status, out, err = project.run("dev", "--fast")

    assert (status, out) == (0, "['dev', '--fast']\n")
    assert "Installing what requirements.lock lists into .venv (about 1 packages) …" in err
    assert "Set up in " in err


def test_where_nothing_changed_nothing_is_installed(project: Project) -> None:
    project.run("dev")
    before = (project.root / ".venv" / "installed.json").stat().st_mtime_ns

    status, out, err = project.run("start")

    assert (status, out, err) == (0, "['start']\n", "")
    assert (project.root / ".venv" / "installed.json").stat().st_mtime_ns == before


def test_a_task_gets_what_it_needs_and_more_serves_for_less(project: Project) -> None:
    project.run("dev")
    assert not project.has("extra")

    project.run("test")
    assert project.has("extra")

    assert project.run("dev") == (0, "['dev']\n", "")


def test_a_changed_lock_file_is_installed(project: Project) -> None:
    project.run("test")
    newer = wheel(project.wheels, "invoke", "2.0", __init__="", __main__="print('newer')")
    for lock in project.root.glob("*.lock"):
        lock.write_text(newer)

    status, out, _ = project.run("dev")

    assert (status, out) == (0, "newer\n")


def test_a_package_with_another_hash_is_refused_in_plain_words(project: Project) -> None:
    lock = project.root / "requirements.lock"
    lock.write_text(lock.read_text().replace("sha256:", "sha256:0000")[:-5] + "\n")

    status, out, err = project.run("dev")

    assert (status, out) == (1, "")
    assert "Installing failed, see above" in err
    assert "hash" in err.lower()
    assert "Traceback" not in err
    assert not (project.root / ".venv" / "installed.json").exists()


def test_a_half_deleted_environment_is_mended(project: Project) -> None:
    project.run("test")
    shutil.rmtree(next((project.root / ".venv").glob("lib/python3*/site-packages/extra")))

    status, out, err = project.run("test")

    assert (status, out) == (0, "['test']\n")
    assert "Making .venv anew" in err
    assert project.has("extra")


def test_an_environment_whose_python_is_gone_is_made_anew(project: Project) -> None:
    project.run("dev")
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")

    status, out, _ = project.run("dev")

    assert (status, out) == (0, "['dev']\n")


def test_a_moved_checkout_is_set_up_anew(project: Project) -> None:
    project.run("dev")
    project.root = project.root.rename(project.root.with_name("moved"))

    status, out, err = project.run("dev")

    assert (status, out) == (0, "['dev']\n")
    assert "made elsewhere" in err


def test_a_killed_set_up_is_mended_once_its_installer_has_ended(project: Project, uv_that_hangs: Path) -> None:
    killed = project.start("dev", path=f"{uv_that_hangs}:{os.environ['PATH']}")
    (uv_that_hangs / "called").read_bytes()  # waits for the installer to begin
    killed.kill()

    second = project.start("dev")
    assert second.stderr
    assert "Another set-up is at work in this folder" in second.stderr.readline()
    os.killpg(killed.pid, signal.SIGKILL)  # the installer, which had been left behind
    out, err = second.communicate()

    assert (second.returncode, out) == (0, "['dev']\n")
    assert "Making .venv anew" in err
    killed.communicate()


def test_two_at_once_do_not_disturb_each_other(project: Project) -> None:
    both = [project.start("dev"), project.start("test")]

    results = [process.communicate() for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert [out for out, _ in results] == ["['dev']\n", "['test']\n"]
    assert project.has("extra")


def test_without_uv_pip_does_it_quietly(project: Project, path_without_uv: str) -> None:
    project.environment |= {"PIP_USER": "1", "HOME": ""}

    status, out, err = project.run("dev", path=path_without_uv)

    assert (status, out) == (0, "['dev']\n")
    assert [line.split()[0] for line in err.splitlines()] == ["Installing", "Set"]


def test_where_uv_fails_pip_does_it(project: Project, tmp_path: Path) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\necho 'no such luck' >&2\nexit 2\n")
    (tmp_path / "uv").chmod(0o755)

    status, out, err = project.run("dev", path=str(tmp_path) + ":/usr/bin:/bin")

    assert (status, out) == (0, "['dev']\n")
    assert "uv could not do it (no such luck); trying pip …" in err


def test_it_works_from_any_folder_and_without_arguments(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    status, out, _ = project.run()

    assert (status, out) == (0, "['--list']\n")


def test_the_index_of_the_project_is_complete() -> None:
    command = [sys.executable, "-m", "invoke", "--search-root", str(TASKS.parent), "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    running = ["dev", "start", "stop", "restart", "status", "logs", "doctor"]
    everyday = [*running, "test.test (test)", "test.chaos", "lint", "format", "typecheck", "openapi", "bench", "clean"]
    for name in [*everyday, "lock", "db.upgrade", "db.reset", "db.size", "db.shell", "agent.run", "agent.check"]:
        assert f"\n  {name} " in listed


@pytest.mark.parametrize(("command", "says"), [("status", "Nothing runs in"), ("stop", "Nothing runs in")])
def test_where_nothing_runs_it_is_said(tmp_path: Path, command: str, says: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "backend.control", command],
        env=os.environ | {"DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert says in result.stdout + result.stderr
    assert result.returncode == {"status": 1, "stop": 0}[command]
