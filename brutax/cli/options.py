"""How options are written: lists, pairs, mappings, ranges of rows, grids."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from brutax.fitting import Priors, open_grid
from brutax.fitting.prior import AV_RANGE, RV_RANGE
from brutax.models import StarGrid, demo_grid
from brutax.priors import AbstractAvPrior, AbstractRvPrior, TruncatedNormalAv, TruncatedNormalRv

DEMO = "demo"
DEMO_WARNING = "demonstration models (analytic black bodies), NOT for science"


class UsageError(Exception):
    """A command line that makes no sense."""


def names(text: str) -> list[str]:
    """`a,b,c`"""
    return [name.strip() for name in text.split(",") if name.strip()]


def pair(text: str) -> tuple[float, float]:
    """`low,high`"""
    numbers = text.split(",")
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers like 0,20")
    try:
        return float(numbers[0]), float(numbers[1])
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers like 0,20") from None


PRIOR_HELP = "`flat`, LOW,HIGH (uniform), normal:MEAN,STD or normal:MEAN,STD,LOW,HIGH"


def _numbers(text: str, counts: tuple[int, ...]) -> list[float]:
    try:
        found = [float(x) for x in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in counts:
        raise UsageError(f"{text!r} is no prior: give {PRIOR_HELP}")
    return found


def av_prior(text: str) -> AbstractAvPrior:
    """The prior of A_V that a text describes; see `PRIOR_HELP`."""
    kind, colon, numbers = text.partition(":")
    if colon and kind == "normal":
        mean, std, *limits = _numbers(numbers, (2, 4))
        return TruncatedNormalAv(mean, std, *(limits or AV_RANGE))
    prior = Priors(av="flat" if text == "flat" else _numbers(text, (2,))).av
    assert isinstance(prior, AbstractAvPrior)
    return prior


def rv_prior(text: str) -> AbstractRvPrior:
    """The prior of R_V that a text describes; see `PRIOR_HELP`."""
    kind, colon, numbers = text.partition(":")
    if colon and kind == "normal":
        mean, std, *limits = _numbers(numbers, (2, 4))
        return TruncatedNormalRv(mean, std, *(limits or RV_RANGE))
    return Priors(rv="flat" if text == "flat" else _numbers(text, (2,))).rv


def rows(text: str) -> slice:
    """`first:last`, counted from 0, without the last; either may be left out."""
    parts = text.split(":")
    try:
        first, last = (int(part) if part.strip() else None for part in parts)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range like 0:1000") from None
    return slice(first, last)


def mapping(texts: Sequence[str] | None) -> dict[str, str | None] | None:
    """`our=column` texts; `our=` leaves ours out."""
    if not texts:
        return None
    out = {}
    for text in texts:
        for item in names(text):
            key, equals, value = item.partition("=")
            if not equals:
                raise UsageError(f"{item!r} is not a pair like PS_g=gmag")
            out[key.strip()] = value.strip() or None
    return out


def units(texts: Sequence[str] | None) -> str | dict[str, str] | None:
    """`mag`, or `parallax=arcsec`, or several of them."""
    if not texts:
        return None
    out, plain = {}, []
    for item in (item for text in texts for item in names(text)):
        key, equals, value = item.partition("=")
        if equals:
            out[key.strip()] = value.strip()
        else:
            plain.append(item)
    if len(plain) > 1:
        raise UsageError(f"--units names {' and '.join(plain)}: the photometry has one unit")
    if not out:
        return plain[0]
    return out | ({"photometry": plain[0]} if plain else {})


def grid_from(text: str, bands: Sequence[str] | None = None) -> StarGrid:
    """The grid in a file, or the demonstration grid."""
    return open_grid(demo_grid() if text == DEMO else text, bands)


def shown(compositions: list) -> Iterable:
    """A progress bar over the compositions of a grid, where tqdm is installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return compositions
    return tqdm(compositions, desc="grid", unit="[Fe/H]", mininterval=0.5)


def writable(path: str | None, what: str) -> Path | None:
    """Refuses a file that could not be written, before hours are spent on it."""
    if path is None:
        return None
    out = Path(path)
    if out.is_dir():
        raise UsageError(f"{what} {out} is a folder; give the name of a file")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"the folder of {what} {out} does not exist; make it first")
    return out
