"""The `finsent` command line, the only part that prints results and sets exit codes."""
