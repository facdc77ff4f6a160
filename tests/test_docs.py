"""What the documents show is what happens: their commands run, their code works."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.blocks import coercion
from backend.blocks.block import Block, BlockError, Context
from backend.process.keys import HINT
from backend.settings import Settings
from tests.journeys.environment import PATIENCE, ROOT, Environment, settings_for, started

README = (ROOT / "README.md").read_text(encoding="utf-8")
# The first becomes the server of this test, the second is what runs this test.
RUN_ELSEWHERE = {"python3 tasks.py dev", "python3 tasks.py test"}


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Environment]:
    variables = settings_for(tmp_path_factory.mktemp("docs"), free_port)
    with started(variables, "python3", "tasks.py", "dev") as environment:
        yield environment


def shell(server: Environment, script: str) -> str:
    own = script.replace("http://127.0.0.1:8006", server.address)
    command = ["bash", "-euo", "pipefail", "-c", own]
    found = subprocess.run(command, cwd=ROOT, env=server.variables, capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_commands_of_the_readme_work_in_their_order_and_print_what_it_shows(server: Environment):
    lines = [line for block in fenced(README, "console") for line in block.splitlines()]
    commands = [line[2:] for line in lines if line.startswith("$ ") and line[2:] not in RUN_ELSEWHERE]
    shown = [line for line in lines if not line.startswith("$ ")]
    printed = shell(server, "\n".join(commands))
    assert shown == ["Answer: 3 words, 13 characters"]
    assert shown[0] in printed
    assert '"Answer":["4 words, 12 characters"]' in printed
    assert '"total_count":2' in printed


@pytest.mark.parametrize("page", ["schedules", "triggers"])
def test_the_commands_of_the_pages_on_the_api_work_in_their_order(server: Environment, page: str):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    lines = [line for block in fenced(text, "console") for line in block.splitlines()]
    assert shell(server, "\n".join(line.removeprefix("$ ") for line in lines))


@pytest.mark.parametrize(
    "command", ["invoke status", "invoke doctor", "invoke --list", "python -m backend.rest --help"]
)
def test_the_commands_that_look_work(server: Environment, command: str):
    assert f"`{command.removesuffix(' --help')}" in README
    assert shell(server, command)


# The first becomes the server of this test, the last would end it.
OF_THE_SERVER = {"invoke dev", "invoke stop"}


def test_the_commands_of_the_development_guide_work(server: Environment):
    guide = (ROOT / "docs/development.md").read_text(encoding="utf-8")
    shown = [line[2:] for block in fenced(guide, "console") for line in block.splitlines() if line.startswith("$ ")]
    commands = [command.partition("  #")[0].strip() for command in shown]
    assert set(commands) >= OF_THE_SERVER
    for command in commands:
        if command.endswith("--follow"):
            # It goes on until Ctrl-C, of which timeout has the status.
            assert shell(server, f"timeout --signal=INT 2 {command} || echo $?").endswith("124\n")
        elif command not in OF_THE_SERVER:
            assert shell(server, command) or command == "invoke logs rest --lines 20", "rest may have said nothing"


def test_the_commands_of_the_guide_to_access_work(server: Environment):
    lines = fenced((ROOT / "docs/access.md").read_text(encoding="utf-8"), "console")[0].splitlines()
    printed = [shell(server, line.removeprefix("$ ")) for line in lines]
    assert '"name":"default"' in printed[0]
    assert '"plain_text_key":"agpt_' in printed[1]
    assert '"total_count":1' in printed[2]


def test_the_keys_of_the_development_guide_are_those_that_there_are():
    guide = (ROOT / "docs/development.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([^`]+)` \|", guide, re.MULTILINE)
    assert [key for key in documented if re.search(rf"\b{key}\b", HINT)] == ["s", "r", "1-9", "l", "q", "h"]


def test_the_server_in_one_line_of_python_runs(tmp_path: Path, free_port: Callable[[], int], database_url: str):
    [code] = fenced(README, "python")
    script = tmp_path / "server.py"
    script.write_text(code)
    variables = settings_for(tmp_path, free_port, DATABASE_URL=database_url, PYTHONPATH=str(ROOT))
    with started(variables, sys.executable, str(script)) as environment:
        assert environment.get("/livez") == {"status": "ok"}
        environment.process.send_signal(signal.SIGTERM)
        environment.process.communicate(timeout=PATIENCE)
    assert environment.process.returncode in (0, 143)


async def test_the_block_in_the_guide_does_what_its_examples_say():
    [code] = fenced((ROOT / "docs/blocks.md").read_text(encoding="utf-8"), "python")
    names: dict[str, type[Block]] = {}
    exec(code, names)
    block = names["GreetBlock"]()
    fit = coercion.prepare(block)
    for example in block.examples:
        given, _ = fit(example.input)
        assert await output_of(block, given) == (list(example.output), example.error)


async def output_of(block: Block, given: object) -> tuple[list[tuple[str, object]], str | None]:
    output: list[tuple[str, object]] = []
    try:
        async for pin, value in block.run(given, Context("run", "graph", 1, "node", 1, "token")):
            output.append((pin, value))
    except BlockError as error:
        return output, str(error)
    return output, None


def test_every_setting_is_in_the_settings_document():
    document = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"`{name.upper()}`" not in document] == []


def test_links_between_documents_lead_somewhere():
    documents = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")] + [*ROOT.glob("docs/*.md")]
    broken = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []
