"""Finds the optimum of each (star, model) pair: damped Gauss-Newton in flux space."""

import jax
import jax.numpy as jnp

from brutax.core.star import Stars
from brutax.solver.laplace import advance, newton_step
from brutax.solver.objective import Expansion, Theta, expand
from brutax.solver.problem import Models, StarPrior


def refine(
    theta: Theta, star: Stars, model: Models, prior: StarPrior, *, steps: int = 5
) -> Expansion:
    """Expansion of phi at the optimum, A_V confined to its range.

    Levenberg damping starts small and changes tenfold on success or failure; a step that would
    raise phi is not taken. At a bound of A_V the gradient does not vanish; the Gaussian built
    on the expansion then has its peak outside, and is truncated exactly.
    """

    def one_step(carry: tuple, _: None) -> tuple[tuple, None]:
        point, damping = carry
        curv = point.curv
        damped = curv._replace(
            ee=curv.ee * (1.0 + damping), aa=curv.aa * (1.0 + damping), rr=curv.rr * (1.0 + damping)
        )
        here = point.theta
        step = newton_step(point.grad, damped, prior.av.low - here.av, prior.av.high - here.av)
        trial = expand(advance(here, step, prior), star, model, prior)
        better = trial.phi <= point.phi
        point = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, point)
        damping = jnp.where(better, 0.1 * damping, jnp.minimum(10.0 * damping, 1e3))
        return (point, damping), None

    start = expand(theta, star, model, prior)
    damping = jnp.full_like(start.phi, 1e-3)
    (point, _), _ = jax.lax.scan(one_step, (start, damping), length=steps)
    return point
