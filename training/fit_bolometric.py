"""Fits the smooth functions of `brutax/data/builtin/bolometric.npz` to the MIST tables.

    python training/fit_bolometric.py    # accuracy on held-out nodes, then the shipped fit

Reads `../shared/data/models/mist_bc_tables_fixedfeh.h5` (MIST bolometric corrections: Dotter
2016; Choi et al. 2016). Without dust: one spline in (log10 Teff, log g, [Fe/H]). Extinction of the
tables (Cardelli, Clayton & Mathis 1989 at R_V = 3.1): `A_band / A_V` is a quadratic in A_V whose
coefficients are coarser splines. Other laws and R_V scale it by the ratio of the curves at the
effective wavelength of the band, a polynomial in 1/R_V fitted to the `dust_extinction` package.
"""

import argparse
import json
import time
from pathlib import Path

import h5py
import numpy as np
from _lattice import apply, filled, fit_lattice

from brutax.models.photometry.bolometric import LAWS
from brutax.models.photometry.passbands import law_ratios
from brutax.models.spline import clamped_knots, design_matrix

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT.parent / "shared/data/models/mist_bc_tables_fixedfeh.h5"
TARGET = ROOT / "brutax/data/builtin/bolometric.npz"
RESULT = ROOT / "benchmarks/results/bolometric_accuracy.json"

HELD_OUT = 0.05
COMPONENTS = 30
STEPS, ROUGHNESS = (1.0, 1.0, 1.5), (1e-3, 1e-3, 1e-1)  # chosen by the error at held-out nodes
TEFF_MAX = 50_000.0  # [K]
LOGG_RANGE = (-1.0, 6.0)  # beyond are white dwarfs
QUANTUM = 2.0**-11  # rounding of coefficients [mag]
LEFT_OUT = {"W146"}  # the tables hold 0 for [Fe/H] of 0.5 and 0.75
MISSING = -90.0  # what is below stands for no value: hot or cool corners of some bands
# effective wavelengths [angstrom] that the tables do not state (UKIDSS: Hewett et al. 2006;
# Kepler D51 is a narrow filter at 5100)
WAVELENGTH = {"UKIDSS_Z": 8817.0, "UKIDSS_Y": 10305.0, "UKIDSS_J": 12483.0, "UKIDSS_H": 16313.0,
              "UKIDSS_K": 22010.0, "Kepler_D51": 5100.0}  # fmt: skip


def read_tables() -> dict:
    """Tables (teff, logg, feh, band), with and without dust."""
    with h5py.File(TABLES) as file:
        bands = sorted(set(file["bc"]) - LEFT_OUT)
        out = {n: file[n][:] for n in ("av", "feh", "logg", "teff")}
        bc = np.stack([file["bc"][band][:] for band in bands], axis=-1)
        attrs = [dict(file["bc"][band].attrs) for band in bands]
    heavy = (out["logg"] >= LOGG_RANGE[0]) & (out["logg"] <= LOGG_RANGE[1])
    out["logg"] = out["logg"][heavy]
    bc = bc[:, :, heavy]
    keep = out["teff"] <= TEFF_MAX
    out["teff"] = out["teff"][keep]
    bc = bc[..., keep, :]
    out["bc"] = bc.transpose(0, 3, 2, 1, 4).astype(float)  # (av, teff, logg, feh, band)
    out["bands"] = bands
    out["system"] = [str(a["system"]) for a in attrs]
    out["derived"] = [str(a["derived"]) == "True" for a in attrs]
    wave = [float(a.get("lambda_eff", a.get("lambda_pivot", 0.0))) for a in attrs]
    out["wavelength"] = [WAVELENGTH.get(b, w) for b, w in zip(bands, wave)]
    return out


def thin(nodes: np.ndarray, step: float) -> np.ndarray:
    """Break points at every `step`-th node, both ends among them."""
    index = np.unique(np.round(np.arange(0, nodes.size - 1, step)).astype(int))
    return nodes[np.unique([*index, nodes.size - 1])]


def fit(axes, steps, value, seen, roughness):
    """Knots and coefficients of the spline, and what it gives at every node."""
    knots = [clamped_knots(thin(x, step)) for x, step in zip(axes, steps)]
    start = filled(axes, value, seen, (2, 0, 1))  # tables vary least along [Fe/H]
    coef = fit_lattice(axes, knots, value, seen, roughness, start, 300)
    return knots, coef, apply([design_matrix(k, x) for k, x in zip(knots, axes)], coef)


