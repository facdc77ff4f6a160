"""The tasks of this project: `python3 tasks.py dev`, or `invoke dev` once .venv is there. `invoke --list` shows all.

Run as a script it needs nothing but Python 3.11: it makes .venv from a lock file, if that is not done, and becomes
invoke, which then reads the second part of this file.
"""

import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - said before anything below can fail on an older one
    newer = next(filter(shutil.which, ("python3.13", "python3.12", "python3.11")), None)
    advice = f"run `{newer} tasks.py`" if newer else "install a newer one, and run this file with it"
    sys.exit(f"This needs Python 3.11 or newer, and this one is {sys.version_info[0]}.{sys.version_info[1]}: {advice}.")
if sys.platform == "win32":
    sys.exit("This project runs on Linux and macOS; on Windows, run it inside WSL.")

import fcntl
from collections.abc import Generator
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Written when everything is installed; without it, .venv is made anew.
STAMP = VENV / "installed.json"

# Each lists all of the one before and more, so what is installed from a later one serves for an earlier one.
LOCKS = ["requirements.lock", "requirements-test.lock", "requirements-bench.lock"]
# The tasks that need more than the first.
NEEDS = {"test": 1, "chaos": 1, "lint": 1, "format": 1, "typecheck": 1, "bench": 2}

# uv reads none of pip's settings; people who set these mean them.
SETTINGS_OF_PIP_FOR_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
# Of a user who installs into his home by default, and not into an environment.
PIP_ENVIRONMENT = {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}


class SetUpError(Exception):
    """The set-up could not be done. The message says why and what to do."""


def main(arguments: list[str]) -> NoReturn:
    """Set up what the task needs, then be invoke."""
    task = next((argument for argument in arguments if not argument.startswith("-")), "")
    do_without_home()
    try:
        set_up(NEEDS.get(task.rpartition(".")[2], 0))
    except SetUpError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"Cannot set up {VENV}: {error.strerror} ({error.filename}). Is it another user's?")
    except KeyboardInterrupt:
        sys.exit(130)
    become_invoke(arguments or ["--list"])


def do_without_home() -> None:
    """invoke fails on a home it may not enter (after `su`), and uv keeps its cache here if there is none."""
    home = os.environ.get("HOME", "")
    if not home or not os.access(home, os.W_OK | os.X_OK):
        os.environ.update(HOME="/", UV_NO_CACHE="1")


def become_invoke(arguments: list[str]) -> NoReturn:
    os.execv(PYTHON, [str(PYTHON), "-m", "invoke", "--search-root", str(ROOT), *arguments])


def set_up(level: int) -> bool:
    """Install the packages of `LOCKS[level]` unless they are there. True if there was anything to do."""
    if is_installed(level):
        return False
    with only_one() as lock:
        if is_installed(level):  # by the one we waited for
            return True
        began = time.monotonic()
        found = intact_stamp()
        if found is None:
            make_venv()
        STAMP.unlink(missing_ok=True)
        level = max(level, found["level"] if found else 0)
        install(level, lock)
        write_stamp(level)
        say(f"Set up in {time.monotonic() - began:.1f} s.")
    return True


def is_installed(level: int) -> bool:
    stamp = intact_stamp()
    return stamp is not None and stamp["level"] >= level and stamp["locks"] == hash_of_locks(stamp["level"])


def intact_stamp() -> dict[str, Any] | None:
    """What was installed, if it is all still there; None if there is nothing, or not all of it."""
    try:
        stamp = json.loads(STAMP.read_text())
        intact = stamp["place"] == place() and set(os.listdir(site_packages())) >= set(stamp["packages"])
    except (OSError, ValueError):
        return None
    return stamp if intact else None


def write_stamp(level: int) -> None:
    packages = sorted(os.listdir(site_packages()))
    stamp = {"level": level, "locks": hash_of_locks(level), "place": place(), "packages": packages}
    STAMP.with_suffix(".new").write_text(json.dumps(stamp))
    STAMP.with_suffix(".new").replace(STAMP)


def hash_of_locks(level: int) -> str:
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in LOCKS[: level + 1])).hexdigest()


