"""Model: the base, the adapter on it, its manifest, and the engine that runs it."""
