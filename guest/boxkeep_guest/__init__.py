"""The supervisor inside every sandbox."""
