"""Runs `pcnet` as `python -m pcnet`."""

from cli import pcnet_main

if __name__ == "__main__":
    pcnet_main()
