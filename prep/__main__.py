"""Runs `pcnet-prep` as `python -m prep`."""

from cli import prep_main

if __name__ == "__main__":
    prep_main()
