"""Tensor-product splines beside other smooth forms that could hold the stellar models.

    python training/compare_forms.py    # about 20 minutes on two cores

The same nodes train, and the same held-out nodes test: the spline as shipped; a perceptron (SiLU,
Adam with cosine decay, mean absolute deviation); a tensor Chebyshev series by least squares, for
the tracks one per stretch between primary EEPs, where they have kinks. Tracks: log10 age, L, Teff
of 0.1-3 Msun, EEP 202-808; held out are single nodes (5 %) and whole tracks (5 %) at once.
Bolometric corrections: all bands at A_V = 0, judged redder than 4000 angstrom at 3000-15 000 K.
A slope is compared with centred differences of the tables where those over one and over two nodes
agree within 2 %: rms deviation over rms slope. The bend is the median |third difference| from node
to node along EEP (log g), over that of the tables.
"""

import sys
import time
import timeit
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import equinox as eqx
import fit_bolometric
import fit_tracks
import jax
import jax.numpy as jnp
import numpy as np
from _forms import BATCH, BLOCK, DEPTH, RATE, WIDTH, Form, exactly, fit_series, look, train_network

from brutax.models.spline import DEGREE, TensorSpline

sys.path.append(str(fit_tracks.ROOT / "benchmarks"))
from _common import table, write  # noqa: E402

TRACKS, COLOURS = "tracks", "bolometric corrections"
STEPS = {TRACKS: 10_000, COLOURS: 6000}  # two to four minutes each
DEGREES = {TRACKS: (20, 24, 8), COLOURS: (22, 7, 7)}  # more swing between nodes
POINTS = 100_000
TOP_MASS, FIRST_EEP = 3.0, 202


class Task(NamedTuple):
    """Tables on a lattice, and what is asked of a form."""

    name: str
    axes: dict[str, np.ndarray]
    value: np.ndarray  # (*axes, output)
    train: np.ndarray  # nodes
    test: dict[str, np.ndarray]
    slope: np.ndarray  # nodes at which slopes are compared
    groups: dict[str, list[int]]  # outputs that are reported together
    edges: tuple[int, ...]  # between the pieces of a series, along the second axis


def tracks_task() -> tuple[Task, Callable[[Task], Form]]:
    full = fit_tracks.read_tracks()
    some, late = full.logm <= np.log10(TOP_MASS) + 1e-9, full.eep >= FIRST_EEP
    full = full._replace(logm=full.logm[some], value=full.value[some], last=full.last[some])
    seen = np.isfinite(full.value).all(axis=-1)
    points = (np.random.default_rng(3).random(seen.shape) < fit_tracks.HELD_OUT) & seen
    whole = fit_tracks.hold_out(full, np.random.default_rng(1))[:, None, :] & seen
    train, slope = seen & ~points & ~whole, np.zeros(seen.shape, bool)
    slope[1::3, :, ::2] = seen[1::3, :, ::2]
    test = {"nodes": (points & ~whole)[:, late], "whole tracks": whole[:, late]}
    axes = {"log mass": full.logm, "EEP": full.eep[late].astype(float), "[Fe/H]": full.feh}
    groups = {"log age": [0], "log L": [1], "log Teff": [2]}
    rest = (full.value[:, late, :, :3], train[:, late], test, slope[:, late], groups)
    task = Task(TRACKS, axes, *rest, fit_tracks.PRIMARY[1:])

    def spline(_: Task) -> Form:
        fit = fit_tracks.fit(full, train, steps=300)
        knots, coef = list(fit.knots[0]), fit.coef[0][..., :3]
        first = int(np.argmax(knots[1][DEGREE + 1 :] > FIRST_EEP))  # that reaches the range
        knots[1], coef = knots[1][first:], coef[:, first:]
        return Form([TensorSpline(knots, coef)], (), coef.size)

    return task, spline


def bolometric_task() -> tuple[Task, Callable[[Task], Form]]:
    tables, bands = fit_bolometric.read_tables(), fit_bolometric
    axes = (np.log10(tables["teff"]), tables["logg"], tables["feh"])
    bare = tables["bc"][0]
    atmosphere, finite = bands.usable(tables)
    held = np.random.default_rng(2).random(finite.shape) < bands.HELD_OUT
    held &= finite & bands.interior(finite)
    train = finite & ~held
    usable = ((tables["teff"] >= 3000) & (tables["teff"] <= 15000))[:, None, None]
    usable = usable & ((axes[1] >= -0.5) & (axes[1] <= 5.5))[:, None]
    groups = {"BC [mag]": [b for b, w in enumerate(tables["wavelength"]) if w > 4000]}
    rest = (train, {"nodes": held & usable}, atmosphere & usable, groups)
    task = Task(COLOURS, dict(zip(("log Teff", "log g", "[Fe/H]"), axes)), bare, *rest, ())

    def spline(_: Task) -> Form:
        centre, basis = bands.components(bare, finite)
        reduced = (bare - centre) @ basis.T
        knots, coef, _ = bands.fit(axes, bands.STEPS, reduced, train, bands.ROUGHNESS)
        # as at run time: the bands of every coefficient
        return Form([TensorSpline(knots, coef @ basis + centre)], (), coef.size + basis.size)

    return task, spline


