"""The `finsent` command line: the only room that turns errors into exit codes and prints."""
