"""Integrals over the parameters of one model, beyond Laplace.

The truncated Gaussian of the optimum is a coordinate system: nodes at quantiles of A_V and at
Gauss-Hermite points of (eta, R_V) given A_V. The integral of the exact target is then the mean
of target / Gaussian over a fixed set of nodes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.models.stars import Stars
from brutax.solver.density import Scalar, log_target
from brutax.solver.gaussian import TruncatedGaussian
from brutax.solver.importance import log_density, place
from brutax.solver.inputs import Models, StarPrior

# nodes at which model weights are exact to 2e-5 of the total (median of 24 stars, total variation;
# benchmarks/exactness.py)
AV_NODES = 9  # Gauss-Legendre in the cumulative probability of A_V
ETA_NODES = 7  # Gauss-Hermite
RV_NODES = 5  # Gauss-Hermite


def _rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (u of A_V, z of (eta, R_V)) and log weights, which sum to one."""
    x_av, w_av = np.polynomial.legendre.leggauss(AV_NODES)
    x_eta, w_eta = np.polynomial.hermite_e.hermegauss(ETA_NODES)
    x_rv, w_rv = np.polynomial.hermite_e.hermegauss(RV_NODES)
    u, eta, rv = (x.ravel() for x in np.meshgrid(0.5 + 0.5 * x_av, x_eta, x_rv, indexing="ij"))
    weight = np.einsum("i,j,k->ijk", w_av, w_eta, w_rv).ravel()
    return u, np.stack([eta, rv], axis=-1), np.log(weight / weight.sum())


def quadrature_log_z(
    gauss: TruncatedGaussian, star: Stars, model: Models, prior: StarPrior
) -> Scalar:
    """Log of the integral of one model's exact target in (eta, A_V, R_V)."""
    dtype = gauss.log_z.dtype
    u, z, log_weight = (jnp.asarray(x, dtype=dtype) for x in _rule())

    def one(u: Scalar, z: Float[Array, "2"], log_weight: Scalar) -> Scalar:
        theta = place(gauss, u, z, jnp.ones_like(u))
        ratio = log_target(theta, star, model, prior) - log_density(theta, gauss, 1.0)
        return ratio + log_weight

    terms = jax.vmap(one)(u, z, log_weight)
    return jax.nn.logsumexp(jnp.where(jnp.isfinite(terms), terms, -jnp.inf))
