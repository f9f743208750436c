"""Fits the smooth functions of `brutax/data/builtin/tracks.npz` to the MIST tracks.

    python training/fit_tracks.py    # accuracy on held-out tracks, then the shipped fit

Reads `../shared/data/models/mist_eep_tracks_vvcrit0.0.h5` (MIST v1.2: Dotter 2016; Choi et al.
2016; as repackaged by EXOZIPPy). Tensor-product splines in (log10 mass, EEP, [Fe/H]) are fitted by
penalised least squares: a fine one for age, luminosity, temperature and d(age)/d(EEP), a coarser
one for surface [Fe/H]. Tracks that are missing, failed or held out carry no weight, but in the
shipped fit they are bridged where tracks on both sides go on.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from _lattice import apply, filled, fit_lattice
from scipy.optimize import isotonic_regression

from brutax.data._builtin import pack, unpack
from brutax.models.spline import clamped_knots, design_matrix

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT.parent / "shared/data/models/mist_eep_tracks_vvcrit0.0.h5"
TARGET = ROOT / "brutax/data/builtin/tracks.npz"
RESULT = ROOT / "benchmarks/results/tracks_accuracy.json"

FIRST_EEP, LAST_EEP = 1, 808
MASS_RANGE = (0.1, 20.0)
PRIMARY = (202, 353, 454, 605, 631, 707)  # where the tracks of MIST have kinks
TEFF_SUN, LOGG_SUN = 5772.0, 4.438
OUTPUTS = ("loga", "logl", "logt", "log_agewt", "dfeh")
# rounding of coefficients
QUANTUM = np.array([2.0**-18, 2.0**-14, 2.0**-15, 2.0**-11, 2.0**-11])
FINE = 4  # outputs of the fine spline
ROUGHNESS = (1e-4, 1e-4, 1e-3)  # along mass, EEP, [Fe/H]; chosen by the error at held-out nodes
HELD_OUT = 0.05
STRETCH = 12  # EEPs
TIP, TURN_OFF = 605, 454  # primary EEPs: the tip of the giant branch, the end of the main sequence
SHORT = 0.1  # dex below the tips of other compositions at which a track has not reached its own
GIANTS = 2.0  # Msun: lighter stars have a helium flash
REACH = 3  # tracks away in mass, at most, from those that bridge a gap
PHASES = {
    "pre-main sequence": (1, 201),
    "main sequence": (202, 453),
    "subgiant, giant": (454, 604),
    "helium flash": (605, 630),
    "core helium": (631, 706),
    "asymptotic": (707, 808),
}


class Tracks(NamedTuple):
    """MIST tracks on a lattice (mass, EEP, [Fe/H], output)."""

    logm: np.ndarray
    eep: np.ndarray
    feh: np.ndarray
    value: np.ndarray  # NaN where there is none
    last: np.ndarray  # (mass, feh) last usable EEP; 0 for none


def read_tracks() -> Tracks:
    """The tracks, cut where they end, fail, or where their age stops growing."""
    with h5py.File(TABLES) as file:
        mini, feh = file["mini"][:], file["feh_init"][:]
        start = file["offset"][:]
        columns = [file[n][:] for n in ("age_gyr", "radius_rsun", "teff_k", "feh_surf")]
    keep = (mini >= MASS_RANGE[0] - 1e-9) & (mini <= MASS_RANGE[1] + 1e-9)
    eep = np.arange(FIRST_EEP, LAST_EEP + 1)
    value = np.full((keep.sum(), eep.size, feh.size, len(OUTPUTS)), np.nan)
    last = np.zeros((keep.sum(), feh.size), int)
    for i, m in enumerate(np.flatnonzero(keep)):
        for j in range(feh.size):
            row, count = start[j, m]
            count = min(int(count), LAST_EEP)
            if count < 300:  # a failed track
                continue
            age, radius, teff, surface = (c[row : row + count].astype(float) for c in columns)
            good = np.isfinite(age) & np.isfinite(radius) & np.isfinite(teff) & (age > 0)
            good[1:] &= np.diff(age) > 0
            end = count if good.all() else int(np.argmin(good))
            if end < 300:
                continue
            logr, logt = np.log10(radius[:end]), np.log10(teff[:end])
            logl = 2.0 * logr + 4.0 * (logt - np.log10(TEFF_SUN))
            weight = np.log10(np.gradient(age[:end]) * 1e9)  # yr per EEP
            out = (np.log10(age[:end]) + 9.0, logl, logt, weight, surface[:end] - feh[j])
            value[i, :end, j] = np.stack(out, axis=-1)
            last[i, j] = end
    return without_stretched(Tracks(np.log10(mini[keep]), eep, feh, value, last))


def without_stretched(tracks: Tracks) -> Tracks:
    """Cuts at the end of the main sequence the tracks that stop on the giant branch.

    Their last model is labelled as the tip, and all EEPs on the way to it are stretched.
    """
    value, last = tracks.value.copy(), tracks.last.copy()
    tip = np.where(last > TIP, value[:, TIP - FIRST_EEP, :, 1], np.nan)
    for i, j in np.argwhere(last == TIP):
        light = tracks.logm[i] < np.log10(GIANTS)
        if light and value[i, TIP - FIRST_EEP, j, 1] < np.nanmax(tip[i]) - SHORT:
            value[i, TURN_OFF:, j], last[i, j] = np.nan, TURN_OFF
    return tracks._replace(value=value, last=last)


def bridged(tracks: Tracks) -> Tracks:
    """Continues tracks that end before those on both sides of them do.

    A continuation grows as those of the tracks on both sides, in mass if some are near, else in
    [Fe/H]; then in mass those that are left, between tracks of which some were bridged.
    """
    for axis in (0, 1, 0):
        value, last = tracks.value.copy(), tracks.last.copy()
        along = (tracks.logm, tracks.feh)[axis]
        for at in np.argwhere((tracks.last >= 300) & (tracks.last < LAST_EEP)):
            end, sides = tracks.last[tuple(at)], []
            for way in (-1, 1):
                for step in range(1, (REACH if axis == 0 else 1) + 1):
                    side = at.copy()
                    side[axis] += way * step
                    if not 0 <= side[axis] < along.size:
                        break
                    if tracks.last[tuple(side)] > end:
                        sides.append(tuple(side))
                        break
            if len(sides) < 2:
                continue
            i, j = at
            x0, x1 = (along[side[axis]] for side in sides)
            share = (along[at[axis]] - x0) / (x1 - x0)
            upto = min(tracks.last[side] for side in sides)
            one, two = (
                tracks.value[a, end:upto, b] - tracks.value[a, end - 1, b] for a, b in sides
            )
            value[i, end:upto, j] = value[i, end - 1, j] + (1.0 - share) * one + share * two
            last[i, j] = upto
        tracks = tracks._replace(value=value, last=last)
    return tracks


def bridge_errors(tracks: Tracks) -> dict:
    """What bridges are worth: those of all whole tracks of 0.9-1.2 Msun at one [Fe/H]."""
    light = (tracks.logm > np.log10(0.89)) & (tracks.logm < np.log10(1.21))
    out = {}
    for j in np.flatnonzero((tracks.feh > -0.6) & (tracks.feh < 0.1)):
        value, last = tracks.value.copy(), tracks.last.copy()
        value[light, TURN_OFF:, j], last[light, j] = np.nan, TURN_OFF
        where = np.zeros(value.shape[:3], bool)
        where[light, TURN_OFF:, j] = True
        model = bridged(tracks._replace(value=value, last=last)).value
        out[f"[Fe/H] {tracks.feh[j]:.2f}"] = errors(tracks, model, where)
    return out


def breaks_in_eep(fine: bool) -> np.ndarray:
    """Break points: close where tracks bend, doubled at primary points."""
    parts = [np.arange(1, 30, 3.0), np.arange(30, 202, 6.0)]
    if fine:
        parts += [np.arange(202, 440, 4.0), np.arange(440, 596, 3.0), np.arange(596, 640, 1.0)]
        parts += [np.arange(640, 707, 2.0), np.arange(707, 808, 2.5), [808.0]]
    else:
        parts += [np.arange(202, 440, 6.0), np.arange(440, 530, 3.0), np.arange(530, 605, 4.0)]
        parts += [np.arange(605, 640, 2.5), np.arange(640, 808, 4.0), [808.0]]
    points = np.concatenate(parts)
    near = np.min(np.abs(points[:, None] - np.array(PRIMARY)), axis=1) < 1.3
    return np.sort(np.concatenate([points[~near], PRIMARY, PRIMARY]))


def breaks(tracks: Tracks, fine: bool) -> tuple[np.ndarray, ...]:
    """Break points in log10 mass, EEP and [Fe/H]."""
    if fine:
        return tracks.logm, breaks_in_eep(True), tracks.feh
    index = np.unique(np.round(np.arange(0, tracks.logm.size - 0.5, 1.5)).astype(int))
    some = tracks.logm[np.unique([*index, tracks.logm.size - 1])]
    return some, breaks_in_eep(False), np.delete(tracks.feh, [1, tracks.feh.size - 2])


class Fit(NamedTuple):
    knots: tuple[tuple[np.ndarray, ...], ...]  # of the fine and the coarse spline
    coef: tuple[np.ndarray, ...]  # (mass, eep, feh, output)


def fit(tracks: Tracks, seen: np.ndarray, steps: int = 60) -> Fit:
    """Coefficients of both splines from the nodes that are `seen`."""
    axes = (tracks.logm, tracks.eep.astype(float), tracks.feh)
    value = np.where(seen[..., None], tracks.value, 0.0).astype(np.float32)
    # along EEP if only points are missing; tracks that are missing from those of next masses
    start = np.nan_to_num(filled(axes, value, seen, (1, 0, 2)))
    knots, coef = [], []
    for fine, outputs in ((True, slice(0, FINE)), (False, slice(FINE, None))):
        one = tuple(clamped_knots(x) for x in breaks(tracks, fine))
        knots.append(one)
        coef.append(
            fit_lattice(axes, one, value[..., outputs], seen, ROUGHNESS, start[..., outputs], steps)
        )
    weight = apply([design_matrix(k, x).T ** 2 for k, x in zip(knots[0], axes)], seen[..., None])
    coef[0][..., 0] = growing(coef[0][..., 0], weight[..., 0])
    return Fit(tuple(knots), tuple(coef))


def growing(age: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The nearest coefficients (mass, eep, feh) that do not fall along EEP: then no age falls.

    (The slope of a B-spline is one with the differences of its coefficients.) `weight` says how
    much of the tracks each coefficient describes: where there is none it follows the others.
    """
    out = np.empty_like(age)
    for i, j in np.ndindex(age.shape[0], age.shape[2]):
        count = weight[i, :, j] + 1e-6 * (1.0 + weight.max())
        out[i, :, j] = isotonic_regression(age[i, :, j], weights=count).x
    return out


