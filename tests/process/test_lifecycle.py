"""One process in the foreground: its states, its signals, its end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from backend.process import status
from backend.process.process import State
from tests.process.running_scripts import Running, Start, eventually

SERVE = "sys.exit(run_processes(Server()))"


def state_of(running: Running) -> list[State]:
    return [each.state for each in status.read(running.folder / ".data/run")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order_with_the_status_of_the_signal(start: Start, number: int) -> None:
    running = start(SERVE)
    running.until("serving")
    assert running.end(number) == 128 + number
    assert running.seen.splitlines() == ["serving", "served", "cleaned up"]


def test_sighup_stays_ignored_under_nohup(start: Start) -> None:
    running = start(f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {SERVE}")
    running.until("serving")
    running.signal(signal.SIGHUP)
    assert running.end(signal.SIGTERM) == 143


def test_each_state_can_be_seen_from_outside(start: Start) -> None:
    running = start("""
        class Slow(Server):
            async def serve(self, stopping):
                print("idle before that", flush=True)
                while not os.path.exists("go"): await asyncio.sleep(0.01)
                self.ready(address="http://here")
                await stopping.wait()
        process = Slow()
        assert process.state == "idle"
        sys.exit(run_processes(process))
    """)
    running.until("idle before that")
    assert state_of(running) == [State.INITIALIZING]
    (running.folder / "go").touch()
    eventually(lambda: state_of(running) == [State.RUNNING])
    [seen] = status.read(running.folder / ".data/run")
    assert (seen.name, seen.pid, seen.address) == ("server", running.pid, "http://here")
    running.end(signal.SIGTERM)
    assert state_of(running) == [State.STOPPED]


def test_a_killed_process_is_seen_as_stopped(start: Start) -> None:
    running = start(SERVE)
    eventually(lambda: state_of(running) == [State.RUNNING])
    assert running.end(signal.SIGKILL) == 137
    assert state_of(running) == [State.STOPPED]


def test_what_a_killed_one_left_is_removed_by_the_next(start: Start) -> None:
    for _ in range(2):
        running = start(SERVE)
        running.until("serving")
        running.end(signal.SIGKILL)
    assert len(list((running.folder / ".data/run").glob("server.*.json"))) == 1


def test_ps_shows_its_name(start: Start) -> None:
    running = start(SERVE)
    running.until("serving")
    assert Path(f"/proc/{running.pid}/cmdline").read_text().startswith("agent-server: server")


def test_an_error_before_it_is_ready_is_one_sentence(start: Start) -> None:
    running = start("""
        class Wrong(Exception): ...
        class Failing(Server):
            async def serve(self, stopping):
                raise Wrong("AGENT_API_PORT is 'x':\\n  choose a number.")
        sys.exit(run_processes(Failing()))
    """)
    assert running.end() == 1
    assert running.seen.splitlines() == ["AGENT_API_PORT is 'x': choose a number.", "cleaned up"]
    [seen] = status.read(running.folder / ".data/run")
    assert seen.error == "AGENT_API_PORT is 'x': choose a number."


def test_an_unexpected_error_before_it_is_ready_is_one_sentence_with_its_type(start: Start) -> None:
    script = """
        class Failing(Server):
            async def serve(self, stopping):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.fail())
            async def fail(self):
                {}["x"]
        sys.exit(run_processes(Failing()))
    """
    running = start(script)
    assert running.end() == 1
    assert running.seen.splitlines() == ["<string>:23: KeyError: 'x'", "cleaned up"]
    told = start(script, LOG_LEVEL="debug")
    told.end()
    assert "Traceback" in told.seen, "the debug log has it all"


def test_an_error_of_a_running_process_is_logged_with_its_traceback(start: Start) -> None:
    running = start("""
        class Failing(Server):
            async def serve(self, stopping):
                self.ready()
                raise ValueError("too late")
        sys.exit(run_processes(Failing()))
    """)
    assert running.end() == 1
    assert "Traceback" in running.seen
    assert "ValueError: too late" in running.seen
    assert running.seen.count("cleaned up") == 1


def test_told_to_stop_before_it_is_ready_it_does_not_get_ready_first(start: Start) -> None:
    running = start("""
        class Waiting(Server):
            async def serve(self, stopping):
                print("waiting", flush=True)
                await asyncio.Event().wait()
        sys.exit(run_processes(Waiting()))
    """)
    running.until("waiting")
    assert running.end(signal.SIGTERM) == 143
    assert running.seen.splitlines() == ["waiting", "cleaned up"]


def test_a_second_ctrl_c_ends_it_at_once(start: Start) -> None:
    running = start("""
        class Stubborn(Server):
            async def serve(self, stopping):
                await super().serve(stopping)
                await asyncio.Event().wait()
        sys.exit(run_processes(Stubborn()))
    """)
    running.until("serving")
    running.signal(signal.SIGTERM)
    running.until("served")
    running.signal(signal.SIGTERM)
    assert running.end(signal.SIGINT) == 130
    assert "cleaned up" not in running.seen


def test_one_that_does_not_come_to_an_end_is_ended_after_the_grace(start: Start) -> None:
    running = start("""
        from backend.process import signals
        signals.GRACE = 0.2
        class Stubborn(Server):
            async def serve(self, stopping):
                await super().serve(stopping)
                time.sleep(1000)
        sys.exit(run_processes(Stubborn()))
    """)
    running.until("serving")
    assert running.end(signal.SIGTERM) == 143


def test_a_process_without_an_event_loop_is_stopped_too(start: Start) -> None:
    running = start("""
        class Plain(AppProcess):
            name = "plain"
            def run(self):
                self.ready()
                print("working", flush=True)
                try:
                    time.sleep(1000)
                except Exception:
                    print("must not be held up")
            def cleanup(self):
                print("cleaned up", flush=True)
        sys.exit(run_processes(Plain()))
    """)
    running.until("working")
    assert running.end(signal.SIGTERM) == 143
    assert running.seen.splitlines() == ["working", "cleaned up"]


def test_run_processes_returns_the_status(start: Start) -> None:
    running = start("""
        class Short(Server):
            async def serve(self, stopping): self.ready()
        print("status", run_processes(Short()))
    """)
    assert running.end() == 0
    assert running.seen.splitlines() == ["cleaned up", "status 0"]


def test_a_cleanup_that_fails_makes_the_status_non_zero(start: Start) -> None:
    running = start("""
        class Short(Server):
            async def serve(self, stopping): self.ready()
            def cleanup(self): raise OSError("disk full")
        sys.exit(run_processes(Short()))
    """)
    assert running.end() == 1
    assert "disk full" in running.seen
