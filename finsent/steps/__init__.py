"""Pipeline steps, one public entry each; only `flows` and `finsent.cli` call them."""
