"""Use cases and reconcilers: what is wanted, and how it comes about."""
