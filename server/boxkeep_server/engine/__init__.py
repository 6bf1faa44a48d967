"""Placement: which node gets a sandbox."""
