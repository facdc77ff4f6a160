"""Webhooks out, and their deliveries."""

from alembic import op

revision = "0008"
down_revision = "0007"

# A webhook with a `run_id` belongs to that run alone. Deliveries of one `lane` share a bound on how many are under way.
# A delivery is due at `next_attempt_at`, which is also the end of the lease of who attempts it; it is null once that is
# over. Deliveries do not refer to `webhooks`: a webhook that is deleted meanwhile would undo the end of a run.
STATEMENTS = """
CREATE TABLE webhooks (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    graph_id uuid,
    run_id uuid,
    active boolean NOT NULL DEFAULT true,
    description text NOT NULL DEFAULT '',
    disabled_reason text,
    failing_since timestamptz,
    lane uuid NOT NULL,
    secret bytea NOT NULL,
    previous_secret bytea,
    previous_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhooks_newest ON webhooks (user_id, created_at DESC, id DESC) WHERE run_id IS NULL;
CREATE INDEX webhooks_of_run ON webhooks (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE webhook_deliveries (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    lane uuid NOT NULL,
    event_type text NOT NULL,
    run_id uuid,
    event_number integer,
    review_id uuid,
    status text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'DELIVERED', 'FAILED')),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz DEFAULT now(),
    last_attempt_at timestamptz,
    duration_ms integer,
    response_status integer,
    response_excerpt text,
    error text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (lane, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_deliveries_newest ON webhook_deliveries (webhook_id, created_at DESC, id DESC);
CREATE INDEX webhook_deliveries_in ON webhook_deliveries (webhook_id, status, created_at DESC, id DESC);
CREATE INDEX webhook_deliveries_oldest ON webhook_deliveries (created_at) WHERE next_attempt_at IS NULL;
"""

# Wherever an event is inserted, its deliveries are, too, in the same transaction; nobody can forget it. A sub-agent's
# run is its caller's affair, but the decision that it waits for is asked of people: so that is told to those who watch
# the run above all.
FUNCTIONS = (
    """
CREATE FUNCTION queue_webhook_deliveries(run uuid, told text, number integer, review uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    top record;
BEGIN
    SELECT id, parent_run_id, graph_id, user_id INTO top FROM runs WHERE id = run;
    WHILE review IS NOT NULL AND top.parent_run_id IS NOT NULL LOOP
        SELECT id, parent_run_id, graph_id, user_id INTO top FROM runs WHERE id = top.parent_run_id;
    END LOOP;
    IF top.parent_run_id IS NOT NULL THEN
        RETURN;
    END IF;
    INSERT INTO webhook_deliveries (id, user_id, webhook_id, lane, event_type, run_id, event_number, review_id)
    SELECT gen_random_uuid(), user_id, id, lane, told, run, number, review FROM webhooks
    WHERE user_id = top.user_id AND run_id IS NULL AND active AND told = ANY (events)
        AND (graph_id IS NULL OR graph_id = top.graph_id)
    UNION ALL
    SELECT gen_random_uuid(), user_id, id, lane, told, run, number, review FROM webhooks
    WHERE run_id = top.id AND active AND told = ANY (events);
    IF FOUND THEN
        PERFORM pg_notify('webhook_due', '');
    END IF;
END
$$
""",
    """
CREATE FUNCTION tell_of_run_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM webhooks) THEN
        PERFORM queue_webhook_deliveries(NEW.run_id, NEW.type, NEW.number, NULL);
    END IF;
    RETURN NULL;
END
$$
""",
    """
CREATE FUNCTION tell_of_review() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM webhooks) THEN
        PERFORM queue_webhook_deliveries(NEW.run_id, 'run.review', NULL, NEW.id);
    END IF;
    RETURN NULL;
END
$$
""",
    """
CREATE TRIGGER tell_of_run_event AFTER INSERT ON run_events FOR EACH ROW
WHEN (NEW.type IN ('run.started', 'run.paused', 'run.completed', 'run.failed', 'run.terminated'))
EXECUTE FUNCTION tell_of_run_event()
""",
    """
    CREATE TRIGGER tell_of_review AFTER INSERT ON reviews FOR EACH ROW WHEN (NEW.status = 'WAITING')
        EXECUTE FUNCTION tell_of_review()
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for statement in FUNCTIONS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER tell_of_run_event ON run_events")
    op.execute("DROP TRIGGER tell_of_review ON reviews")
    op.execute("DROP FUNCTION tell_of_run_event, tell_of_review, queue_webhook_deliveries")
    op.execute("DROP TABLE webhook_deliveries, webhooks")
