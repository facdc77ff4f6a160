"""Writes the lines of a Procfile down for what runs them in production: honcho's exporters with our own templates.

honcho's templates put commands into quotes without escaping them, and leave behind what a command has started.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from honcho.export import supervisord, systemd
from honcho.export.base import BaseExport, File

from backend.process.signals import GRACE
from backend.process.sockets import resolve
from backend.process.unit import PLAIN_COMMAND

TEMPLATES = Path(__file__).with_name("templates")
# Seconds between SIGTERM and SIGKILL: a process of ours gives up by itself before.
PATIENCE = int(GRACE) + 7
# Bytes. The address of a unix socket ends at 103 on macOS; supervisord adds its pid while it makes the socket.
LONGEST_SOCKET_ADDRESS = 103 - len(".4194304")


class ExportError(Exception):
    """Something cannot be written, or not there. The message is one sentence for a person."""


@dataclass(frozen=True)
class Line:
    """A line of a Procfile as honcho's exporters take it (`name`, `cmd`, `env`), and what there is to know of it.

    `notifies`: it is an AppProcess, which says READY=1. `listens`: host and port. `after`: names of those to start
    before it.
    """

    name: str
    cmd: str
    env: Mapping[str, str]
    notifies: bool = False
    listens: tuple[str, int] | None = None
    after: tuple[str, ...] = ()

    @property
    def direct(self) -> bool:
        """It needs no shell, and ends by itself what it has started."""
        return self.notifies and self.cmd.startswith("python ") and PLAIN_COMMAND.fullmatch(self.cmd) is not None

    def arguments(self, python: str = sys.executable) -> list[str]:
        """The program to run and its arguments: `python` is the interpreter, or the shell does all as it stands."""
        return [python, *self.cmd.split()[1:]] if self.direct else ["/bin/sh", "-c", self.cmd]


class Systemd(systemd.Export):
    """A service for each line, a socket for each that listens, and a target for all. Context: app, mark, root, user."""

    def __init__(self) -> None:
        super().__init__(template_env=_templates("systemd", word=_systemd_word, path=_systemd_path, address=_address))

    def render(self, processes: Sequence[Line], context: dict[str, Any]) -> Iterable[File]:
        context = {**context, "lines": processes, "patience": PATIENCE}
        app = context["app"]
        yield File(f"{app}.target", self.get_template("target").render(context))
        for line in processes:
            yield File(f"{app}-{line.name}.service", self.get_template("service").render(context, line=line))
            if line.listens:
                yield File(f"{app}-{line.name}.socket", self.get_template("socket").render(context, line=line))


class Supervisord(supervisord.Export):
    """A whole configuration, APP.conf. Context: app, mark, root, folder: where it, the logs and a socket will be."""

    def __init__(self) -> None:
        super().__init__(
            template_env=_templates(
                "supervisord", command=_supervisord_command, path=_supervisord_path, value=_supervisord_value
            )
        )

    def render(self, processes: Sequence[Line], context: dict[str, Any]) -> Iterable[File]:
        address = f"{context['folder']}/supervisor.sock"
        if len(os.fsencode(address)) > LONGEST_SOCKET_ADDRESS:
            raise ExportError(f"{address} is too long for a socket: choose another folder with --to.")
        return super().render(processes, {**context, "patience": PATIENCE})


class Compose(BaseExport):
    """A service for each line, from one image. Context: app, mark, root, folder, requirements, health, postgres.

    `requirements` is a file for pip, `health` the path that tells whether a listening line works, and `postgres` says
    whether the composition has a database of its own.
    """

    def __init__(self) -> None:
        super().__init__(template_env=_templates("compose", word=_compose_word, address=_address))

    def render(self, processes: Sequence[Line], context: dict[str, Any]) -> Iterable[File]:
        root, folder = str(context["root"]), str(context["folder"])
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        paths = {"to_root": os.path.relpath(root, folder), "from_root": os.path.relpath(folder, root)}
        for name in ("compose.yaml", "Dockerfile", "Dockerfile.dockerignore"):
            template = self.get_template(name)
            yield File(name, template.render(context, lines=processes, patience=PATIENCE, python=python, **paths))


def write(files: Iterable[File], folder: Path, mark: str) -> list[Path]:
    """Write `files`, whose first line is the comment `mark`; return their paths.

    Raises ExportError when the folder cannot be written to, and before anything is written when one of the files is
    there but of another making.
    """
    contents = {folder / file.name: file.content for file in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in contents:
            if path.exists() and not path.read_bytes().startswith(f"# {mark}\n".encode()):
                raise ExportError(f"{path} is not of this command's making: move it away, or name a folder with --to.")
        for path, content in contents.items():
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        where = error.filename or folder
        raise ExportError(f"cannot write {where} ({error.strerror}): name another folder with --to.") from error
    return list(contents)


def _templates(folder: str, **filters: Callable[..., str]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES / folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment


def _address(place: tuple[str, int]) -> str:
    """Host and port as numbers: neither systemd nor compose looks names up."""
    try:
        _, address = resolve(*place)
    except OSError as error:
        raise ExportError(f"{place[0]!r} is no address to listen on ({error.strerror}): 127.0.0.1 is one.") from error
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"


def _systemd_word(text: str) -> str:
    """One word of several (systemd.syntax(7)). In ExecStart `:` has to stand before the first, or $ is replaced."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "%": "%%"}
    return f'"{text.translate(str.maketrans(escapes))}"'


def _systemd_path(path: str, *, pattern: bool = False) -> str:
    """A path that is the whole value. An EnvironmentFile is a `pattern`, in which * is not a star."""
    return _plain(glob.escape(path) if pattern else path).replace("%", "%%")


def _supervisord_command(arguments: Sequence[str]) -> str:
    """Quoted for the shlex that takes it apart; before, a space and a semicolon or # would begin a comment."""
    return re.sub(r"(\s)([;#])", r"\1''\2", shlex.join(arguments)).replace("%", "%%")


def _supervisord_path(path: str) -> str:
    return _plain(path).replace("%", "%%")


def _supervisord_value(text: str) -> str:
    """A value of `environment`, where quotes can be put around but not escaped."""
    if '"' in text or text != text.strip("'"):
        raise ExportError(f"supervisord cannot set a variable to {text!r}: it takes no quotes there.")
    return f'"{_plain(text)}"'.replace("%", "%%")


def _compose_word(text: str) -> str:
    """A string of YAML, of which all of JSON's are some; compose would replace $NAME."""
    return json.dumps(text, ensure_ascii=False).replace("$", "$$")


def _plain(text: str) -> str:
    """The text, if it survives where there are no quotes. Raises ExportError."""
    if text != text.strip() or re.search(r"[\x00-\x1f\x7f]|\s[;#]|\\$", text):
        raise ExportError(f"{text!r} cannot be written into a configuration: choose a plainer name.")
    return text
