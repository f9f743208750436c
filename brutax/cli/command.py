"""What a command of `brutax` is: a module with these names, listed in `brutax.cli.app.COMMANDS`."""

import argparse
from typing import Protocol


class Command(Protocol):
    """One command. A module that has these names is one (its functions have no `self`)."""

    @property
    def NAME(self) -> str:
        """What is typed after `brutax`."""
        ...

    @property
    def HELP(self) -> str:
        """One line, without a full stop."""
        ...

    @property
    def EXAMPLE(self) -> str:
        """A whole command line."""
        ...

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of the command."""
        ...

    def run(self, args: argparse.Namespace) -> None:
        """Does it. Raises `UsageError` or `ValueError` for input that cannot be used."""
        ...
