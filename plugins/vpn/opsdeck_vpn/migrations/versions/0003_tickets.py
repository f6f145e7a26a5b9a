"""what a server that asks back wants returned."""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("vpn_tunnel", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ticket", sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("vpn_tunnel", schema=None) as batch_op:
        batch_op.drop_column("ticket")
