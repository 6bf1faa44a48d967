"""The supervisor inside every sandbox: processes, terminals, files and ports over the guest wire."""

__version__ = "0.1.0"
