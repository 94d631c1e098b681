"""Alembic's entry: runs migrations on the connection that the broker hands over."""

from alembic import context

from gpu_broker.store.tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True
)
with context.begin_transaction():
    context.run_migrations()
