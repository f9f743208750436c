"""Stars as the posterior of a cluster predicts them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from brutax.cluster.model import ClusterModel, ClusterParams
from brutax.cluster.pairs import Lattice, segments_of_tiles

MAG = -2.5 / np.log(10.0)  # magnitudes per unit of ln flux


class MockMembers(NamedTuple):
    """Members without errors of measurement."""

    mag: Float[np.ndarray, "star band"]  # apparent, behind the dust, primary and companion
    mass: Float[np.ndarray, " star"]  # initial mass of the primary [Msun]
    ratio: Float[np.ndarray, " star"]  # companion's mass over the primary's; 0 without one
    eep: Float[np.ndarray, " star"]  # evolutionary point of the primary


def mock_members(
    model: ClusterModel,
    samples: Mapping[str, Any],
    count: int = 1000,
    weights: Any = None,
    *,
    draws: int = 50,
    seed: int = 0,
) -> MockMembers:
    """`count` members drawn from the posterior predictive distribution of a cluster.

    As many from each of `draws` draws of the posterior: `samples` by parameter, (draw, ...), of
    `weights` (draw,). Masses follow the measure of the model (its IMF, or flat in initial mass)
    over all masses that are there, companions `binary_fraction` and `ratio_slope`; `scatter` and
    `av_spread` scatter magnitudes. To compare with a catalogue, add its errors and leave out what
    it could not have. Raises `ValueError` for samples without draws.
    """
    known = {name: np.asarray(x) for name, x in samples.items() if name in ClusterParams._fields}
    total = len(known["feh"]) if "feh" in known else 0
    if not total:
        raise ValueError("samples holds no draws of a cluster's parameters")
    rng = np.random.default_rng(seed)
    share = None if weights is None else np.asarray(weights, float) / np.sum(weights)
    chosen = rng.choice(total, min(draws, count), p=share)
    sizes = np.bincount(np.arange(count) % len(chosen), minlength=len(chosen))
    parts = []
    for k, size in zip(chosen, sizes):
        params = ClusterParams(**{name: jnp.asarray(x[k]) for name, x in known.items()})
        parts.append(_stars(model, params, int(size), rng))
    return MockMembers(*(np.concatenate(x) for x in zip(*parts)))


@eqx.filter_jit
def _grid(model: ClusterModel, params: ClusterParams) -> Any:
    spread = None if params.av_spread is None else model.reddening(params)
    return model.lattice(params), spread


def _stars(
    model: ClusterModel, params: ClusterParams, size: int, rng: np.random.Generator
) -> MockMembers:
    lattice, reddening = _grid(model, params)
    grid: Lattice = lattice
    weight = np.asarray(grid.tiles.weight, np.float64)
    at = rng.choice(weight.size, size, p=(weight / weight.sum()).ravel())
    tile, segment = np.unravel_index(at, weight.shape)
    t = rng.random(size)

    def within(x: Any, k: np.ndarray) -> np.ndarray:
        low, high = np.asarray(x, np.float64)[k], np.asarray(x, np.float64)[k + 1]
        return low + t * (high - low)

    flux = np.asarray(grid.tiles.flux, np.float64)
    low, high = flux[tile, segment], flux[tile, segment + 1]
    mag = MAG * (np.log(low + t[:, None] * (high - low)) + np.asarray(model.stars.log_unit))
    if params.scatter is not None:
        mag = mag + float(params.scatter) * rng.normal(size=mag.shape)
    if reddening is not None:
        spread = float(np.asarray(params.av_spread))
        mag = mag + spread * rng.normal(size=(size, 1)) * np.asarray(reddening)
    on = segments_of_tiles(model.layout, params.binary_fraction)[tile, segment]
    mass, eep = np.exp(within(grid.curve.log_mass, on)), within(grid.curve.eep, on)
    return MockMembers(mag, mass, np.asarray(grid.q, np.float64)[tile], eep)
