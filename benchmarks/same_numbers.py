"""Do two versions of brutax give the same numbers, to the last bit?

    python benchmarks/same_numbers.py -o before.json      # in the older version
    python benchmarks/same_numbers.py --against before.json

A hash of every array of: a fit of 200 stars to a file (and of 20 stars under Gaussian priors, with
the reference path, in half precision), model by model likelihoods, photometric offsets by
resampling, the likelihood of a cluster with its gradient, brutus' form of it, clouds along a sight
line, one star in continuous parameters, samplers of `brutax.infer` and the models inside brutax.
Numbers depend on the processor and on the versions of JAX and NumPy: compare on one machine.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from _common import parse, parser

import brutax
from brutax import infer
from brutax.analysis import (
    BruteForce,
    PhotometricOffsetsConfig,
    isochrone_population_loglike,
    photometric_offsets,
)
from brutax.core import EEPTracks, Isochrone, StarEvolTrack, StarGrid, StellarPop
from brutax.priors import GalacticStructure

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")
SEED = 20261201
Named = Iterator[tuple[str, Any]]


def room(new: str, old: str) -> Any:
    """A module by its present name, or by that of version 0.1."""
    try:
        return import_module(f"brutax.{new}")
    except ModuleNotFoundError:
        return import_module(f"brutax.{old}")


def leaves(name: str, value: Any) -> Named:
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        yield f"{name}{jax.tree_util.keystr(path)}", leaf


def mock(grid: StarGrid, count: int) -> dict[str, np.ndarray]:
    """Stars on models of the grid: 2 % errors, every second parallax, a tenth of bands lacking."""
    rng = np.random.default_rng(SEED)
    rows = rng.choice(np.flatnonzero(grid.label_table["eep"] < 600), count)
    av, rv = rng.uniform(0, 3, count), rng.normal(3.32, 0.18, count)
    distance = rng.uniform(0.2, 4.0, count)
    mag, red, dred = (np.asarray(x)[rows].astype(float) for x in (grid.mag, grid.red, grid.dred))
    mag = mag + av[:, None] * (red + rv[:, None] * dred) + 5 * np.log10(distance)[:, None]
    flux = 10 ** (-0.4 * mag)
    error = 0.02 * flux
    flux = flux + error * rng.standard_normal(flux.shape)
    mask = rng.random(flux.shape) > 0.1
    parallax = 1 / distance + 0.05 * rng.standard_normal(count)
    parallax[::2] = np.nan
    sky = np.stack([rng.uniform(0, 360, count), rng.uniform(-60, 60, count)], axis=1)
    return {
        "data": flux,
        "data_err": error,
        "data_mask": mask,
        "data_labels": np.arange(count) + 10**12,
        "parallax": parallax,
        "parallax_err": np.full(count, 0.05),
        "data_coords": sky,
    }


def of_fits(grid: StarGrid, folder: Path) -> Named:
    fitter, stars = BruteForce(grid, verbose=False), mock(grid, 200)
    path = fitter.fit(**stars, save_file=folder / "fit.h5")
    with h5py.File(path) as file:
        for name in sorted(set(file) - {"models"}):
            yield f"fit/{name}", file[name][()]
        found = {
            name: file[f"samps_{name}" if name != "idx" else "model_idx"][()]
            for name in ("dist", "red", "dred", "idx")
        }
    some = {name: value[:20] for name, value in stars.items()}
    own = fitter.fit(
        **some,
        av_gauss=(1.0, 0.5),
        rv_gauss=None,
        rvlim=(2.5, 5.0),
        lngalprior=GalacticStructure(),
        seed=3,
        Ndraws=50,
        draw_dtype="float16",
    )
    for name in own.keys():
        yield f"fit, Gaussian priors/{name}", own[name]
    best = fitter.fit(**{k: v[:4] for k, v in some.items()}, method="reference", Ndraws=50)
    for name in best.keys():
        yield f"fit, reference/{name}", best[name]
    one = {k: some[k][1] for k in ("data", "data_err", "data_mask")}
    likelihood = fitter.loglike_grid(**one, return_vals=True)
    for k, value in enumerate(likelihood):
        yield f"loglike_grid/{k}", value
    yield from leaves(
        "logpost_grid",
        fitter.logpost_grid(
            likelihood, coord=(100.0, 10.0), parallax=0.8, parallax_err=0.1
        )._asdict(),
    )
    offsets = photometric_offsets(
        stars["data"],
        stars["data_err"],
        stars["data_mask"],
        grid.models,
        found["idx"],
        found["red"],
        found["dred"],
        found["dist"],
        config=PhotometricOffsetsConfig(n_bootstrap=40, random_seed=7),
        verbose=False,
    )
    for k, value in enumerate(offsets):
        yield f"offsets/{k}", value


def of_clusters() -> Named:
    cluster = room("cluster", "analysis.cluster")
    pop = StellarPop(Isochrone(), filters=BANDS, verbose=False)
    found = pop.get_seds(feh=0.0, loga=9.2, av=0.1, rv=3.3, dist=500.0)[0]
    found = np.asarray(found)
    rng = np.random.default_rng(SEED)
    rows = rng.choice(np.flatnonzero(np.isfinite(found).all(axis=1)), 60)
    flux = 10 ** (-0.4 * found[rows])
    error = 0.02 * flux
    flux = flux + error * rng.standard_normal(flux.shape)
    value = isochrone_population_loglike(
        (0.0, 9.2, 0.1, 3.3, 500.0, 0.1), pop, flux, error, cluster_prob=0.9, dim_prior=True
    )
    yield "isochrone_population_loglike", value
    layout = cluster.Layout(main=64, late=48, ratios=12)
    model = cluster.ClusterModel(pop, cluster.make_stars(flux, error), layout=layout)
    params = cluster.ClusterParams(
        feh=0.05,
        loga=9.25,
        av=0.15,
        rv=3.3,
        distance_pc=510.0,
        field_fraction=0.1,
        binary_fraction=0.4,
    )
    gradient = jax.jit(jax.value_and_grad(lambda p: model.log_likelihood(p)))
    yield from leaves("ClusterModel", gradient(jax.tree.map(jnp.asarray, params)))


def of_dust() -> Named:
    from brutax.dust import los_clouds_loglike_samples, make_sightline

    rng = np.random.default_rng(SEED)
    modulus = rng.uniform(6, 14, (50, 40))
    reds = np.where(modulus > 9, 0.8, 0.2) + 0.1 * rng.standard_normal((50, 40))
    theta = np.array([0.03, 0.1, 0.1, 0.2, 8.0, 0.5, 11.0, 0.9])
    yield "los_clouds_loglike_samples", los_clouds_loglike_samples(theta, modulus, reds)
    line = make_sightline(10 ** (modulus / 5 - 2), np.abs(reds), n_draws=32)
    sightline = room("sightline", "analysis.sightline")
    make = getattr(sightline, "problem", None)
    make = make if callable(make) else sightline.sightline_problem
    problem = make(line, 1)
    post = infer.fit(problem, "nuts", num_warmup=60, num_samples=60, num_chains=2)
    yield from of_posterior("sightline", post)


def of_stars() -> Named:
    star = room("star", "analysis.star")
    make = getattr(star, "problem", None)
    make = make if callable(make) else star.star_problem
    track = StarEvolTrack(EEPTracks(), filters=BANDS, verbose=False)
    seds, *_ = track.get_seds(mini=1.1, eep=380.0, feh=-0.2, av=0.3, rv=3.2, dist=700.0)
    mag = np.asarray(seds)
    error = np.full(mag.shape, 0.02)
    problem = make(track, mag, error, units="mag", parallax=1.4, parallax_err=0.05)
    keys = jax.random.split(jax.random.key(5), 6)
    values = []
    for key in keys:
        params = problem.prior.sample(key)
        values.append(np.asarray(problem.log_likelihood(params, problem.data)))
    yield "star_problem", np.array(values)


def of_posterior(name: str, post: Any) -> Named:
    for key, values in sorted(post.columns().items()):
        yield f"{name} {key}", values
    yield f"{name} weights", post.weights
    yield f"{name} log evidence", np.array([post.logz, post.logz_err])


def of_samplers() -> Named:
    prior = {"x": dist.Normal(0.0, 2.0), "y": dist.Uniform(-3.0, 3.0)}

    def log_like(p: Any, data: Any) -> Any:
        return -0.5 * ((p["x"] - data) ** 2 / 0.3 + (p["y"] - p["x"] ** 2) ** 2 / 0.1)

    problem = infer.Problem(prior, log_like, jnp.asarray(0.4))
    for method, options in {
        "nuts": {"num_warmup": 80, "num_samples": 80},
        "smc": {"num_particles": 64},
        "nested": {"num_live": 60},
        "ensemble": {"num_samples": 40},
        "map": {"num_draws": 50},
        "mle": {},
    }.items():
        yield from of_posterior(f"infer {method}", infer.fit(problem, method, **options))


def of_models() -> Named:
    grid = brutax.demo_grid(n_mass=12, n_eep=12, n_feh=3)
    yield "demo_grid", np.asarray(grid.mag)
    tracks = EEPTracks()
    yield "EEPTracks", tracks.get_predictions([1.2, 400.0, -0.1, 0.0])
    yield "Isochrone", Isochrone().get_predictions(feh=-0.3, loga=9.7)


def hashes(found: Named) -> dict[str, str]:
    out = {}
    for name, value in found:
        array = np.asarray(value)
        if array.dtype == object:
            array = np.array([str(x) for x in array.ravel()])
        sha = hashlib.sha256(str((array.dtype.str, array.shape)).encode())
        sha.update(np.ascontiguousarray(array).tobytes())
        out[name] = sha.hexdigest()[:16]
    return out


def main() -> None:
    given: argparse.ArgumentParser = parser(__doc__ or "")
    given.add_argument("-o", "--output", type=Path, help="where the hashes go, as JSON")
    given.add_argument("--against", type=Path, help="hashes of another version")
    args = parse(given)
    grid = StarGrid.read(args.shared / "models" / "mist_small.h5", bands=BANDS)
    out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in (
            of_models(),
            of_fits(grid, Path(folder)),
            of_clusters(),
            of_dust(),
            of_stars(),
            of_samplers(),
        ):
            out |= hashes(part)
            print(f"{len(out)} arrays", file=sys.stderr, flush=True)
    if args.output:
        args.output.write_text(json.dumps(out, indent=1))
    if args.against:
        known = json.loads(args.against.read_text())
        same = [name for name in out if known.get(name) == out[name]]
        for name in sorted({*out, *known} - {*same}):
            print("differs:", name)
        print(f"{len(same)} of {len({*out, *known})} arrays are equal bit for bit")
        sys.exit(len(same) != len({*out, *known}))


if __name__ == "__main__":
    main()
