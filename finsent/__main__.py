"""`python -m finsent`, which is what launchers of several processes start."""

from finsent.cli.main import main

if __name__ == "__main__":
    main()
