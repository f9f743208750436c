"""Populations, pairs and grids beside brutus, on the same files: answers and times.

    python benchmarks/models.py    # needs BRUTAX_PEER_PYTHON

Small files in brutus' layouts are made from the models inside brutax, with random networks of
the right shapes; both packages read them. Also times the population and grids of brutax's own.
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _brutus_files import BANDS, write_files
from _common import parse, parser, peak_rss_mb, write

from brutax.models import EEPTracks, GridGenerator, Isochrone, StarEvolTrack, StarGrid, StellarPop


def main() -> None:
    args = parse(parser(__doc__, peer=True))
    result: dict = {}
    rng = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(folder)
        tracks = EEPTracks(files["tracks"], verbose=False)
        pop = StellarPop(
            Isochrone(files["isochrones"], verbose=False), BANDS, files["networks"], False
        )
        star = StarEvolTrack(tracks, BANDS, files["networks"], verbose=False)
        labels = np.stack(
            [
                rng.uniform(0.45, 1.5, 400),
                rng.uniform(210, 590, 400),
                rng.uniform(-0.5, 0, 400),
                0 * rng.random(400),
            ],
            1,
        )
        age = {"feh": -0.13, "loga": 9.47}
        eep, smf = np.linspace(202.0, 808.0, 1000), np.linspace(0.0, 1.0, 21)
        pairs = [
            {"mini": m, "eep": e, "feh": f, "smf": q, "loga_max": 10.3}
            for m, e, f, q in zip(
                rng.uniform(0.9, 1.5, 40),
                rng.uniform(230, 470, 40),
                rng.uniform(-0.5, 0, 40),
                rng.uniform(0.5, 1.0, 40),
            )
        ]
        nodes = {
            "mini_grid": np.arange(0.6, 1.5, 0.1),
            "eep_grid": np.arange(220.0, 600.0, 40.0),
            "feh_grid": [-0.5, -0.25, 0.0],
            "afe_grid": [0.0],
            "smf_grid": [0.0, 0.7],
        }
        own = GridGenerator(EEPTracks(verbose=False), BANDS, verbose=False)
        grid = own.make_grid(**nodes, output_file=folder / "ours.h5", verbose=False)
        points = [
            {
                "mini": float(m),
                "eep": float(e),
                "feh": float(f),
                "smf": 0.0,
                "av": 0.6,
                "rv": 3.1,
                "afe": 0.0,
            }
            for m, e, f in zip(
                rng.uniform(1.0, 1.3, 30), rng.uniform(230, 380, 30), rng.uniform(-0.4, -0.1, 30)
            )
        ]
        ask = {
            "bands": BANDS,
            "files": files,
            "labels": labels.tolist(),
            "age": age,
            "eep": eep.tolist(),
            "smf": smf.tolist(),
            "pairs": pairs,
            "grid_out": str(folder / "theirs.h5"),
            "grid_in": str(folder / "ours.h5"),
            "points": points,
            "result": str(folder / "out.npz"),
            "nodes": {k: np.asarray(v).tolist() for k, v in nodes.items()},
        }
        (folder / "ask.json").write_text(json.dumps(ask))
        script = Path(__file__).with_name("_peer_models.py")
        subprocess.run([args.peer_python, str(script), str(folder / "ask.json")], check=True)
        with np.load(folder / "out.npz") as file:
            theirs = dict(file)
        result["tracks, largest difference but of ages [dex]"] = gap(
            tracks.get_predictions(labels)[:, :6], theirs["tracks"][:, :6]
        )
        result["isochrone, largest difference"] = gap(
            pop.isochrone.get_predictions(eep=eep, **age), theirs["isochrone"]
        )
        ours = np.stack(
            [sed for sed, _, _ in pop.get_seds_smf_grid(smf, eep=eep, mini_bound=0.1, **age)]
        )
        result["population, differences [mag]"] = quantiles(ours, theirs["population"])
        ours = np.stack([star.get_seds(**one)[0] for one in pairs])
        result["pairs on tracks, differences [mag]"] = quantiles(ours, theirs["pairs"])
        back = StarGrid.read(folder / "theirs.h5", include_binaries=True)
        start = time.perf_counter()
        same = GridGenerator(tracks, BANDS, files["networks"], verbose=False).make_grid(
            **nodes, mini_bound=0.5, verbose=False
        )
        seconds = time.perf_counter() - start
        result["grid from the same files"] = {
            "models, brutus and brutax": [len(back), len(same)],
            "seconds, brutus and brutax (with compilation)": [
                round(float(theirs["grid_seconds"]), 2),
                round(seconds, 2),
            ],
        } | compare_grids(back, same)
        read = theirs["read_models"]
        result["grid of brutax read by brutus"] = {
            "models": len(read),
            "largest difference of coefficients": gap(
                np.asarray(grid.models, float), np.asarray(read, float)
            ),
            "seds between models, largest difference [mag]": gap(
                np.stack([grid.get_seds(**one)[0] for one in points]), theirs["grid_seds"]
            ),
        }
        result["1000 EEPs x 21 mass ratios x 8 bands, brutus, its networks [ms]"] = round(
            1e3 * float(theirs["population_seconds"]), 1
        )
        result["the same, brutax on the same files [ms]"] = timed(pop)
    built_in = StellarPop(Isochrone(verbose=False), BANDS, verbose=False)
    result["the same, brutax with its own models [ms]"] = timed(built_in)
    start = time.perf_counter()
    large = own.make_grid(
        np.geomspace(0.1, 3.0, 200),
        np.arange(202.0, 809.0, 2.0),
        np.round(np.arange(-2.5, 0.51, 0.155), 4),
        verbose=False,
    )
    result["a grid of models in 8 bands"] = {
        "models": len(large),
        "seconds": round(time.perf_counter() - start, 1),
    }
    result["peak memory of brutax [MB]"] = round(peak_rss_mb())
    print(json.dumps(result, indent=1, default=str))
    write("models", {}, result)


def gap(one: np.ndarray, other: np.ndarray) -> float:
    both = np.isfinite(one) & np.isfinite(other)
    assert both.mean() > 0.3 and (np.isfinite(one) ^ np.isfinite(other)).mean() < 0.02
    return float(f"{np.abs(one - other)[both].max():.3g}")


def quantiles(one: np.ndarray, other: np.ndarray) -> dict:
    both = np.isfinite(one) & np.isfinite(other)
    levels = np.quantile(np.abs(one - other)[both], (0.5, 0.99, 1.0))
    return {
        "median, 99 %, largest": [float(f"{q:.2g}") for q in levels],
        "numbers": int(both.sum()),
        "only in one": int((np.isfinite(one) ^ np.isfinite(other)).sum()),
    }


def compare_grids(one: StarGrid, other: StarGrid) -> dict:
    """Coefficients of the models that both have."""

    def keys(grid: StarGrid) -> dict:
        columns = [
            np.round(np.asarray(grid.label_table[n], float), 5)
            for n in ("mini", "eep", "feh", "smf")
        ]
        return {key: k for k, key in enumerate(zip(*columns))}

    a, b = keys(one), keys(other)
    both = [(a[key], b[key]) for key in a if key in b]
    i, j = np.array(both).T
    out: dict = {"in both": len(both)}
    for name in ("mag", "red", "dred"):
        off = np.asarray(getattr(one, name))[i] - np.asarray(getattr(other, name))[j]
        out[f"largest difference of {name}"] = float(f"{np.abs(off).max():.2g}")
    return out


def timed(pop: StellarPop) -> dict:
    eep, smf = jnp.linspace(202.0, 808.0, 1000), jnp.linspace(0.0, 1.0, 21)
    x = jnp.asarray([-0.13, 9.47, 0.3, 3.3, 850.0])

    def total(x, pop):
        out = pop.population(x[0], x[1], eep, smf, x[2], x[3], x[4], mini_bound=0.1)
        return jnp.sum(jnp.where(out.valid[None, :, None], out.mag, 0.0)), out.mag

    run = eqx.filter_jit(lambda x, pop: total(x, pop)[1])
    slope = eqx.filter_jit(jax.grad(lambda x, pop: total(x, pop)[0]))
    out = {}
    for label, f in (("magnitudes", run), ("gradient", slope)):
        start = time.perf_counter()
        jax.block_until_ready(f(x, pop))
        first = time.perf_counter() - start
        times = []
        for _ in range(20):
            start = time.perf_counter()
            jax.block_until_ready(f(x, pop))
            times.append(time.perf_counter() - start)
        out |= {
            label: round(1e3 * float(np.median(times)), 1),
            f"{label}, first call": round(1e3 * first),
        }
    return out


if __name__ == "__main__":
    main()