def covered(bare: np.ndarray) -> np.ndarray:
    """Nodes that hold an atmosphere: the tables repeat the last one along log g beyond it."""
    same = np.all(np.diff(bare, axis=1) == 0, axis=-1)  # (teff, logg - 1, feh)
    out = np.ones(bare.shape[:3], bool)
    for g in range(same.shape[1]):  # from low gravities: constant so far
        out[:, g] = ~np.logical_and.accumulate(same[:, : g + 1], axis=1)[:, -1]
    for g in range(same.shape[1], 0, -1):  # from high gravities
        out[:, g] &= ~np.logical_and.accumulate(same[:, g - 1 :][:, ::-1], axis=1)[:, -1]
    return out


def widened(finite: np.ndarray) -> np.ndarray:
    """One more node of log g on either side, where the tables repeat the nearest atmosphere."""
    out = finite.copy()
    out[:, 1:] |= finite[:, :-1]
    out[:, :-1] |= finite[:, 1:]
    return out


def usable(tables: dict) -> tuple[np.ndarray, np.ndarray]:
    """Nodes with an atmosphere and a value in every band; the same and one more node of log g."""
    stated = np.all(tables["bc"] > MISSING, axis=(0, -1))
    real = covered(tables["bc"][0])
    return real & stated, widened(real) & stated


