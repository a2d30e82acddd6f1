"""Training: one linear loop, its checkpoints and its pre-flight check."""
