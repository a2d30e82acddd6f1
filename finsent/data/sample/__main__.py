"""`python -m finsent.data.sample OUTDIR` writes the sample's files."""

import sys
from pathlib import Path

from finsent.data.sample.generate import write_sample


def main(arguments: list[str]) -> int:
    """Write the files into the one folder named; 2 when it is not named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m finsent.data.sample OUTDIR\n")
        return 2
    for path in write_sample(Path(arguments[0])):
        sys.stdout.write(f"{path} {path.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
