"""`python -m edgeprune`: the command line, for launchers that start modules."""

from edgeprune.cli import main

if __name__ == "__main__":
    main()
