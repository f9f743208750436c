"""Photometric offsets: beside brutus', injected and recovered, and of real stars.

    python benchmarks/offsets.py --peer-python PYTHON_WITH_BRUTUS [--only speed recovery m67 orion]

speed: `photometric_offsets` of 1000 stars x 250 draws x 8 bands on 100 000 models, 300
resamplings, in single and double precision beside astro-brutus 1.2.0, each in a process of its
own; the values with the same random numbers. recovery: samples of mock stars with offsets injected
into one band that is fitted and one that is not, measured one by one by resampling. evidence: the
first of these by `zeropoints.fit` with the evidence, all bands free. m67, orion: the same on
real stars, beside the offsets that brutus publishes for its grid of MIST models (v9); figures.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    ORION,
    ORION_DATASET,
    PS,
    TMASS,
    answer,
    in_own_process,
    known,
    parse,
    parser,
    peak_rss_mb,
    save_figure,
    table,
    write,
)

import brutax

PARTS = ("speed", "recovery", "evidence", "m67", "orion")
BANDS = PS + TMASS
SEED = 7
FITTED, UNFITTED = ("PS_i", 0.04), ("2MASS_H", -0.03)  # what is injected
AV = (0.0, 3.0)  # of mock stars and of their fits [mag]
GRID = "models/mist_small.h5"  # of mock stars
EVIDENCE: dict[str, Any] = {
    "method": "evidence",
    "draws": 2048,
    "effort": "high",
    "priors": brutax.Priors(av=AV),
    "prior_std": 0.3,  # the same 4 % in every sample is no draw from a narrow prior
    "floors": False,
    "poor_fits": True,
}


def make_sample(stars: int, draws: int, models: int) -> dict[str, np.ndarray]:
    """Stars near their models; draws scattered about them."""
    rng, bands = np.random.default_rng(1), len(BANDS)
    coeffs = (rng.uniform(2, 8, (models, bands)), rng.uniform(0.2, 1, (models, bands)))
    grid = np.stack([*coeffs, rng.uniform(-0.1, 0.1, (models, bands))], axis=-1)
    idxs = np.repeat(rng.integers(0, models, (stars, 1)), draws, axis=1)
    av = np.abs(rng.uniform(0, 2, (stars, 1)) + rng.normal(0, 0.02, (stars, draws)))
    rv = rng.uniform(2.5, 4, (stars, 1)) + rng.normal(0, 0.1, (stars, draws))
    dist = rng.uniform(0.3, 3, (stars, 1)) * rng.lognormal(0, 0.02, (stars, draws))
    one = grid[idxs[:, 0]]
    flux = 10 ** (-0.4 * (one[..., 0] + av[:, :1] * (one[..., 1] + rv[:, :1] * one[..., 2])))
    flux = flux / dist[:, :1] ** 2
    phot = flux * rng.normal(1, 0.03, flux.shape) * np.linspace(0.95, 1.05, bands)
    mask = (rng.random(flux.shape) < 0.9).astype(int)
    names = ("phot", "err", "mask", "models", "idxs", "reds", "dreds", "dists")
    return dict(zip(names, (phot, 0.03 * flux, mask, grid, idxs, av, rv, dist), strict=True))


def case(ask: dict[str, Any]) -> None:
    """`photometric_offsets` on a sample, timed, in this process."""
    from brutax.zeropoints import PhotometricOffsetsConfig, photometric_offsets

    with np.load(ask["sample"]) as file:
        sample = {name: file[name] for name in file.files}
    before, times = peak_rss_mb(), []
    for _ in range(ask["repeats"] + 1):
        start = time.perf_counter()
        config = PhotometricOffsetsConfig(random_seed=SEED)
        found = photometric_offsets(**sample, verbose=False, config=config)
        times.append(time.perf_counter() - start)
    np.save(ask["out"], np.array(found))
    answer({"seconds": times[1:], "first": times[0], "rss_mb": peak_rss_mb(), "before": before})


def speed(args: Any) -> dict[str, Any]:
    sample = make_sample(args.stars, 250, 100_000)
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, theirs = Path(folder) / "sample.npz", Path(folder) / "peer.npz"
        np.savez(source, **sample)
        script = Path(__file__).with_name("_peer_offsets.py")
        command = [args.peer, str(script), str(source), str(theirs), str(SEED), "3"]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the peer failed:\n{done.stderr[-3000:]}")
        with np.load(theirs) as file:
            peer, seconds = file["found"], file["seconds"]
        out["brutus"] = {"seconds": float(np.median(seconds))}
        for precision, x64 in (("float32", "0"), ("float64", "1")):
            path = Path(folder) / f"{precision}.npy"
            ask = {"sample": str(source), "out": str(path), "repeats": 5}
            mine = in_own_process(__file__, ask, JAX_ENABLE_X64=x64)
            off = np.abs(np.load(path) - peer)[:2]
            out[precision] = {
                "seconds": float(np.median(mine["seconds"])),
                "first call": mine["first"],
                "peak_rss_mb": mine["rss_mb"],
                "times as fast": float(np.median(seconds) / np.median(mine["seconds"])),
                "largest difference": float(off.max()),
            }
    rows = [(k, *(v.get(x, "") for x in out["float32"])) for k, v in out.items()]
    table((f"{args.stars} stars", *out["float32"]), rows)
    return out


def recovery(args: Any) -> dict[str, Any]:
    from brutax.zeropoints import PhotometricOffsetsConfig, measure
    from brutax.zeropoints.stars import corrected

    grid = brutax.StarGrid.read(args.shared / GRID, bands=BANDS)
    cases = {
        f"{FITTED[0]}, fitted": (FITTED, BANDS),
        f"{UNFITTED[0]}, not fitted": (
            UNFITTED,
            tuple(band for band in BANDS if band != UNFITTED[0]),
        ),
    }
    seen: dict[str, list] = {}
    for seed in range(args.samples):
        observed = mock_stars(grid, seed)
        config = PhotometricOffsetsConfig(random_seed=seed)
        for name, ((band, shift), fitted) in cases.items():
            at = BANDS.index(band)
            offset = np.where(np.arange(len(BANDS)) == at, 1 + shift, 1.0)
            stars = corrected(observed, 1 / offset)
            columns = [BANDS.index(x) for x in fitted]
            flux, err = stars.flux[:, columns], stars.flux_err[:, columns]
            some = replace(stars, bands=fitted, flux=flux, flux_err=err)
            result = brutax.fit(some, grid, priors=brutax.Priors(av=AV), progress=False)
            found = measure(result, grid, stars, poor_fits=True, config=config)
            pull = (found.offsets[at] - offset[at]) / found.errors[at]
            seen.setdefault(f"{name}, resampling", []).append((found.offsets[at] - 1, pull))
    return recovered(seen, dict((FITTED, UNFITTED)))


def evidence(args: Any) -> dict[str, Any]:
    from brutax import zeropoints
    from brutax.zeropoints.stars import corrected

    grid = brutax.StarGrid.read(args.shared / GRID, bands=BANDS)
    offset = np.where(np.arange(len(BANDS)) == BANDS.index(FITTED[0]), 1 + FITTED[1], 1.0)
    seen: dict[str, list] = {}
    for seed in range(args.samples):
        stars = corrected(mock_stars(grid, seed), 1 / offset)
        done = zeropoints.fit(grid, stars, 8, **EVIDENCE)
        shift = done.last.offsets - offset
        pulls = shift / done.last.errors
        for at, band in enumerate(BANDS):
            name = f"{band}, all bands by evidence"
            seen.setdefault(name, []).append((done.last.offsets[at] - 1, pulls[at]))
        scatter = (done.last.offsets * done.last.scatter_errors / done.last.errors).max()
        print(
            f"sample {seed}: {len(done.rounds)} rounds, draws {scatter:.2f} of the error, pulls",
            " ".join(f"{pull:+.2f}" for pull in pulls),
            flush=True,
        )
    return recovered(seen, dict((FITTED,)))


def mock_stars(grid: Any, seed: int) -> Any:
    from brutax.fitting import mock_catalog

    mock = mock_catalog(
        grid, 200, seed=seed, coords=(90.0, 30.0), av=AV, parallax_error=0.02, error=0.02
    )
    return brutax.read_stars(mock, BANDS)


def recovered(seen: dict[str, list], injected: dict[str, float]) -> dict[str, Any]:
    """Means and pulls of what samples gave, (offset - 1, pull) each."""
    out = {}
    for name, values in seen.items():
        shifts, pulls = np.array(values).T
        band = name.split(",")[0]
        out[name] = {
            "injected": injected.get(band, 0.0),
            "recovered": shifts.mean(),
            "error of the mean": shifts.std(ddof=1) / np.sqrt(len(values)),
            "mean pull": pulls.mean(),
            "width of pulls": pulls.std(ddof=1),
        }
    table(("band", *next(iter(out.values()))), [(k, *v.values()) for k, v in out.items()])
    return out


def real(name: str, args: Any) -> dict[str, Any]:
    from brutax import zeropoints
    from brutax.plotting import photometric_offsets, photometric_offsets_2d, zero_points
    from brutax.zeropoints import PhotometricOffsetsConfig
    from brutax.zeropoints.stars import corrected

    grid = brutax.StarGrid.read(args.shared / "models/mist_medium.h5", bands=BANDS)
    if name == "orion":
        stars = brutax.read_stars(
            args.shared / ORION,
            BANDS,
            dataset=ORION_DATASET,
            units={"parallax": "arcsec"},
            source_id="row",
            error_floor=0.02,
        )
    else:
        from astropy.table import Table

        source = Table.read(args.shared / "observed/NGC_2682.fits")
        source["Parallax"] += 0.029  # mas: zero point of Gaia DR2 (Lindegren et al. 2018)
        source = source[source["HDBscan_MemProb"] > 0.5]
        stars = brutax.read_stars(source, BANDS, units={"photometry": "mag"}, error_floor=0.02)
    published = {}
    for line in (args.shared / "priors/brutus_offsets_printed.txt").read_text().splitlines():
        if not line.startswith("#") and line.split()[0] in BANDS:
            published[line.split()[0]] = float(line.split()[2])
    reference = np.array([published[band] for band in BANDS])
    config = PhotometricOffsetsConfig(random_seed=SEED)
    done = zeropoints.fit(grid, stars, 8, config=config)
    last, first = done.last, done.rounds[0]
    rows = {
        band: {
            "first round": first.offsets[k] - 1,
            "last round": last.offsets[k] - 1,
            "error": last.errors[k],
            "v9": reference[k] - 1,
            "stars": int(last.n_stars[k]),
        }
        for k, band in enumerate(BANDS)
    }
    table((name, *rows[BANDS[0]]), [(band, *row.values()) for band, row in rows.items()])
    fig, _ = zero_points(done.rounds, reference=reference, reference_label="brutus, grid v9")
    save_figure(fig, f"offsets_{name}")
    before = brutax.fit(stars, grid, progress=False)
    for when, result, applied in (
        ("before", before, np.ones(len(BANDS))),
        ("after", done.result, last.offsets),
    ):
        use = result.fitted & (result["status"] & brutax.Status.POOR_FIT == 0)
        at = corrected(stars, applied)
        models = np.stack([grid.mag, grid.red, grid.dred], axis=-1)
        draws = [result[x][use] for x in ("model_idx", "samps_red", "samps_dred", "samps_dist")]
        seen = np.isfinite(at.flux[use]).astype(int)
        sample = (at.flux[use], at.flux_err[use], seen, models, *draws)
        how = {"dim_prior": False, "titles": BANDS, "bins": 60}
        label = {"xlabel": "observed magnitude"}
        fig, _ = photometric_offsets(*sample, **how, **label)
        save_figure(fig, f"offsets_{name}_mag_{when}")
        if name == "orion":
            fig, _ = photometric_offsets(*sample, x=draws[1], xlabel="A$_V$ [mag]", **how)
            save_figure(fig, f"offsets_{name}_av_{when}")
            colour = -2.5 * np.log10(at.flux[use][:, 0] / at.flux[use][:, 2])
            fig, _ = photometric_offsets(*sample, x=colour, xlabel="g - i [mag]", **how)
            save_figure(fig, f"offsets_{name}_colour_{when}")
            plane = (result["logt_samples"][use], result["logg_samples"][use])
            fig, axes = photometric_offsets_2d(
                *sample, *plane, dim_prior=False, titles=BANDS, bins=25, plot_thresh=3,
                xlabel="log Teff", ylabel="log g",
            )  # fmt: skip
            for ax in axes.flat:
                ax.invert_xaxis()
                ax.invert_yaxis()
            save_figure(fig, f"offsets_{name}_plane_{when}")
    rounds = [dict(zip(BANDS, one.offsets - 1)) for one in done.rounds]
    return {"bands": rows, "rounds": rounds, "converged": done.converged, "stars": len(stars)}


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given.add_argument("--peer-python", dest="peer", default=os.environ.get("BRUTAX_PEER_PYTHON"))
    given.add_argument("--stars", type=int, default=1000)
    given.add_argument("--samples", type=int, default=30)
    args = parse_or_case(given)
    results = known("offsets").get("results", {})
    settings = known("offsets").get("settings", {})
    if "speed" in args.only and args.peer:
        results["speed"] = speed(args)
        settings["speed"] = {"stars": args.stars, "draws": 250, "models": 100_000, "seed": SEED}
    sample = {"samples": args.samples, "stars": 200, "grid": Path(GRID).name}
    sample |= {"error": 0.02, "parallax_error_mas": 0.02, "av": AV}
    for name, part in (("recovery", recovery), ("evidence", evidence)):
        if name in args.only:
            results[name] = part(args)
            settings[name] = sample | (EVIDENCE if name == "evidence" else {})
    for name in ("m67", "orion"):
        if name in args.only:
            results[name] = real(name, args)
            settings[name] = {"grid": "mist_medium.h5", "error_floor": 0.02}
    write("offsets", settings, results)


def parse_or_case(given: Any) -> Any:
    asked = given.parse_known_args()[0].case
    if asked:
        case(asked)
        sys.exit()
    return parse(given)


if __name__ == "__main__":
    main()
