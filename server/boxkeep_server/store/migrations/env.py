"""Runs migrations inside the transaction of the connection that Database.open gives."""

from alembic import context

from boxkeep_server.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
