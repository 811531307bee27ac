"""`python -m mambaseg`: the command line."""

from mambaseg.cli import main

if __name__ == "__main__":
    main()
