"""Fits the smooth functions of `brutax/data/builtin/tracks.npz` to the MIST tracks.

    python training/fit_tracks.py    # accuracy on held-out tracks, then the shipped fit

Reads `../shared/data/models/mist_eep_tracks_vvcrit0.0.h5` (MIST v1.2: Dotter 2016; Choi et al.
2016; as repackaged by EXOZIPPy). A tensor-product spline in (log10 mass, EEP, [Fe/H]) is fitted
by least squares; tracks that are missing, failed or held out carry no weight: they are filled
with the fit itself until it no longer changes.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from brutax.core.spline import clamped_knots, design_matrix

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT.parent / "shared/data/models/mist_eep_tracks_vvcrit0.0.h5"
TARGET = ROOT / "brutax/data/builtin/tracks.npz"
RESULT = ROOT / "benchmarks/results/tracks_accuracy.json"

FIRST_EEP, LAST_EEP = 1, 808
MASS_RANGE = (0.1, 20.0)
PRIMARY = (202, 353, 454, 605, 631, 707)  # where the tracks of MIST have kinks
TEFF_SUN, LOGG_SUN = 5772.0, 4.438
OUTPUTS = ("loga", "logl", "logt", "dfeh", "log_agewt")
QUANTUM = np.array([2.0**-15, 2.0**-13, 2.0**-14, 2.0**-12, 2.0**-11])  # rounding of coefficients
HELD_OUT = 0.05
STRETCH = 12  # EEPs
PASSES = 120
RELAX = 1.8  # the iteration contracts monotonically, so that steps may be longer
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
    first: np.ndarray  # (mass, feh) first and last usable EEP; 0 for none
    last: np.ndarray


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
            out = (np.log10(age[:end]) + 9.0, logl, logt, surface[:end] - feh[j], weight)
            value[i, :end, j] = np.stack(out, axis=-1)
            last[i, j] = end
    return Tracks(np.log10(mini[keep]), eep, feh, value, np.minimum(last, 1), last)


def breaks_in_eep() -> np.ndarray:
    """Break points: close where tracks bend, doubled at primary points."""
    parts = [np.arange(1, 30, 3.0), np.arange(30, 202, 6.0), np.arange(202, 440, 6.0)]
    parts += [np.arange(440, 530, 3.0), np.arange(530, 605, 4.0), np.arange(605, 640, 2.5)]
    parts += [np.arange(640, 707, 4.0), np.arange(707, 808, 4.0), [808.0]]
    points = np.concatenate(parts)
    near = np.min(np.abs(points[:, None] - np.array(PRIMARY)), axis=1) < 1.3
    return np.sort(np.concatenate([points[~near], PRIMARY, PRIMARY]))


def breaks_in_mass(logm: np.ndarray) -> np.ndarray:
    """Break points at two of three nodes."""
    index = np.unique(np.round(np.arange(0, logm.size - 0.5, 1.5)).astype(int))
    return logm[np.unique([*index, logm.size - 1])]


def breaks_in_feh(feh: np.ndarray) -> np.ndarray:
    """As for a spline that passes the nodes: all of them but the second and last but one."""
    return np.delete(feh, [1, feh.size - 2])


class Fit(NamedTuple):
    knots: tuple[np.ndarray, ...]
    coef: np.ndarray


def fit(tracks: Tracks, missing: np.ndarray, passes: int = PASSES) -> Fit:
    """Least-squares coefficients, (mass, eep, feh, output)."""
    knots = (
        clamped_knots(breaks_in_mass(tracks.logm)),
        clamped_knots(breaks_in_eep()),
        clamped_knots(breaks_in_feh(tracks.feh)),
    )
    axes = (tracks.logm, tracks.eep.astype(float), tracks.feh)
    design = [design_matrix(knot, x) for knot, x in zip(knots, axes, strict=True)]
    solve = []
    for matrix in design:
        rough = np.diff(np.eye(matrix.shape[1]), 3, axis=0)
        solve.append(np.linalg.solve(matrix.T @ matrix + 1e-5 * rough.T @ rough, matrix.T))
    filled = fill(tracks.value, missing)
    for _ in range(passes):
        coef = np.einsum("am,mefo->aefo", solve[0], filled, optimize=True)
        coef = np.einsum("be,aefo->abfo", solve[1], coef, optimize=True)
        coef = np.einsum("cf,abfo->abco", solve[2], coef, optimize=True)
        model = evaluate(design, coef)
        change = np.abs(model - filled)[missing]
        filled[missing] += RELAX * (model - filled)[missing]
        if change.size == 0 or np.nanmax(change[:, 1]) < 1e-5:
            break
    return Fit(knots, coef)


def evaluate(design: list[np.ndarray], coef: np.ndarray) -> np.ndarray:
    out = np.einsum("ma,abco->mbco", design[0], coef, optimize=True)
    out = np.einsum("eb,mbco->meco", design[1], out, optimize=True)
    return np.einsum("fc,meco->mefo", design[2], out, optimize=True)


def fill(value: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """First guesses of missing values: the tracks of next masses if they are close, then those of
    other [Fe/H], of any mass, and earlier EEPs."""
    out = np.where(missing[..., None], np.nan, value)
    for axis, reach in ((0, 2), (2, 99), (0, 999), (1, 9999)):
        moved = np.moveaxis(out, axis, -1)
        x = np.arange(moved.shape[-1])
        flat = moved.reshape(-1, x.size)
        holes = np.isnan(flat).any(axis=1) & np.isfinite(flat).any(axis=1)
        for row in np.flatnonzero(holes):
            good = np.flatnonzero(np.isfinite(flat[row]))
            near = np.searchsorted(good, x)
            gap = good[np.clip(near, 0, good.size - 1)] - good[np.clip(near - 1, 0, good.size - 1)]
            close = (gap <= reach) & (gap > 0) | (reach > 2)
            flat[row] = np.where(close, np.interp(x, good, flat[row][good]), flat[row])
        out = np.moveaxis(flat.reshape(moved.shape), -1, axis)
    return out


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
    """Medians and 99 % points of |fit - track|, by phase."""
    gap = np.abs(model - tracks.value)
    out = {}
    for name, (low, high) in {"all": (202, 808), **PHASES}.items():
        part = gap[:, (tracks.eep >= low) & (tracks.eep <= high)]
        part = np.moveaxis(part, 2, 1)[where].reshape(-1, len(OUTPUTS))
        part = part[np.isfinite(part).all(axis=1)]
        out[name] = {
            output: [round(float(q), 5) for q in np.quantile(part[:, k], (0.5, 0.95, 0.99))]
            for k, output in enumerate(OUTPUTS)
        } | {"count": len(part)}
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    start = time.perf_counter()
    tracks = read_tracks()
    absent = ~np.isfinite(tracks.value).all(axis=-1)
    held = hold_out(tracks, np.random.default_rng(1))
    print(f"{tracks.value.shape} read, {held.sum()} tracks held out")
    trial = fit(tracks, absent | held[:, None, :])
    design = designs(tracks, trial)
    model = evaluate(design, trial.coef)
    report = {"held out": errors(tracks, model, held), "fitted": errors(tracks, model, ~held)}
    for kind, table in report.items():
        print(kind)
        for phase, row in table.items():
            print(f"  {phase:18s}", row)
    print(f"{time.perf_counter() - start:.0f} s")

    final = fit(tracks, absent)
    coef = np.round(final.coef / QUANTUM) * QUANTUM
    last = usable(tracks, evaluate(design, coef))
    np.savez_compressed(
        TARGET,
        coef=coef.astype(np.float32),
        **{f"knots_{k}": knot for k, knot in enumerate(final.knots)},
        mini=10.0**tracks.logm,
        feh=tracks.feh,
        first=np.minimum(last, 1).astype(np.int16),
        last=last.astype(np.int16),
    )
    cut = np.count_nonzero(last < tracks.last)
    report["coefficients"] = int(coef.size)
    report["table values"] = int(np.isfinite(tracks.value).sum())
    report["bytes"] = TARGET.stat().st_size
    report["tracks"] = {"all": int(last.size), "absent": int((last == 0).sum()), "cut": int(cut)}
    print(report["coefficients"], report["table values"], report["bytes"], report["tracks"])
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


def designs(tracks: Tracks, result: Fit) -> list[np.ndarray]:
    axes = (tracks.logm, tracks.eep.astype(float), tracks.feh)
    return [design_matrix(knot, x) for knot, x in zip(result.knots, axes, strict=True)]


if __name__ == "__main__":
    main()
