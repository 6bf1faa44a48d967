"""The host side of the guest wire: frames, handshake, pooled connections, calls."""
