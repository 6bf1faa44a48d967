"""What the control plane says to the outside: webhooks, and nothing else."""
