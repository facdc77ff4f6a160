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
from tests.process.running_scripts import Running, Start, eventually, supervising

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


def test_a_burst_of_saves_is_one_reload(start: Start, project: Path) -> None:
    (project / "pages").mkdir()
    for number in range(200):
        (project / f"pages/p{number}.py").write_text(f"P{number} = 1\n")
    imports = "".join(f"import pages.p{number}\n" for number in range(200))
    (project / "words.py").write_text(f"{imports}GREETING = 'old'\n")
    running = ready(start([sys.executable, "server.py"]))
    for number in range(200):
        (project / f"pages/p{number}.py").write_text(f"P{number} = 2\n")
    (project / "words.py").write_text(f"{imports}GREETING = str(pages.p7.P7 + pages.p199.P199)\n")
    port = port_of(running)
    eventually(lambda: ask(port) == "4")
    running.until("Reloaded server")
    assert running.end(signal.SIGINT) == 130
    assert running.seen.count("Reloaded") == 1


def test_a_file_that_nobody_reads_restarts_nothing(start: Start, project: Path) -> None:
    (project / "unread.py").write_text("a = 1\n")
    running = ready(start([sys.executable, "server.py"]))
    before = pids(project)
    (project / "unread.py").write_text("a = 2\n")
    (project / "note.txt").write_text("not read either")
    (project / "words.py").write_text("GREETING = 'new'\n")  # the watcher has come this far
    running.until("(words.py)")
    assert before != pids(project)
    running.end(signal.SIGINT)
    assert running.seen.count("Reloaded") == 1


def test_a_template_read_and_a_module_imported_after_the_start_count(start: Start, project: Path) -> None:
    (project / "page.html").write_text("one")
    (project / "late.py").write_text("WORD = 'one'\n")
    (project / "words.py").write_text(
        "class Late(str):\n    def encode(self):\n        import late\n"
        "        return (open('page.html').read() + late.WORD).encode()\nGREETING = Late()\n"
    )
    running = ready(start([sys.executable, "server.py"]))
    port = port_of(running)
    assert ask(port) == "oneone"
    (project / "page.html").write_text("two")
    eventually(lambda: ask(port) == "twoone")
    (project / "late.py").write_text("WORD = 'two'\n")
    eventually(lambda: ask(port) == "twotwo")
    running.end(signal.SIGINT)


def test_a_process_that_writes_what_it_reads_does_not_restart_itself(start: Start, project: Path) -> None:
    (project / "words.py").write_text(
        "import os\nfrom pathlib import Path\ncount = Path('count.json')\n"
        "old = int(count.read_text()) if count.exists() else 0\nPath('new').write_text(str(old + 1))\n"
        "os.replace('new', count)\nGREETING = str(old)\n"
    )
    (project / "count.json").write_text("6")
    running = ready(start([sys.executable, "server.py"]))
    port = port_of(running)
    (project / "words.py").write_text((project / "words.py").read_text() + "# saved\n")
    eventually(lambda: ask(port) == "7")
    running.until("Reloaded")
    assert running.end(signal.SIGINT) == 130
    assert running.seen.count("Reloaded") == 1


def test_an_error_is_shown_once_and_points_at_its_line(start: Start, project: Path) -> None:
    twice = textwrap.dedent(SERVER).replace("run_processes(Server(),", "run_processes(Server(), Other(),")
    (project / "server.py").write_text(twice)
    running = ready(start([sys.executable, "server.py"]))
    running.until("server")
    (project / "words.py").write_text("GREETING = (\n'old'\n")
    shown = running.until("the next save is waited for")
    assert "words.py:1: SyntaxError: '(' was never closed\n" in shown
    assert "GREETING = (\n" in shown
    assert "server and other: the last good code goes on" in shown
    assert "Traceback" not in shown
    (project / "words.py").write_text("GREETING = {}['x']\n")
    shown = running.until("the next save is waited for", times=2)
    assert "words.py:1: KeyError: 'x'\n" in shown
    assert "GREETING = {}['x']\n" in shown
    (project / "words.py").write_text("GREETING = 'mended'\n")
    running.until("Reloaded server and other")
    running.end(signal.SIGINT)


def test_a_start_that_hangs_is_given_up_and_says_where(start: Start, project: Path) -> None:
    patient = "from backend.process import unit\nunit.READY_WITHIN = 1\n"
    (project / "server.py").write_text(patient + textwrap.dedent(SERVER))
    running = ready(start([sys.executable, "server.py"]))
    port = port_of(running)
    (project / "words.py").write_text("import time\ntime.sleep(1000)\nGREETING = 'new'\n")
    assert "words.py:2: it hangs here" in running.until("the last good code goes on")
    assert ask(port) == "old"
    (project / "words.py").write_text("GREETING = 'new'\n")
    eventually(lambda: ask(port) == "new")
    assert running.end(signal.SIGINT) == 130
    assert running.nothing_is_left()


def test_a_broken_first_start_waits_for_the_save_that_mends_it(start: Start, project: Path) -> None:
    (project / "words.py").write_text("raise RuntimeError('not yet')\n")
    running = start(supervising("server.py"))
    assert "words.py:1: RuntimeError: not yet" in running.until("waits for the next save")
    (project / "words.py").write_text("GREETING = 'now'\n")
    running.until("Ready.")
    assert ask(port_in(project)) == "now"
    assert running.end(signal.SIGINT) == 130


