"""The tools of a sandbox's agent: its browser and a person to ask, by MCP over standard input and output."""
