"""``python cli.py ...``: filtune's command line in a clone that is not installed."""

from filtune.cli import main

if __name__ == "__main__":
    main()
