"""The door of the command line: chooses a command, and turns what goes wrong into one line."""

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import jax

from brutax.cache import files
from brutax.cache.folders import cache_dir
from brutax.cli import cluster, data, demo, dust, fit, grid, info, mock, offsets
from brutax.cli.command import Command
from brutax.cli.options import UsageError

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE

COMMANDS: tuple[Command, ...] = (fit, offsets, cluster, dust, mock, grid, data, info, demo)
# what bad input raises: CatalogError, GridError and StoreError are ValueErrors
USER_ERRORS = (UsageError, ValueError, OSError, ImportError, MemoryError)


# options of version 0.1, and what to write now
MOVED = {
    "--avlim": "--av LOW,HIGH",
    "--av-gauss": "--av normal:MEAN,STD",
    "--rvlim": "--rv LOW,HIGH",
    "--rv-gauss": "--rv normal:MEAN,STD",
    "--n-draws": "--draws N",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # pyright: ignore
        words = message.replace("=", " ").split()
        for old in MOVED.keys() & words:
            raise UsageError(f"{old} is now {MOVED[old]} (see `{self.prog} --help`)")
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def parser(known: Sequence[Command] = COMMANDS) -> argparse.ArgumentParser:
    """All commands; each module adds its own options."""
    examples = "\n".join(f"  {command.EXAMPLE}" for command in known)
    out = _Parser(
        prog="brutax",
        description="Posteriors of stars (distance, A_V, mass, age, metallicity) over model grids.",
        epilog=f"examples:\n{examples}\n\n`brutax COMMAND --help` lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    out.add_argument("--version", action="version", version=f"brutax {version('brutax')}")
    commands = out.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in known:
        one = commands.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + ".",
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(one)
        one.add_argument(
            "-q", "--quiet", action="store_true", help="print warnings and errors only"
        )
        one.add_argument("-v", "--verbose", action="store_true", help="print more of what happens")
        one.set_defaults(run=command.run)
    return out


def main(argv: Sequence[str] | None = None, known: Sequence[Command] = COMMANDS) -> int:
    """Runs a command and returns the exit code: 0, 2 for input that cannot be used, 130.

    Without `argv` the process is ours: the arguments are its own, and JAX keeps compiled
    programs in the user's cache folder.
    """
    debug = bool(os.environ.get("BRUTAX_DEBUG"))
    try:
        args = parser(known).parse_args(_joined(sys.argv[1:] if argv is None else argv))
        if argv is None:
            _keep_compiled_programs()
        with _messages(args.quiet, args.verbose):
            args.run(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        _silence(sys.stdout)
        return BROKEN_PIPE
    except KeyboardInterrupt as stop:
        if debug:
            raise
        print(f"brutax: {stop or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"brutax: error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except jax.errors.JaxRuntimeError as error:
        if debug or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("brutax: error: the device is out of memory: lower --batch-size", file=sys.stderr)
        return BAD_INPUT


def _joined(argv: Sequence[str]) -> list[str]:
    """`--feh -2:0:0.1` as `--feh=-2:0:0.1`: argparse would take the second for an option."""
    out: list[str] = []
    for text in argv:
        if re.match(r"-\.?\d", text) and out and re.fullmatch(r"--[a-z0-9-]+", out[-1]):
            out[-1] += f"={text}"
        else:
            out.append(text)
    return out


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, MemoryError):
        return "out of memory: fit fewer stars at once with --rows, or fewer --bands"
    return " ".join(str(error).split()) or type(error).__name__


class _Print(logging.Handler):
    """Information to stdout, warnings and worse to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            print(f"brutax: {record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)
        else:
            print(f"  {record.getMessage()}")


@contextmanager
def _messages(quiet: bool, verbose: bool) -> Iterator[None]:
    """Shows what the library logs and warns of, for as long as a command runs."""
    logger, handler = logging.getLogger("brutax"), _Print()
    level, wanted = logger.level, logging.DEBUG if verbose else logging.INFO
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else wanted)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def _keep_compiled_programs() -> None:
    """Keeps JAX' small programs too; `JAX_COMPILATION_CACHE_DIR` goes before our choice."""
    if files.folder() is None:
        return
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _silence(stream: object) -> None:
    """Sends what is still in a closed pipe's buffer nowhere, so that Python exits in peace."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # pyright: ignore
    except (OSError, ValueError):
        pass
