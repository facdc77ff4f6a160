"""Puts runs that wait back into the queue: when something they wait for has happened, or its time has come.

To wake a run sets its `wake_at` to `-infinity`. If no executor has the run, it is queued; if one has, that one is told,
and should it let the run wait at this very moment, the run is queued instead (store/events.py).
"""

from __future__ import annotations

from uuid import UUID

from backend.store.connection import Queryable

# Channel of NOTIFY: some run that an executor has was woken. A hint to look, as ever.
WOKEN = "run_woken"


async def wake(connection: Queryable, run_id: UUID) -> None:
    """Wake a run, unless it has ended; of those below it that have ended it need not be told again.

    One run to a statement: whoever locks several in turn may get stuck with a journal that does so the other way round.
    """
    await connection.execute(
        """
        WITH told AS (
            UPDATE runs SET parent_waits = false WHERE parent_run_id = $1 AND parent_waits AND ended_at IS NOT NULL
        ), woken AS (
            UPDATE runs SET
                wake_at = '-infinity', status = CASE WHEN executor IS NULL THEN 'QUEUED' ELSE status END
            WHERE id = $1 AND status IN ('RUNNING', 'REVIEW') RETURNING executor
        )
        SELECT pg_notify(CASE WHEN executor IS NULL THEN 'run_queued' ELSE 'run_woken' END, '') FROM woken
        """,
        run_id,
    )


async def wake_due(connection: Queryable) -> float | None:
    """Queue the waiting runs whose time has come. Returns the seconds to the next such time; None if there is none."""
    return await connection.fetchval(
        """
        WITH due AS (
            UPDATE runs SET status = 'QUEUED', wake_at = NULL
            WHERE wake_at <= now() AND executor IS NULL AND status IN ('RUNNING', 'REVIEW') RETURNING id
        )
        SELECT extract(epoch FROM min(wake_at) - now())::float8 FROM runs
        WHERE wake_at > now() AND (SELECT count(pg_notify('run_queued', '')) FROM due) >= 0
        """
    )


async def woken(connection: Queryable, executor: UUID) -> list[UUID]:
    """The runs of this executor that were woken."""
    rows = await connection.fetch("SELECT id FROM runs WHERE wake_at = '-infinity' AND executor = $1", executor)
    return [row["id"] for row in rows]


async def take_waking(connection: Queryable, executor: UUID, run_id: UUID) -> None:
    """Unmark a run of this executor that was woken: from now on its executor has to see to it that it looks."""
    await connection.execute("UPDATE runs SET wake_at = NULL WHERE id = $1 AND executor = $2", run_id, executor)


async def parents_to_tell(connection: Queryable) -> list[UUID]:
    """The runs that wait for one that has ended, if whoever ended it died before it could wake them."""
    rows = await connection.fetch("SELECT DISTINCT parent_run_id FROM runs WHERE parent_waits AND ended_at IS NOT NULL")
    return [row["parent_run_id"] for row in rows]
