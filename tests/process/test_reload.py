"""Saves in development: new code is exchanged for old without a gap, and bad code for nothing."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from backend.process import status
from tests.process.running_scripts import Running, Start, eventually

SERVER = """
    import asyncio, sys
    import words
    from backend.app import run_processes
    from backend.process.http import serve_asgi
    from backend.process.process import AsyncAppProcess
    from backend.process.sockets import listen, url

    class Server(AsyncAppProcess):
        name = "server"

        async def serve(self, stopping):
            listener = listen("127.0.0.1", 0, setting="SERVER_PORT")
            on_ready = lambda: self.ready(address=url("http", listener))
            await serve_asgi(answer, listener, stopping, on_ready)

    class Other(AsyncAppProcess):
        name = "other"

        async def serve(self, stopping):
            self.ready()
            await stopping.wait()

    async def answer(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": words.GREETING.encode()})

    if __name__ == "__main__":
        sys.exit(run_processes(Server(), reload=True))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "server.py").write_text(textwrap.dedent(SERVER))
    (tmp_path / "words.py").write_text("GREETING = 'old'\n")
    return tmp_path


def ready(running: Running) -> Running:
    running.until("Ctrl-C stops it.")
    return running


def port_of(running: Running) -> int:
    return int(running.seen.partition("http://127.0.0.1:")[2].split()[0])


def ask(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_new_code_answers_on_the_same_port_and_no_connection_is_refused(start: Start, project: Path) -> None:
    running = ready(start([sys.executable, "server.py"]))
    port = port_of(running)
    answers: list[str] = []
    enough = threading.Event()

    def keep_asking() -> None:
        while not enough.is_set():
            with suppress(ConnectionResetError, http.client.RemoteDisconnected):  # accepted by one that just ended
                answers.append(ask(port))

    client = threading.Thread(target=keep_asking)
    client.start()
    (project / "words.py").write_text("GREETING = 'new'\n")
    eventually(lambda: "new" in answers)
    time.sleep(0.5)  # the old one ends beside it
    enough.set()
    client.join()
    assert set(answers) == {"old", "new"}
    assert answers[-1] == "new"
    running.end(signal.SIGINT)


@pytest.mark.parametrize("mistake", ["GREETING = \n", "raise RuntimeError\n", "import no_such_module\n"])
def test_a_broken_edit_keeps_the_last_good_one_until_it_is_mended(start: Start, project: Path, mistake: str) -> None:
    running = ready(start([sys.executable, "server.py"]))
    port = port_of(running)
    (project / "words.py").write_text(mistake)
    running.until("the last good code goes on")
    assert ask(port) == "old"
    (project / "words.py").write_text("GREETING = 'mended'\n")
    eventually(lambda: ask(port) == "mended")
    assert running.end(signal.SIGINT) == 130


def test_two_saves_within_a_second_of_the_same_length_both_count(start: Start, project: Path) -> None:
    running = ready(start([sys.executable, "server.py"], PYTHONDONTWRITEBYTECODE=""))
    port = port_of(running)
    for word in ("one", "two", "six"):
        (project / "words.py").write_text(f"GREETING = '{word}'\n")
        os.utime(project / "words.py", (1_700_000_000, 1_700_000_000))
        eventually(lambda word=word: ask(port) == word)
    running.end(signal.SIGINT)


def test_only_processes_that_have_the_code_are_exchanged(start: Start, project: Path) -> None:
    (project / "other.py").write_text(
        "import sys\nimport words_of_other\nfrom server import Other, run_processes\nsys.exit(run_processes(Other()))\n"
    )
    (project / "words_of_other.py").touch()
    (project / "server.py").write_text(textwrap.dedent(SERVER).replace("reload=True", "reload=False"))
    # The comment makes them ours: they say themselves when they are ready.
    ours = "# python -m backend."
    (project / "Procfile").write_text(f"server: python server.py {ours}\nother: python other.py {ours}\n")
    running = ready(start([sys.executable, "-m", "backend"]))
    before = pids(project)
    (project / "words_of_other.py").write_text("new = True\n")
    eventually(lambda: pids(project)["other"] != before["other"])
    assert pids(project)["server"] == before["server"]
    running.end(signal.SIGINT)


def pids(project: Path) -> dict[str, int]:
    return {each.name: each.pid for each in status.read(project / ".data/run") if each.state != "stopped"}


def test_a_new_file_beside_loaded_ones_and_a_new_folder_are_seen(start: Start, project: Path) -> None:
    (project / "words.py").write_text("import glob\nGREETING = ' '.join(sorted(glob.glob('*/*.html')))\n")
    running = ready(start([sys.executable, "server.py"]))
    port = port_of(running)
    (project / "pages").mkdir()
    (project / "more.py").touch()  # a neighbour
    (project / "pages/home.html").touch()
    eventually(lambda: ask(port) == "pages/home.html" or not (project / "more.py").touch())
    running.end(signal.SIGINT)


def test_one_that_cannot_overlap_waits_until_its_predecessor_is_gone(start: Start, project: Path) -> None:
    (project / "alone.py").write_text(
        textwrap.dedent("""
        import asyncio, os, sys
        import words
        from backend.app import run_processes
        from backend.process.process import AsyncAppProcess

        class Alone(AsyncAppProcess):
            name = "alone"
            overlap = False

            async def serve(self, stopping):
                os.mkdir("held")
                print("holding", words.GREETING, flush=True)
                self.ready()
                await stopping.wait()

            def cleanup(self):
                os.rmdir("held")

        sys.exit(run_processes(Alone(), reload=True))
        """)
    )
    running = ready(start([sys.executable, "alone.py"]))
    (project / "words.py").write_text("GREETING = \n")
    running.until("the last good code goes on")
    (project / "words.py").write_text("GREETING = 'new'\n")
    running.until("holding new")
    running.end(signal.SIGINT)
    assert "FileExistsError" not in running.seen


def test_a_crash_with_new_code_waits_for_the_next_save(start: Start, project: Path) -> None:
    running = ready(start([sys.executable, "server.py"]))
    (project / "words.py").write_text("raise RuntimeError\n")
    running.until("the last good code goes on")
    os.kill(pids(project)["server"], signal.SIGKILL)
    running.until("server waits for the next save")
    (project / "words.py").write_text("GREETING = 'again'\n")
    eventually(lambda: "server" in pids(project))
    assert running.end(signal.SIGINT) == 130
