"""The client of the node API."""
