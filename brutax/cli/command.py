"""What a command of `brutax` is: a module with these names, listed in `brutax.cli.app.COMMANDS`."""

import argparse
from typing import Protocol


class Command(Protocol):
    """One command. A module that has these names is one."""

    NAME: str  # what is typed after `brutax`
    HELP: str  # one line, without a full stop
    EXAMPLE: str  # a whole command line

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Adds the options of the command."""
        ...

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        """Does it. Raises `UsageError` or `ValueError` for input that cannot be used."""
        ...
