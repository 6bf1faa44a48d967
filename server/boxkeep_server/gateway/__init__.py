"""The gateway: what listens in sandboxes, served to browsers at host names of its own."""