def place() -> list[str]:
    """What an environment is tied to: its own path, and that of the Python it was made with."""
    return [str(VENV), str(PYTHON.resolve(strict=True))]


def site_packages() -> Path:
    return next(VENV.glob("lib/python3*/site-packages"), VENV / "lib")


@contextmanager
def only_one() -> Generator[int]:
    """Hold the lock of this folder, so that two set-ups don't meet; gives its descriptor.

    The installer inherits it: if we are killed, the next set-up waits until the installer has ended, too.
    """
    descriptor = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is at work in this folder; waiting for it to end …")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def make_venv() -> None:
    if VENV.is_symlink():
        raise SetUpError(f"{VENV} is a link to another place's packages: remove the link, and run this again.")
    if VENV.exists():
        say("Making .venv anew: it is incomplete, or was made elsewhere.")
        shutil.rmtree(VENV)
    python = Path(sys.executable).resolve()  # not that of the environment we may be running in
    result = subprocess.run(
        [python, "-m", "venv", "--without-pip", VENV], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode != 0:
        raise SetUpError(f"`{python} -m venv` failed:\n{result.stdout.strip()}\n{how_to_get_pip()}")


def install(level: int, lock: int) -> None:
    path = ROOT / LOCKS[level]
    count = len(re.findall(r"^[\w.-]+==", path.read_text(), re.MULTILINE))
    say(f"Installing what {path.name} lists into .venv (about {count} packages) …")
    arguments = ["install", "--require-hashes", "-r", str(path)]
    uv = shutil.which("uv")
    if uv:
        # Compiled now, as pip does: where PYTHONDONTWRITEBYTECODE is set, every start would compile it all again.
        command = [uv, "pip", *arguments, "--compile-bytecode", "--python", str(PYTHON)]
        failure = run(command, environment_of_uv(), lock)
        if failure is None:
            return
        say(f"uv could not do it ({failure.splitlines()[-1].strip()}); trying pip …")
    failure = run([*pip(), *arguments], os.environ | PIP_ENVIRONMENT, lock)
    if failure is not None:
        raise SetUpError(f"{failure}\nInstalling failed, see above: is the network there? Then run this again.")


def environment_of_uv() -> dict[str, str]:
    mapped = {uv: os.environ[pip] for pip, uv in SETTINGS_OF_PIP_FOR_UV.items() if os.environ.get(pip)}
    return mapped | dict(os.environ)


def pip() -> list[str]:
    """How to call a pip that installs into .venv."""
    if (site_packages() / "pip").is_dir():
        return [str(PYTHON), "-m", "pip"]
    if importlib.util.find_spec("ensurepip"):
        subprocess.run([PYTHON, "-m", "ensurepip"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return [str(PYTHON), "-m", "pip"]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    raise SetUpError(how_to_get_pip())


def how_to_get_pip() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"This Python has no pip to install with. On Debian and Ubuntu: `apt install python{version}-venv`;"
        " or put uv on the PATH (https://docs.astral.sh/uv). Then run this again."
    )


def run(command: list[str], environment: dict[str, str], lock: int) -> str | None:
    """Run an installer quietly. None if it succeeded, else its last lines."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, pass_fds=[lock]
        )
        try:
            watch(process)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace").strip() or f"{command[0]} said nothing"
        return "\n".join(line[:200] for line in said.splitlines()[-6:]) if process.returncode else None


def watch(process: "subprocess.Popen[bytes]") -> None:
    """Wait for its end, and let a person at a terminal see that time passes."""
    began = time.monotonic()
    while process.poll() is None:
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r  {time.monotonic() - began:.0f} s ")
    if sys.stderr.isatty():
        sys.stderr.write("\r        \r")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

# From here on invoke reads: the tasks.

# invoke's own types are incomplete
# pyright: basic, reportPrivateImportUsage=false, reportArgumentType=false
from invoke import Collection, Context, Exit, call, task  # noqa: E402 - only in .venv


def job(**options: Any) -> Any:
    """A task that first sees to its packages: `invoke dev` after a pull installs what the new lock file asks for."""

    def decorate(function: Any) -> Any:
        return task(function, pre=[call(packages, NEEDS.get(function.__name__, 0))], **options)

    return decorate


@task
def packages(c: Context, level: int) -> None:
    """Install what is missing, and begin again with it."""
    try:
        changed = set_up(level)
    except (SetUpError, OSError) as error:
        raise Exit(str(error)) from error
    if changed:
        become_invoke(sys.argv[1:])


def become(*arguments: str) -> NoReturn:
    """Be another program instead of invoke, so that signals and the exit status are its own."""
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, *arguments])


def rest() -> list[str]:
    """What follows `--` on the command line: it is passed on."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


def stage(*arguments: str) -> None:
    """Run a program of .venv and go on only if it succeeds."""
    say(f"→ {' '.join(arguments)}")
    status = subprocess.call([sys.executable, "-m", *arguments], cwd=ROOT)
    if status:
        raise Exit(code=status)


@job()
def dev(c: Context) -> None:
    """Start everything, and reload it whenever a file is saved. Settings may follow: `-- --agent-api-port 9000`."""
    os.environ["APP_ENV"] = "development"
    become("-m", "backend", *rest())


@job()
def start(c: Context) -> None:
    """Start everything as in production: no reload, JSON logs, what fails is restarted."""
    os.environ["APP_ENV"] = "production"
    become("-m", "backend", *rest())


@job()
def stop(c: Context) -> None:
    """End what `dev` or `start` runs in this data folder."""
    become("-m", "backend.control", "stop")


@job(positional=["format"], help={"format": "systemd, supervisord or compose", "to": "folder; default: export/FORMAT"})
def export(c: Context, format: str, to: str = "") -> None:
    """Write what systemd, supervisord or compose need to run the Procfile: see docs/production.md."""
    become("-m", "backend.export", format, *([f"--to={os.path.abspath(to)}"] if to else []))


@job(help={"json": "for programs"})
def status(c: Context, json: bool = False) -> None:
    """Show each process: its state, pid, uptime, memory, address. Status 1 when nothing runs."""
    become("-m", "backend.control", "status", *["--json"] * json)


def word_after(task_name: str) -> list[str]:
    """["name"] if the command line has a word after the task: invoke has no positional argument that may be missing."""
    after = sys.argv[sys.argv.index(task_name) :] if task_name in sys.argv else []
    before_rest = after[: after.index("--")] if "--" in after else after
    pairs = itertools.pairwise(before_rest)
    found = any(not word.startswith("-") and before not in ("--lines", "-l") for before, word in pairs)
    return ["name"] if found else []


@job(positional=word_after("restart"), help={"name": "as `status` shows it; more may follow: `restart -- rest db`"})
def restart(c: Context, name: str | None = None) -> None:
    """Start one process anew without a gap, or all: `invoke restart rest`."""
    become("-m", "backend.control", "restart", *([name] if name else []), *rest())


@job(
    positional=word_after("logs"),
    help={"name": "as `status` shows it", "follow": "go on until Ctrl-C", "lines": "how many of the last (100)"},
)
def logs(c: Context, name: str | None = None, follow: bool = False, lines: int = 100) -> None:
    """Show what the processes said last, or one of them: `invoke logs rest --follow`."""
    names = [*([name] if name else []), *rest()]
    become("-m", "backend.control", "logs", f"--lines={lines}", *["--follow"] * follow, *names)


@job(help={"json": "for programs"})
def doctor(c: Context, json: bool = False) -> None:
    """Say what is wrong with this machine before it hurts."""
    become("-m", "backend.doctor", *["--json"] * json)


@job(help={"k": "only tests whose name matches, as pytest's -k"})
def test(c: Context, k: str = "") -> None:  # noqa: PT028 - not one of pytest's
    """Lint, check types, run the tests. Options of pytest may follow: `-- tests/store -x`."""
    lint(c)
    typecheck(c)
    become("-m", "pytest", "-n", "3", "--dist", "worksteal", *(["-k", k] if k else []), *rest())


@job(
    help={
        "minutes": "how long processes are killed",
        "seed": "what an earlier one printed, to be hurt in the same order",
    }
)
def chaos(c: Context, minutes: float = 5.0, seed: int = 0) -> None:
    """Kill processes at random while runs are on, and see that nothing is lost and nothing happens twice."""
    os.environ |= {"CHAOS_MINUTES": str(minutes), "CHAOS_SEED": str(seed)}
    become("-m", "pytest", "-s", "tests/chaos/test_chaos.py", *rest())


@job()
def lint(c: Context) -> None:
    """Find mistakes and bad form."""
    stage("ruff", "check")
    stage("ruff", "format", "--check")


@job()
def format(c: Context) -> None:
    """Bring the code into its form, and mend what can be mended without thinking."""
    stage("ruff", "check", "--fix")
    stage("ruff", "format")


@job()
def typecheck(c: Context) -> None:
    """Check the types."""
    stage("basedpyright")


@job(help={"release": "what clients may now rely on, too: before a release"})
def openapi(c: Context, release: bool = False) -> None:
    """Write docs/openapi.json, the contract with clients, by the code."""
    become("-m", "backend.contract", *["--release"] * release)


@job()
def bench(c: Context, name: str) -> None:
    """Time it: start, throughput, latency, api, fanout, scale, cost, reload, logs, footprint (docs/benchmarks.md)."""
    become("-m", "benchmarks", name)


@task
def lock(c: Context) -> None:
    """Write the lock files anew from pyproject.toml (by uv). What follows `--` goes to uv, such as `-- --upgrade`."""
    uv = shutil.which("uv")
    if uv is None:
        raise Exit("This takes uv: https://docs.astral.sh/uv")
    compile_lock = [uv, "pip", "compile", "pyproject.toml", "--universal", "--generate-hashes", "--no-emit-index-url"]
    groups: list[str] = []
    for name, before in zip(LOCKS, [None, *LOCKS], strict=False):
        groups += [] if before is None else ["--group", re.sub(r"requirements-(\w+)\.lock", r"\1", name)]
        constraints = [] if before is None else ["-c", before]
        say(f"→ {name}")
        options = [*groups, "--python-version", "3.11", *constraints, "-o", name, *rest()]
        subprocess.run([*compile_lock, *options], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


@task
def clean(c: Context) -> None:
    """Delete what tools have left here. The database and .venv stay."""
    for name in (".pytest_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache"):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for folder in (ROOT / "backend", ROOT / "tests", ROOT / "benchmarks"):
        for cache in folder.rglob("__pycache__"):
            shutil.rmtree(cache)


@job()
def upgrade(c: Context) -> None:
    """Bring the database to the schema of this code (a server does that itself when it starts)."""
    become("-m", "backend.store.upgrade")


@job(help={"yes": "don't ask"})
def reset(c: Context, yes: bool = False) -> None:
    """Delete the bundled database with everything in it."""
    become("-m", "backend.control", "reset", *["--yes"] * yes)


@job(help={"json": "for programs"})
def size(c: Context, json: bool = False) -> None:
    """Say what takes room in the database: its tables, and the agents with the largest runs."""
    become("-m", "backend.store.size", *["--json"] * json)


@job()
def shell(c: Context) -> None:
    """Open psql on the database. Its options may follow: `-- --list`."""
    become("-m", "backend.control", "shell", *rest())


@job(positional=["file"], iterable=["input"], help={"input": "Name=value, may be given several times"})
def run_agent(c: Context, file: str, input: list[str]) -> None:
    """Run an agent file and show its nodes at work: `invoke agent.run FILE --input Input=5`."""
    become("-m", "backend.agent_cli", "run", os.path.abspath(file), *(f"--input={pair}" for pair in input))


@job(positional=["file"])
def check_agent(c: Context, file: str) -> None:
    """Say what keeps an agent file from running."""
    become("-m", "backend.agent_cli", "check", os.path.abspath(file))


namespace = Collection(
    dev, start, stop, restart, status, logs, doctor, export, lint, format, typecheck, openapi, bench, lock, clean
)
tests = Collection("test")
tests.add_task(test, default=True)
tests.add_task(chaos)
namespace.add_collection(tests)
namespace.add_collection(Collection("db", upgrade, reset, size, shell))
agents = Collection("agent")
agents.add_task(run_agent, "run")
agents.add_task(check_agent, "check")
namespace.add_collection(agents)
