"""Reconcilers: each brings about one kind of what is wanted, from the whole truth, as often as it is called."""
