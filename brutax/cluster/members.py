"""What the posterior of a cluster says of each of its stars."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.cluster.model import ClusterModel, ClusterParams
from brutax.cluster.pairs import segments_of_tiles
from brutax.cluster.segments import expectations

MIDDLE = {"mass": 0.0, "ratio": 0.0, "eep": 400.0}  # squares are taken about these: fewer digits


class Members(NamedTuple):
    """Stars in the order of the catalogue; means and standard deviations are those of a member.

    NaN for stars without a valid band, and those that no model of the cluster comes near.
    """

    member: Float[np.ndarray, " star"]  # probability
    companion: Float[np.ndarray, " star"]  # probability of one, if a member
    mass: Float[np.ndarray, " star"]  # initial mass of the primary [Msun]
    mass_std: Float[np.ndarray, " star"]
    ratio: Float[np.ndarray, " star"]  # companion's mass over the primary's; 0 without one
    ratio_std: Float[np.ndarray, " star"]
    eep: Float[np.ndarray, " star"]  # evolutionary point of the primary
    eep_std: Float[np.ndarray, " star"]


def members(
    model: ClusterModel,
    samples: Mapping[str, Any],
    weights: Any = None,
    *,
    draws: int = 50,
    seed: int = 0,
) -> Members:
    """Membership, mass, companion and evolutionary point of every star.

    Averaged over `draws` of the posterior: `samples` by parameter, (draw, ...), of `weights`
    (draw,) (those of `brutax.infer.Posterior`). Masses within a segment of the isochrone are
    taken at its middle; standard deviations below 1e-3 Msun and 0.1 EEP are lost in rounding.
    Raises `ValueError` for samples without draws.
    """
    known = {name: np.asarray(x) for name, x in samples.items() if name in ClusterParams._fields}
    count = len(known["feh"]) if "feh" in known else 0
    if not count:
        raise ValueError("samples holds no draws of a cluster's parameters")
    share = None if weights is None else np.asarray(weights, float) / np.sum(weights)
    chosen = np.random.default_rng(seed).choice(count, min(draws, count), p=share)
    total: Any = 0.0
    for k in chosen:
        params = ClusterParams(**{name: jnp.asarray(x[k]) for name, x in known.items()})
        total = total + np.asarray(_of_draw(model, params), np.float64)
    member, inside, companion, *moments = total.T
    with np.errstate(invalid="ignore", divide="ignore"):
        companion = companion / inside
        means = [x / inside for x in moments[: len(MIDDLE)]]
        squares = [x / inside for x in moments[len(MIDDLE) :]]
        spread = [np.sqrt(np.maximum(s - m**2, 0.0)) for m, s in zip(means, squares)]
    means = [m + middle for m, middle in zip(means, MIDDLE.values())]
    pairs = [x for both in zip(means, spread) for x in both]
    return Members(member / len(chosen), companion, *pairs)


@eqx.filter_jit
def _of_draw(model: ClusterModel, params: ClusterParams) -> Float[Array, "star moment"]:
    """Membership, then membership times: 1, companion, quantities, squares of them."""
    grid = model.lattice(params)
    blocks, reach, _ = model.whitened(params)
    curve, layout = grid.curve, model.layout
    segment = segments_of_tiles(layout, params.binary_fraction)
    mass = jnp.exp(0.5 * (curve.log_mass[1:] + curve.log_mass[:-1]))[segment]
    eep = (0.5 * (curve.eep[1:] + curve.eep[:-1]))[segment] - MIDDLE["eep"]
    ratio = jnp.broadcast_to(grid.q[:, None], mass.shape)
    values = [jnp.ones_like(mass), (ratio > 0).astype(mass.dtype), mass, ratio, eep]
    values = jnp.stack(values + [x**2 for x in (mass, ratio, eep)], axis=-1)
    sums = expectations(grid.tiles, blocks, reach, values)
    sums = sums.reshape(-1, sums.shape[-1])[model.stars.slot]
    member = model.per_star(params).member[:, None]
    seen = (sums[:, :1] > 0) & model.stars.lit[:, None]
    share = sums / jnp.where(seen, sums[:, :1], 1.0)
    return jnp.concatenate([member, jnp.where(seen, member * share, 0.0)], axis=1)
