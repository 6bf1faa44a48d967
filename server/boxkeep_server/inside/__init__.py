"""Programs that the control plane has run inside of sandboxes, by what an image has; sent along with each call."""
