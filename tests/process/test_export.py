"""What is written for systemd, supervisord and compose means what the Procfile means, as they themselves read it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from backend.process.export import Compose, ExportError, Line, Supervisord, Systemd, write
from tests.process.running_scripts import Start, eventually

# All that a shell, systemd, supervisord, compose and YAML find special.
SPECIAL = (
    r"""printf '<%s>' "it's" "$GREETING" 'a "b"' '100%d %%' '\ \\ \n' 'x ; # y' $$NO "#" ; """
    r"""echo 'é: {{ - x }}' | tr x z"""
)
GREETING = "it is 100% $HOME"
VERIFY = shutil.which("systemd-analyze")
MANAGER = Path("/lib/systemd/systemd")
# A manager shows what it has read only to an ordinary user.
AS_ORDINARY_USER = [] if os.getuid() else ["unshare", "--user"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project in a folder with an awkward name."""
    folder = tmp_path / "my 100%h [project]"
    folder.mkdir()
    return folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where to write to: short enough for a socket, and awkward."""
    with tempfile.TemporaryDirectory(prefix="100% a ") as name:
        yield Path(name)


def context(root: Path, folder: Path) -> dict[str, object]:
    own = {"user": "root", "requirements": "requirements.lock", "health": "/readyz", "postgres": True}
    return {"app": "app", "mark": "Written.", "root": str(root), "folder": str(folder), **own}


def special(more: str = "") -> Line:
    return Line("special", SPECIAL + more, {"PATH": os.environ["PATH"], "GREETING": GREETING})


def said(arguments: list[str], **environment: str) -> str:
    """What a command prints."""
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout


def meant() -> str:
    """What the shell makes of the line as it stands in the Procfile. The process id is another each time."""
    return without_pid(said(["/bin/sh", "-c", SPECIAL], GREETING=GREETING))


def without_pid(text: str) -> str:
    before, _, after = text.partition("NO>")
    return before.rstrip("0123456789") + after


def understood(folder: Path, unit: str) -> dict[str, list[str]]:
    """What systemd itself has understood of a unit: name -> values."""
    if not MANAGER.exists():
        pytest.skip(f"there is no {MANAGER}")
    with tempfile.TemporaryDirectory() as home:
        command = [*AS_ORDINARY_USER, str(MANAGER), "--user", "--test", f"--unit={unit}", "--log-target=console"]
        # The colon: after ours come the units of every machine, without which no service starts.
        variables = {"XDG_RUNTIME_DIR": home, "HOME": home, "SYSTEMD_UNIT_PATH": f"{folder}:"}
        found = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, timeout=40, check=False
        )
    _, mark, dump = found.stdout.partition(f"-> Unit {unit}:\n")
    if not mark and "unshare" in found.stderr:
        pytest.skip(f"this machine makes nobody an ordinary user: {found.stderr}")
    assert mark, found
    values: dict[str, list[str]] = {}
    for line in dump.partition("-> Unit ")[0].splitlines():
        name, _, value = line.strip().partition(": ")
        values.setdefault(name, []).append(value)
    return values


def arguments_of(unit: dict[str, list[str]]) -> list[str]:
    """The arguments of its command, which systemd shows as a shell would take them."""
    shown = said(["/bin/bash", "-c", rf"printf '%s\0' {unit['Command Line'][0]}"])
    return shown.split("\0")[:-1]


def test_systemd_hands_a_foreign_command_to_the_shell_unchanged(root: Path, folder: Path) -> None:
    write(Systemd().render([special()], context(root, folder)), folder, "Written.")
    unit = understood(folder, "app-special.service")
    assert arguments_of(unit) == ["/bin/sh", "-c", SPECIAL]
    # What it shows is not yet without $NAME; the colon says that it is not to look for any.
    assert "\nExecStart=:" in (folder / "app-special.service").read_text()
    environment = dict(value.split("=", 1) for value in unit["Environment"])
    assert environment["GREETING"] == GREETING
    assert unit["WorkingDirectory"] == [str(root)]
    assert unit["KillMode"] == ["control-group"]
    assert (unit["Type"], unit["Restart"]) == (["exec"], ["always"])


def test_the_file_of_variables_is_found_in_a_folder_with_stars_and_brackets(root: Path, folder: Path) -> None:
    write(Systemd().render([special()], context(root, folder)), folder, "Written.")
    [pattern] = understood(folder, "app-special.service")["EnvironmentFile"]
    (root / ".env").touch()
    found = said([sys.executable, "-c", "import glob, sys; print(glob.glob(sys.argv[1]))", pattern.removeprefix("-")])
    assert found.strip() == str([str(root / ".env")])


def test_systemd_finds_no_fault_in_the_units(root: Path, folder: Path) -> None:
    if not VERIFY:
        pytest.skip("there is no systemd-analyze: install systemd")
    ours = Line("web", "python -m backend.rest", {"A": 'x "y" 100%'}, True, ("localhost", 8006), after=("special",))
    piped = Line("piped", "python -m backend.rest | tee log", {}, notifies=True)
    paths = write(Systemd().render([special(), ours, piped], context(root, folder)), folder, "Written.")
    checked = subprocess.run([VERIFY, "verify", *paths], capture_output=True, text=True, timeout=50, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert {path.name for path in paths} == {
        "app.target",
        "app-special.service",
        "app-web.service",
        "app-web.socket",
        "app-piped.service",
    }


def test_systemd_waits_until_a_process_of_ours_says_that_it_is_ready(root: Path, folder: Path) -> None:
    ours = Line("web", "python -m backend.rest --port 9", {}, True, ("localhost", 8006), after=("special",))
    write(Systemd().render([special(), ours], context(root, folder)), folder, "Written.")
    unit = understood(folder, "app-web.service")
    assert arguments_of(unit) == [sys.executable, "-m", "backend.rest", "--port", "9"]
    assert (unit["Type"], unit["NotifyAccess"], unit["KillMode"]) == (["notify"], ["main"], ["mixed"])
    assert float(unit["TimeoutStopSec"][0].removesuffix("s")) > 8
    assert "app-special.service (origin-file)" in unit["After"]
    assert "app-web.socket (origin-file)" in unit["Requires"]
    socket = understood(folder, "app-web.socket")
    assert "ListenStream: 127.0.0.1:8006" in [f"{name}: {value}" for name in socket for value in socket[name]]


def test_news_of_a_process_of_ours_behind_a_shell_are_heard(root: Path, folder: Path) -> None:
    piped = Line("piped", "python -m backend.rest | tee log", {}, notifies=True)
    write(Systemd().render([piped], context(root, folder)), folder, "Written.")
    unit = understood(folder, "app-piped.service")
    assert arguments_of(unit) == ["/bin/sh", "-c", "python -m backend.rest | tee log"]
    assert (unit["NotifyAccess"], unit["KillMode"]) == (["all"], ["control-group"])


def test_the_target_starts_and_stops_every_line(root: Path, folder: Path) -> None:
    write(Systemd().render([special(), Line("b", "true", {})], context(root, folder)), folder, "Written.")
    target = understood(folder, "app.target")
    assert {"app-special.service (origin-file)", "app-b.service (origin-file)"} <= set(target["Wants"])
    assert understood(folder, "app-b.service")["PartOf"] == ["app.target (origin-file)"]


def test_supervisord_hands_a_foreign_command_to_the_shell_unchanged(root: Path, folder: Path, start: Start) -> None:
    line = special(" ; exec sleep 1000")
    [conf] = write(Supervisord().render([line], context(root, folder)), folder, "Written.")
    supervisord = start([str(Path(sys.executable).with_name("supervisord")), "-n", "-c", str(conf)])
    log = folder / "special.log"
    eventually(lambda: log.exists() and without_pid(log.read_text()) == meant())
    supervisord.end(2)
    supervisord.folder = root
    assert supervisord.nothing_is_left()


def test_supervisord_ends_what_a_shell_has_started_and_can_be_asked(root: Path, folder: Path, start: Start) -> None:
    line = Line("pair", "sleep 1000 | sleep 1001", {"A": "it's, 100%", "B": ""})
    [conf] = write(Supervisord().render([line], context(root, folder)), folder, "Written.")
    supervisord = start([str(Path(sys.executable).with_name("supervisord")), "-n", "-c", str(conf)])
    control = [str(Path(sys.executable).with_name("supervisorctl")), "-c", str(conf)]

    def ask(what: str) -> str:
        return subprocess.run([*control, what], capture_output=True, text=True, timeout=40, check=False).stdout

    eventually(lambda: "RUNNING" in ask("status"))
    assert "Shut down" in ask("shutdown")
    assert supervisord.end() == 0
    supervisord.folder = root
    assert supervisord.nothing_is_left()


def test_supervisord_sets_the_variables_as_they_are(root: Path, folder: Path, start: Start) -> None:
    values = {"A": "it's, 100%; x", "B": "", "C": "a=b\\c"}
    line = Line("show", 'printf "%s|" "$A" "$B" "$C" ; exec sleep 1000', values)
    [conf] = write(Supervisord().render([line], context(root, folder)), folder, "Written.")
    supervisord = start([str(Path(sys.executable).with_name("supervisord")), "-n", "-c", str(conf)])
    log = folder / "show.log"
    eventually(lambda: log.exists() and log.read_text() == "".join(f"{value}|" for value in values.values()))
    supervisord.end(2)


@pytest.mark.parametrize("value", ['a "b"', "'a'", "a ; b", "a #b", "a\nb", " a"])
def test_a_variable_that_supervisord_cannot_hold_is_refused(root: Path, folder: Path, value: str) -> None:
    with pytest.raises(ExportError, match="cannot"):
        list(Supervisord().render([Line("a", "true", {"A": value})], context(root, folder)))


def test_a_folder_that_no_configuration_can_name_is_refused(root: Path, folder: Path) -> None:
    for exporter in (Systemd(), Supervisord()):
        with pytest.raises(ExportError, match="choose a plainer name"):
            list(exporter.render([special()], context(root / "a\nb", folder)))


def test_a_folder_too_deep_for_a_socket_is_refused(root: Path, folder: Path) -> None:
    with pytest.raises(ExportError, match="is too long for a socket"):
        Supervisord().render([special()], context(root, folder / ("x" * 100)))


def test_an_address_that_is_none_is_refused(root: Path, folder: Path) -> None:
    for exporter in (Systemd(), Compose()):
        with pytest.raises(ExportError, match=r"'no\.such.host\.invalid' is no address to listen on"):
            list(exporter.render([Line("a", "true", {}, True, ("no.such.host.invalid", 1))], context(root, folder)))


def composed(line: Line, root: Path, folder: Path) -> dict[str, dict[str, object]]:
    files = {file.name: file.content for file in Compose().render([line], context(root, folder))}
    return yaml.safe_load(files["compose.yaml"])["services"]


def test_compose_hands_a_foreign_command_to_the_shell_unchanged(root: Path, folder: Path) -> None:
    service = composed(special(), root, folder)["special"]
    # As compose does: $$ is a dollar sign, and a single one would be a variable of its own.
    arguments = [argument.replace("$$", "$") for argument in service["command"]]
    assert arguments == ["/bin/sh", "-c", SPECIAL]
    assert "$" not in "".join(service["command"]).replace("$$", "")
    assert service["environment"]["GREETING"].replace("$$", "$") == GREETING


def test_compose_asks_a_line_that_listens_whether_it_works(root: Path, folder: Path) -> None:
    service = composed(Line("web", "python -m backend.rest", {}, True, ("localhost", 8006)), root, folder)["web"]
    assert service["command"] == ["python", "-m", "backend.rest"]
    assert service["ports"] == ["127.0.0.1:8006:8006"]
    program, *arguments = service["healthcheck"]["test"][1:]
    assert program == "python"
    checked = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert (checked.returncode, "Connection refused" in checked.stderr) == (1, True), "nobody listens there"


def test_only_files_of_this_making_are_overwritten(root: Path, folder: Path) -> None:
    files = list(Systemd().render([special()], context(root, folder)))
    write(files, folder, "Written.")
    write(files, folder, "Written.")
    (folder / "app.target").write_text("# Written.\nold\n")
    (folder / "app-special.service").write_text("[Unit]\n")
    with pytest.raises(ExportError, match=r"app-special\.service is not of this command's making"):
        write(files, folder, "Written.")
    assert (folder / "app.target").read_text() == "# Written.\nold\n", "nothing is written by halves"
