"""Batch inference: what to score, in which chunks, and writing each prediction exactly once."""
