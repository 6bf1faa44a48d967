"""The truth: tables, migrations and queries on SQLite or PostgreSQL."""
