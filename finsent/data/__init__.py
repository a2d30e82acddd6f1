"""Data: sources, row validation, near-duplicate groups, splits, tables."""
