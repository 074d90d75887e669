"""`python -m calltag`."""

from calltag.cli.main import main

if __name__ == "__main__":
    main()