def components(bare: np.ndarray, finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and principal components over bands, (band,) and (component, band): bands share most
    of what they say, so that few splines serve all."""
    table = bare[finite]
    centre = table.mean(axis=0)
    _, _, basis = np.linalg.svd(table - centre, full_matrices=False)
    return centre, basis[:COMPONENTS]


def interior(finite: np.ndarray) -> np.ndarray:
    """Nodes with atmospheres on all sides: what lies at the edge cannot be predicted."""
    out = np.zeros_like(finite)
    core = (slice(1, -1),) * 3
    out[core] = True
    for axis in range(3):
        for step in (-1, 1):
            out[core] &= np.roll(finite, step, axis)[core]
    return out


def reach_in_logg(finite: np.ndarray, logg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest log g with atmospheres of most [Fe/H] at each Teff."""
    some = finite.mean(axis=2) > 0.5
    some[~some.any(axis=1), some.shape[1] // 2] = True
    low = logg[np.argmax(some, axis=1)]
    return low, logg[some.shape[1] - 1 - np.argmax(some[:, ::-1], axis=1)]


def quadratic_in_av(tables: dict) -> np.ndarray:
    """Coefficients of `A_band / A_V = k0 + k1 A_V + k2 A_V²`, (teff, logg, feh, band x 3)."""
    av = tables["av"][1:]
    ratio = (tables["bc"][0] - tables["bc"][1:]) / av[:, None, None, None, None]
    basis = np.stack([np.ones_like(av), av, av**2], axis=1)
    k = np.tensordot(np.linalg.pinv(basis), ratio, axes=1)
    return np.moveaxis(k, 0, -1).reshape(*ratio.shape[1:4], -1)


def quantiles(gap: np.ndarray) -> list[float]:
    return [round(float(q), 2) for q in np.nanquantile(gap, (0.5, 0.99))]


def neighbours(axes, table: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Every node from its neighbours along Teff, log g, [Fe/H]: Lagrange cubics, else lines.

    What no smooth form can undercut: the scatter of the tables themselves.
    """
    out = np.full((3, *table.shape), np.nan)
    for axis, x in enumerate(axes):
        value, good, into = (np.moveaxis(y, axis, 0) for y in (table, finite, out[axis]))
        for i in range(1, len(x) - 1):
            for around in ((i - 2, i - 1, i + 1, i + 2), (i - 1, i + 1)):
                if around[0] < 0 or around[-1] >= len(x):
                    continue
                weight = [
                    np.prod([(x[i] - x[k]) / (x[j] - x[k]) for k in around if k != j])
                    for j in around
                ]
                use = np.all([good[k] for k in around], axis=0) & np.isnan(into[i][..., 0])
                into[i][use] = np.tensordot(weight, value[list(around)], axes=1)[use]
    return out


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    start = time.perf_counter()
    tables = read_tables()
    bands = tables["bands"]
    axes = (np.log10(tables["teff"]), tables["logg"], tables["feh"])
    print(
        {
            k: (v.min(), v.max(), v.size)
            for k, v in tables.items()
            if k in ("teff", "logg", "feh", "av")
        }
    )
    bare = tables["bc"][0]
    atmosphere, finite = usable(tables)
    low, high = reach_in_logg(finite, tables["logg"])
    print(f"{finite.mean():.0%} of the nodes are model atmospheres, the rest repeats them")
    held = (np.random.default_rng(2).random(finite.shape) < HELD_OUT) & finite & interior(finite)
    coarse, smooth = (3.0, 4.0, 5.0), (1e-4, 1e-4, 1e-4)
    centre, basis = components(bare, finite)
    reduced = (bare - centre) @ basis.T
    _, coef, model = fit(axes, STEPS, reduced, finite & ~held, ROUGHNESS)
    model = centre + model @ basis
    ratio = quadratic_in_av(tables)
    _, dust, dust_model = fit(axes, coarse, ratio, finite & ~held, smooth)
    teff, logg = tables["teff"][:, None, None], tables["logg"][None, :, None]
    usual = held & (teff >= 3000) & (teff <= 15000) & (logg >= -0.5) & (logg <= 5.5)
    report: dict = {"coefficients": int(coef.size + dust.size), "held out": {}}
    k = dust_model.reshape(*dust_model.shape[:3], len(bands), 3)
    for b, band in enumerate(bands):
        gap = 1e3 * np.abs(model - bare)[usual][:, b]
        row = {"A_V 0 [mmag]": [round(float(q), 2) for q in np.quantile(gap, (0.5, 0.95, 0.99))]}
        for av in (1.0, 6.0):
            n = int(np.argmin(np.abs(tables["av"] - av)))
            a = av * (k[..., b, 0] + av * k[..., b, 1] + av**2 * k[..., b, 2])
            dusty = 1e3 * np.abs(a - (bare - tables["bc"][n])[..., b])[usual]
            row[f"extinction at A_V {av:g} [mmag]"] = [
                round(float(q), 2) for q in np.quantile(dusty, (0.5, 0.99))
            ]
        report["held out"][band] = row
        print(f"  {band:16s}", *row.values())
    optical = [b for b, w in enumerate(tables["wavelength"]) if w > 4000]
    report["optical and infrared, median and 99 % [mmag]"] = {}
    near = 1e3 * np.abs(neighbours(axes, bare, atmosphere) - bare)
    bound = np.min(np.where(np.isnan(near), np.inf, near), axis=0)
    bound[np.isinf(bound)] = np.nan
    gap = 1e3 * np.abs(model - bare)
    for coolest, hottest in ((3000, 15000), (3000, 4000), (4000, 5000), (5000, 15000)):
        part = usual & (teff >= coolest) & (teff <= hottest)
        report["optical and infrared, median and 99 % [mmag]"][f"{coolest}-{hottest} K"] = {
            "held-out nodes": quantiles(gap[part][:, optical]),
            "cubic interpolation between their neighbours in Teff, log g, [Fe/H]": [
                quantiles(one[part][:, optical]) for one in near
            ],
            "the best of these three, node by node": quantiles(bound[part][:, optical]),
        }
    print(json.dumps(report["optical and infrared, median and 99 % [mmag]"], indent=1))

    knots, coef, model = fit(axes, STEPS, reduced, finite, ROUGHNESS)
    some = atmosphere & (teff >= 3000) & (teff <= 15000)
    fitted = 1e3 * np.abs(centre + model @ basis - bare)[some]
    report["all nodes, median and 99 % [mmag]"] = [
        round(float(q), 2) for q in np.quantile(fitted[:, optical], (0.5, 0.99))
    ]
    print("shipped, at its nodes:", report["all nodes, median and 99 % [mmag]"])
    dust_knots, dust, _ = fit(axes, coarse, ratio, finite, smooth)
    np.savez_compressed(
        TARGET,
        teff=tables["teff"],
        logg_low=low,
        logg_high=high,
        bands=np.array(bands),
        system=np.array(tables["system"]),
        derived=np.array(tables["derived"]),
        wavelength=np.array(tables["wavelength"]),
        laws=np.array(LAWS),
        centre=centre.astype(np.float32),
        basis=basis.astype(np.float32),
        coef=(np.round(coef / QUANTUM) * QUANTUM).astype(np.float32),
        dust=(np.round(dust * 2.0**14) / 2.0**14).astype(np.float32),
        law_ratio=np.float32([law_ratios(np.array(tables["wavelength"]), law) for law in LAWS]),
        **{f"knots_{n}": x for n, x in enumerate(knots)},
        **{f"dust_knots_{n}": x for n, x in enumerate(dust_knots)},
    )  # fmt: skip
    report["bytes"] = TARGET.stat().st_size
    report["table values"] = int(bare.size)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(
        report["coefficients"],
        report["table values"],
        report["bytes"],
        f"{time.perf_counter() - start:.0f} s",
    )


if __name__ == "__main__":
    main()
