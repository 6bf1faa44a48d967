"""The control plane and the node of Boxkeep."""
