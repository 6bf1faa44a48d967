"""The viewer: the screen of a sandbox's browser in a page of ours, and a person's hands on it."""
