"""The audit chain is only ever added to: triggers refuse every change and removal.

They stop a slip and an intruder without the right to drop triggers; the chain itself shows the rest.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER core_audit_no_{verb.lower()} BEFORE {verb} ON core_audit "
                "BEGIN SELECT RAISE(ABORT, 'core_audit is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION core_audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'core_audit is append-only' USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER core_audit_no_change BEFORE UPDATE OR DELETE ON core_audit "
        "FOR EACH ROW EXECUTE FUNCTION core_audit_append_only()"
    )
    op.execute(
        "CREATE TRIGGER core_audit_no_truncate BEFORE TRUNCATE ON core_audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION core_audit_append_only()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER core_audit_no_{verb}")
        return
    op.execute("DROP TRIGGER core_audit_no_change ON core_audit")
    op.execute("DROP TRIGGER core_audit_no_truncate ON core_audit")
    op.execute("DROP FUNCTION core_audit_append_only()")
