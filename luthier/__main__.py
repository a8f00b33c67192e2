"""`python -m luthier` is the command `luthier`."""

from luthier.cli.main import entry

if __name__ == "__main__":
    entry()
