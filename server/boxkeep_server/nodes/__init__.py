"""Clients of the node API and of the guest wire."""
