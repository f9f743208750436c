"""Functions of posterior draws whose mean is known to be zero.

For a density p that vanishes, or is multiplied by a phi that does, at its bounds,

    integral of d(phi p)/dx = 0,   so   < phi d ln p/dx + d phi/dx > = 0

under p (Stein 1972). The part of other functions of the draws that is linear in these can be
subtracted without changing their mean, and takes most of their scatter along: these are control
variates (Mira, Solgi & Imparato 2013, Statistics and Computing 23, 653).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.catalog import Catalog
from brutax.fitting import Priors
from brutax.fitting.prepare import ready_models
from brutax.fitting.prior import repeat, star_priors
from brutax.models import StarGrid
from brutax.models.stars import Stars
from brutax.priors import AbstractPrior
from brutax.solver import StarPrior
from brutax.solver.density import Scalar, Theta, log_target
from brutax.solver.inputs import Models

# phi rises from 0 at a bound to 1 within this many standard deviations of the draws: steep enough
# to leave most draws at 1, flat enough that d phi/dx does not dominate
RAMP = 2.0


def zero_means(
    stars: Catalog, grid: StarGrid, priors: Priors, model: np.ndarray, theta: Theta
) -> Float[Array, "star draw 3"]:
    """Functions of mean zero, one for each of ln(distance), A_V and R_V, at posterior draws.

    `stars`, `grid` and `priors` as they were fitted; `model` (star, draw) are rows of the grid,
    `theta` (ln(d / kpc), A_V [mag], R_V), each (star, draw).
    """
    ready = ready_models(grid, priors.models)
    prior, per_star = star_priors(priors, stars.coords, grid.label_table)
    place = np.zeros(len(grid), int)
    place[ready.rows[ready.rows >= 0]] = np.flatnonzero(ready.rows >= 0)
    av = per_star
    if av is None:
        assert prior.av is not None  # the same for all stars
        av = repeat(prior.av, len(stars))
    return _zero_means(
        stars.stars(), av, prior, ready.models.models, jnp.asarray(place[model]), theta
    )


@jax.jit
def _zero_means(
    stars: Stars, av: AbstractPrior, prior: StarPrior, models: Models, place: Array, theta: Theta
) -> Array:
    def of_star(given: tuple) -> Array:
        star, av, place, theta = given
        its = StarPrior(prior.distance, av, prior.rv)
        widths = [RAMP * jnp.std(x) for x in (theta.av, theta.rv)]

        def one(place: Array, theta: Theta) -> Array:
            slope = jax.grad(log_target)(theta, star, models[place], its)
            zero_mean = [slope.eta]
            for x, down, bounds, width in (
                (theta.av, slope.av, its.av, widths[0]),
                (theta.rv, slope.rv, its.rv, widths[1]),
            ):
                phi, rise = jax.value_and_grad(_ramp)(x, bounds.low, bounds.high, width)
                zero_mean.append(phi * down + rise)
            return jnp.stack(zero_mean)

        return jax.vmap(one)(place, theta)

    return jax.lax.map(of_star, (stars, av, place, theta))


def _ramp(x: Scalar, low: Scalar, high: Scalar, width: Scalar) -> Scalar:
    """Rises from 0 at the bounds to 1 inside."""
    width = jnp.minimum(width, 0.5 * (high - low)) + 1e-6
    return jnp.clip(jnp.minimum(x - low, high - x) / width, 0.0, 1.0)
