"""Near-duplicate detection: which texts belong together, and which group and split a new row is assigned to."""