def pieces(task: Task, edges: tuple[int, ...]) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Axes of every piece, and its rows of the second axis."""
    first, second, third = task.axes.values()
    for low, high in pairwise((second[0], *edges, second[-1])):
        rows = (second >= low) & (second <= high)
        yield [first, second[rows], third], rows


def network(task: Task) -> Form:
    part = train_network(nodes(task, task.train), task.value[task.train], STEPS[task.name])
    count = sum(w.size for w in jax.tree.leaves(eqx.filter(part, eqx.is_array)))
    return Form([part], (), count)


def series(task: Task) -> Form:
    parts, degrees = [], DEGREES[task.name]
    for axes, rows in pieces(task, task.edges):
        # more would swing between equally spaced nodes
        some = (degrees[0], min(degrees[1], int(2.0 * np.sqrt(rows.sum()))), degrees[2])
        parts.append(fit_series(axes, task.value[:, rows], task.train[:, rows], some))
    return Form(parts, task.edges, sum(part.coef.size for part in parts))


def nodes(task: Task, where: np.ndarray) -> np.ndarray:
    """Coordinates (node, 3)."""
    return np.stack([x[k] for x, k in zip(task.axes.values(), np.nonzero(where))], axis=1)


def microseconds(task: Task, form: Form) -> float:
    """Per point, the best of five runs, the mean over parts."""
    share, out = np.random.default_rng(5).random((POINTS, 3)), []
    for part, (axes, _) in zip(form.parts, pieces(task, form.edges)):
        points = [x[0] + np.ptp(x) * share[:, k] for k, x in enumerate(axes)]
        args = (part, jnp.asarray(np.stack(points, axis=1), float))
        runs = timeit.repeat(lambda: look(*args).block_until_ready(), number=1, repeat=5)  # noqa: B023
        out.append(1e6 * min(runs) / POINTS)
    return float(np.mean(out))


def centred(x: np.ndarray, value: np.ndarray, axis: int) -> np.ndarray:
    """Centred differences where they are smooth, else NaN."""
    out, v, x = np.full(value.shape, np.nan), np.moveaxis(value, axis, 0), x.reshape(-1, 1, 1, 1)
    one = (v[3:-1] - v[1:-3]) / (x[3:-1] - x[1:-3])
    two = (v[4:] - v[:-4]) / (x[4:] - x[:-4])
    even = np.isclose(x[3:-1] - x[2:-2], x[2:-2] - x[1:-3], rtol=0.25)
    smooth = (np.abs(one - two) < 0.02 * np.abs(one)) & even
    np.moveaxis(out, axis, 0)[2:-2] = np.where(smooth, one, np.nan)
    return out


def judge(task: Task, form: Form) -> dict[str, dict[str, float]]:
    """Errors, time and smoothness, for every group of outputs."""
    cost = {"coefficients": form.coefficients, "bytes": 4 * form.coefficients}
    cost["us / point"] = microseconds(task, form)
    where, model = nodes(task, task.slope), np.full(task.value.shape, np.nan)
    slope, model[task.slope] = exactly(form, where, slope=True), exactly(form, where)
    gaps = {k: exactly(form, nodes(task, t)) - task.value[t] for k, t in task.test.items()}
    report = {}
    for group, pick in task.groups.items():
        row = report[group] = dict(cost)
        for name, gap in gaps.items():
            for label, share in (("median", 0.5), ("99 %", 0.99)):
                row[f"{label}, {name}"] = float(np.quantile(np.abs(gap[:, pick]), share))
        for axis, (label, x) in enumerate(task.axes.items()):
            want = centred(x, task.value[..., pick], axis)[task.slope]
            off = slope[:, pick, axis] - want
            row[f"slope {label}"] = float(np.sqrt(np.nanmean(off**2) / np.nanmean(want**2)))
        bends = [np.abs(np.diff(v[..., pick], 3, axis=1)) for v in (model, task.value)]
        known = np.isfinite(bends[0]) & np.isfinite(bends[1])
        row["bend"] = float(np.divide(*(np.median(bend[known]) for bend in bends)))
    return report


def main() -> None:
    report, rows = {}, []
    for task, spline in (bolometric_task(), tracks_task()):
        counts = {name: int(where.sum()) for name, where in task.test.items()}
        forms = {}
        report[task.name] = {"train": int(task.train.sum()), "held out": counts, "forms": forms}
        todo = {"tensor spline": spline, "perceptron": network, "Chebyshev": series}
        for name, fit in todo.items():
            begin = time.perf_counter()
            form = fit(task)
            seconds = time.perf_counter() - begin
            forms[name] = {"fit [s]": seconds} | (found := judge(task, form))
            print(f"{task.name}, {name}: {seconds:.0f} s", flush=True)
            for group, row in found.items():
                cells = list(row.values())
                gap = () if len(counts) == 2 else ("", "")  # only tracks are held out whole
                rows.append((group, name, *cells[:5], *gap, *cells[5:]))
    head = ("coefficients", "bytes", "us / point", "median", "99 %", "median, tracks", "99 %")
    table(("", "form", *head, "slope mass, Teff", "EEP, log g", "[Fe/H]", "bend"), rows)
    settings = {"steps": STEPS, "width": WIDTH, "depth": DEPTH, "batch": BATCH, "rate": RATE}
    settings |= {"degrees": DEGREES, "points": POINTS, "block": BLOCK, "top_mass": TOP_MASS}
    write("model_forms", settings, report)


if __name__ == "__main__":
    main()