def test_a_crash_loop_ends_with_the_next_save(start: Start, project: Path) -> None:
    crashing = "from backend.process import unit\nunit.FIRST_DELAY = 0.05\n" + textwrap.dedent(SERVER).replace(
        "        await serve_asgi",
        "        asyncio.get_running_loop().call_later(0.2, words.crash)\n        await serve_asgi",
    )
    (project / "server.py").write_text(crashing)
    (project / "words.py").write_text("import os\nGREETING = 'old'\ndef crash(): os._exit(7)\n")
    running = ready(start([sys.executable, "server.py"]))
    running.until("server has ended 5 times in a row, the last time with status 7")
    (project / "words.py").write_text("GREETING = 'sound'\ndef crash(): pass\n")
    running.until("Reloaded server")
    assert ask(port_in(project)) == "sound"
    assert running.end(signal.SIGINT) == 130


def port_in(project: Path) -> int:
    [served] = [each for each in status.read(project / ".data/run") if each.name == "server" and each.address]
    return int(str(served.address).rpartition(":")[2])


class TestConfiguration:
    """What changes in the Procfile and in .env while it runs."""

    SAYING = "import os, time\nprint('hears', os.environ.get('WORD'), flush=True)\ntime.sleep(1000)\n"

    @pytest.fixture
    def running(self, start: Start, tmp_path: Path) -> Running:
        (tmp_path / "say.py").write_text(self.SAYING)
        (tmp_path / ".env").write_text("WORD=one\nSECRET=s3cret\n")
        (tmp_path / "Procfile").write_text("say: python say.py\nother: sleep 1000\n")
        running = ready(start([sys.executable, "-m", "backend"]))
        running.until("hears one") if "hears one" not in running.seen else None
        return running

    def test_a_changed_env_file_reaches_the_processes_and_is_told_by_name(self, running: Running) -> None:
        (running.folder / ".env").write_text("WORD=two\nSECRET=s3cret\nNEW=1\n")
        assert ".env: NEW, WORD changed." in running.until("hears two")
        assert running.end(signal.SIGINT) == 130
        assert "s3cret" not in running.seen

    def test_processes_are_added_exchanged_and_removed(self, running: Running) -> None:
        procfile = running.folder / "Procfile"
        procfile.write_text("say: python say.py\nother: sleep 2000\nmore: echo more; sleep 1000\n")
        shown = running.until("more.1 ") + running.until("| more")
        assert "other has another command in the Procfile: sleep 2000" in running.seen
        assert "more is new in the Procfile" in running.seen, shown
        procfile.write_text("say: python say.py\n")
        running.until("other is no longer in the Procfile, and ends.")
        running.until(
            "more is no longer in the Procfile, and ends."
        ) if "more is no longer" not in running.seen else None
        procfile.write_text("say: python say.py\nmore: echo again; sleep 1000\n")
        running.until("| again")
        assert running.end(signal.SIGINT) == 130
        assert running.nothing_is_left()

    def test_an_env_file_that_cannot_be_read_is_told_and_the_next_save_counts(self, running: Running) -> None:
        (running.folder / ".env").write_bytes(b"WORD=\xff\n")
        running.until("it has to be a file of UTF-8 text.")
        (running.folder / ".env").write_text("WORD=mended\n")
        running.until("hears mended")
        assert running.end(signal.SIGINT) == 130

    def test_a_broken_procfile_changes_nothing(self, running: Running) -> None:
        (running.folder / "Procfile").write_text("say python say.py\n")
        assert "line 1 of the Procfile is 'say python say.py'" in running.until("What runs goes on as it is.")
        (running.folder / "say.py").write_text(self.SAYING.replace("hears", "still hears"))
        running.until("still hears one")
        assert running.end(signal.SIGINT) == 130


def test_code_whose_compiled_form_the_process_wrote_itself_is_reloaded(start: Start, project: Path) -> None:
    running = ready(start([sys.executable, "server.py"], PYTHONDONTWRITEBYTECODE=""))
    assert list((project / "__pycache__").glob("words.*.pyc"))
    (project / "words.py").write_text("GREETING = 'new'\n")
    eventually(lambda: ask(port_of(running)) == "new")
    running.end(signal.SIGINT)


def test_a_package_that_is_moved_away_is_noticed(start: Start, project: Path) -> None:
    (project / "pack").mkdir()
    (project / "pack/__init__.py").write_text("")
    (project / "words.py").write_text("import pack\nGREETING = 'old'\n")
    running = ready(start([sys.executable, "server.py"]))
    (project / "pack").rename(project / "gone")
    running.until("words.py:1: ModuleNotFoundError: No module named 'pack'")
    (project / "gone").rename(project / "pack")
    running.until("Reloaded server")
    running.end(signal.SIGINT)


def test_a_broken_reporter_of_errors_is_no_wall_of_text(start: Start, project: Path) -> None:
    running = ready(start([sys.executable, "server.py"]))
    (project / "words.py").write_text("class E(Exception):\n    def __str__(self):\n        raise self\nraise E\n")
    shown = running.until("the next save is waited for")
    assert "words.py:4: E: which cannot say what is wrong" in shown
    running.end(signal.SIGINT)
