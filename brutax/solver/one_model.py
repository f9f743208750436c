"""The solver's steps for one model at a time, as the grid-wide functions use them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from brutax.models.stars import Stars
from brutax.solver.density import Scalar, Theta, fluxes, log_target
from brutax.solver.gaussian import TruncatedGaussian, covariance_sar, laplace
from brutax.solver.importance import draw_theta, log_proposal
from brutax.solver.inputs import Models, StarPrior
from brutax.solver.optimum import refine
from brutax.solver.scores import start
from brutax.utils.photometry import LN_PER_MAG

STEPS = 8  # Gauss-Newton steps: twice those of a fit, whose weights correct for what is left


def best_fit(
    star: Stars, model: Models, prior: StarPrior, first: Theta, given: Bool[Array, "2"]
) -> tuple[Theta, Scalar]:
    """The optimum of one model, (ln(d / kpc), A_V [mag], R_V), and its chi-square.

    The search starts at the closed-form solution in magnitudes, or where `given` (A_V, R_V) is True
    at the values of `first`.
    """
    theta = start(star, model, prior)
    theta = theta._replace(
        av=jnp.where(given[0], first.av, theta.av), rv=jnp.where(given[1], first.rv, theta.rv)
    )
    point = refine(theta, star, model, prior, steps=STEPS)
    return point.theta, point.chi2


def fisher_sar(theta: Theta, star: Stars, model: Models, prior: StarPrior) -> Float[Array, "3 3"]:
    """Gauss-Newton information (3, 3) of (scale = 1 / d^2 [kpc^-2], A_V [mag], R_V).

    J^T J, J the derivatives of the fluxes divided by their errors, and the inverse variances of
    Gaussian priors of A_V and R_V. The parallax is not part of it.
    """
    flux = jnp.stack(fluxes(theta, star, model))
    red = model.red + theta.rv * model.dred
    jacobian = jnp.stack(
        [
            flux * jnp.exp(2.0 * theta.eta),
            -LN_PER_MAG * red * flux,
            -LN_PER_MAG * theta.av * model.dred * flux,
        ]
    )
    _, inv_av = prior.av.moments(jnp.exp(theta.eta))
    _, inv_rv = prior.rv.moments()
    zero = jnp.zeros_like(inv_rv)
    extra = jnp.diag(jnp.stack([zero, inv_av**2, inv_rv**2]))
    return jnp.matmul(jacobian, jacobian.T, precision="highest") + extra


def fit_gaussian(
    star: Stars, model: Models, prior: StarPrior
) -> tuple[TruncatedGaussian, Float[Array, "3 3"]]:
    """The Gaussian of one model's posterior, and its covariance (3, 3).

    The Gaussian is one of (ln(d / kpc), A_V, R_V), truncated in A_V; the covariance that of
    (scale = 1 / d^2 [kpc^-2], A_V [mag], R_V), not truncated.
    """
    point = refine(start(star, model, prior), star, model, prior, steps=STEPS)
    return laplace(point, prior), covariance_sar(point)


def draw_weighted(
    gauss: TruncatedGaussian,
    star: Stars,
    model: Models,
    prior: StarPrior,
    key: PRNGKeyArray,
    n_draws: int,
) -> tuple[Theta, Float[Array, " draw"]]:
    """Draws from the Gaussian of one model, with exact log weights.

    Returns parameters, each (draw,), and ln of the exact density of the model divided by that of
    the proposal (draw,), -inf where the density is 0.
    """
    key_u, key_z = jax.random.split(key)
    uniform = jax.random.uniform(key_u, (n_draws, 2), dtype=gauss.log_z.dtype)
    normal = jax.random.normal(key_z, (n_draws, 2), dtype=gauss.log_z.dtype)

    def one(uniform: Array, normal: Array) -> tuple[Theta, Scalar]:
        theta = draw_theta(gauss, uniform, normal)
        return theta, log_target(theta, star, model, prior) - log_proposal(theta, gauss)

    theta, log_weight = jax.vmap(one)(uniform, normal)
    return theta, jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf)
