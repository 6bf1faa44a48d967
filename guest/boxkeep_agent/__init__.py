"""The AI agent of a sandbox: keeps opencode running there, and has it do what is prompted."""
