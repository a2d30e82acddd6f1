"""Drift of scored batches and the decision to retrain, both pure."""
