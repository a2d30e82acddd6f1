"""Data: sources, the row contract, near-duplicate groups, splits, tables."""
