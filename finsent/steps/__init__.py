"""One public entry point per pipeline step, called by `flows/` and `cli/` only."""
