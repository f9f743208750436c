"""The command `brutax`: fit, mock, info, demo."""

from brutax.cli.app import main as main