def evaluate(tracks: Tracks, result: Fit) -> np.ndarray:
    """The fit at every node of the tracks."""
    axes = (tracks.logm, tracks.eep.astype(float), tracks.feh)
    out = [
        apply([design_matrix(k, x) for k, x in zip(knots, axes, strict=True)], coef)
        for knots, coef in zip(result.knots, result.coef, strict=True)
    ]
    return np.concatenate(out, axis=-1)


def hold_out(tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
    """(mass, feh) of held-out tracks: no two next to each other, none at the edge."""
    chosen = np.zeros(tracks.last.shape, bool)
    n_mass, n_feh = chosen.shape
    wanted = int(HELD_OUT * chosen.size)
    for flat in rng.permutation(chosen.size):
        i, j = divmod(int(flat), n_feh)
        inside = 0 < i < n_mass - 1 and 0 < j < n_feh - 1
        near = chosen[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        around = tracks.last[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] > 0
        if inside and around.all() and not near.any():
            chosen[i, j] = True
        if chosen.sum() == wanted:
            break
    return chosen


def errors(tracks: Tracks, model: np.ndarray, where: np.ndarray) -> dict:
    """Medians, 95 % and 99 % points of |fit - track| over nodes (mass, eep, feh), by phase."""
    gap = np.abs(model - tracks.value)
    out = {}
    for name, (low, high) in {"all": (202, 808), **PHASES}.items():
        rows = (tracks.eep >= low) & (tracks.eep <= high)
        part = gap[:, rows][where[:, rows]]
        part = part[np.isfinite(part).all(axis=1)]
        if not len(part):
            continue
        out[name] = {
            output: [round(float(q), 5) for q in np.quantile(part[:, k], (0.5, 0.95, 0.99))]
            for k, output in enumerate(OUTPUTS)
        } | {"count": len(part)}
    return out


def gradients(tracks: Tracks, result: Fit) -> dict:
    """Slopes of the fit against centred differences of the tracks, on smooth stretches.

    A stretch is smooth where differences over one and over two nodes agree within 2 %. Returns
    the share of nodes within 5 % and the median deviation, relative, by axis and phase.
    """
    axes = (tracks.logm, tracks.eep.astype(float), tracks.feh)
    knots, coef = result.knots[0], result.coef[0]
    out: dict = {}
    for axis, label in enumerate(("log mass", "EEP", "[Fe/H]")):
        matrices = [design_matrix(k, x) for k, x in zip(knots, axes, strict=True)]
        step = 1e-4 * np.ptp(axes[axis])
        inside = np.clip(axes[axis], axes[axis][0] + step, axes[axis][-1] - step)
        matrices[axis] = (
            design_matrix(knots[axis], inside + step) - design_matrix(knots[axis], inside - step)
        ) / (2.0 * step)
        slope = np.moveaxis(apply(matrices, coef.astype(float)), axis, 0)[2:-2]
        table = np.moveaxis(tracks.value[..., :FINE], axis, 0)
        x = axes[axis].reshape(-1, 1, 1, 1)
        one = (table[3:-1] - table[1:-3]) / (x[3:-1] - x[1:-3])
        two = (table[4:] - table[:-4]) / (x[4:] - x[:-4])
        even = np.isclose(x[3:-1] - x[2:-2], x[2:-2] - x[1:-3], rtol=0.25)
        smooth = (np.abs(one - two) < 0.02 * np.abs(one)) & even
        deviation = np.abs(slope / np.where(one == 0, np.nan, one) - 1.0)
        eep = tracks.eep if axis != 1 else tracks.eep[2:-2]
        for phase in ("main sequence", "subgiant, giant"):
            low, high = PHASES[phase]
            rows = (eep >= low) & (eep <= high)
            # EEP is first if it is the axis, else after mass, or last but one
            at = {0: (slice(None), rows), 1: (rows,), 2: (slice(None), slice(None), rows)}[axis]
            some, good = deviation[at], smooth[at]
            out[f"{label}, {phase}"] = {
                output: {
                    "within 5 %": round(float(np.mean(some[..., k][good[..., k]] < 0.05)), 4),
                    "median": round(float(np.median(some[..., k][good[..., k]])), 5),
                    "count": int(good[..., k].sum()),
                }
                for k, output in enumerate(OUTPUTS[:FINE])
            }
    return out


def usable(tracks: Tracks, model: np.ndarray) -> np.ndarray:
    """Last EEP up to which the fit follows a track."""
    last = tracks.last.copy()
    gap = np.abs(model - tracks.value)
    far = (gap[..., 0] > 0.1) | (gap[..., 1] > 0.3) | (gap[..., 2] > 0.1)
    far[:, :201] = False  # the first points of a track are counted by its age alone
    # a spike is smoothed over; a stretch that the fit does not follow ends the track
    lost = np.lib.stride_tricks.sliding_window_view(far, STRETCH, axis=1).all(axis=-1)
    for i, j in np.ndindex(last.shape):
        if last[i, j] and lost[i, :, j].any():
            last[i, j] = min(last[i, j], int(np.argmax(lost[i, :, j])))
    return last


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    begin = time.perf_counter()
    tracks = read_tracks()
    seen = np.isfinite(tracks.value).all(axis=-1)
    points = (np.random.default_rng(3).random(seen.shape) < HELD_OUT) & seen
    held = hold_out(tracks, np.random.default_rng(1))
    whole = np.broadcast_to(held[:, None, :], seen.shape) & seen
    print(f"{tracks.value.shape} read; held out {points.sum()} nodes, then {held.sum()} tracks")
    report: dict = {}
    model = evaluate(tracks, fit(tracks, seen & ~points))
    report["held-out nodes"] = errors(tracks, model, points)
    model = evaluate(tracks, fit(tracks, seen & ~whole, steps=100))
    report["held-out tracks"] = errors(tracks, model, whole)

    report["bridges"] = bridge_errors(tracks)
    whole_tracks = bridged(tracks)
    result = fit(whole_tracks, np.isfinite(whole_tracks.value).all(axis=-1))
    outputs = [*np.moveaxis(result.coef[0], -1, 0), *np.moveaxis(result.coef[1], -1, 0)]
    packed = [pack(one, q) for one, q in zip(outputs, QUANTUM, strict=True)]
    coef = [unpack(one, q) for one, q in zip(packed, QUANTUM)]
    result = Fit(result.knots, (np.stack(coef[:FINE], axis=-1), np.stack(coef[FINE:], axis=-1)))
    model = evaluate(tracks, result)
    report["all nodes"] = errors(tracks, model, seen)
    report["gradients"] = gradients(tracks, result)
    for name in ("held-out nodes", "held-out tracks", "all nodes"):
        print(name)
        for phase, row in report[name].items():
            print(f"  {phase:18s}", row)
    for name, row in report["gradients"].items():
        print(name, row)
    last = usable(whole_tracks, model)
    np.savez_compressed(
        TARGET,
        mini=10.0**tracks.logm,
        feh=tracks.feh,
        last=last.astype(np.float32),
        quantum=QUANTUM,
        **{f"coef_{k}": one for k, one in enumerate(packed)},
        **{f"knots_{k}": x for k, x in enumerate(result.knots[0])},
        **{f"slow_knots_{k}": x for k, x in enumerate(result.knots[1])},
    )  # fmt: skip
    cut = (last < whole_tracks.last) & (tracks.last > 0)
    longer = whole_tracks.last > tracks.last
    report["coefficients"] = int(sum(c.size for c in coef))
    report["table values"] = int(np.isfinite(tracks.value).sum())
    report["bytes"] = TARGET.stat().st_size
    report["tracks"] = {
        "all": last.size,
        "absent": int((last == 0).sum()),
        "cut": int(cut.sum()),
        "bridged": int(longer.sum()),
    }
    print(report["coefficients"], report["table values"], report["bytes"], report["tracks"])
    print(f"{time.perf_counter() - begin:.0f} s")
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
