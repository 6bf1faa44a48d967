"""Records, ids, the lifecycle table, plans and errors: pure, imported by all."""
