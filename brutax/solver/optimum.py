"""Finds the optimum of each (star, model) pair: damped Gauss-Newton in flux space."""

import jax
import jax.numpy as jnp

from brutax.models.stars import Stars
from brutax.solver.density import Expansion, Sym3, Theta, expand
from brutax.solver.gaussian import advance, newton_step
from brutax.solver.inputs import Models, StarPrior


def refine(
    theta: Theta, star: Stars, model: Models, prior: StarPrior, *, steps: int = 5
) -> Expansion:
    """Expansion of phi at the optimum, A_V confined to its range.

    Levenberg damping starts small and changes tenfold on success or failure; a step that would
    raise phi is not taken. At a bound of A_V the gradient does not vanish; the Gaussian built
    on the expansion then has its peak outside, and is truncated exactly.
    """

    low, high = prior.av.low, prior.av.high
    one, zero = jnp.ones_like(theta.eta), jnp.zeros_like(theta.eta)
    # before the first evaluation: a point that any other improves on, and no step away from it
    unset = Expansion(
        theta,
        phi=jnp.full_like(theta.eta, jnp.inf),
        grad=Theta(zero, zero, zero),
        curv=Sym3(one, zero, zero, one, zero, one),
        chi2=zero,
    )

    def one_step(carry: tuple, _: None) -> tuple[tuple, None]:
        point, damping = carry
        curv, here, more = point.curv, point.theta, 1.0 + damping
        damped = curv._replace(ee=curv.ee * more, aa=curv.aa * more, rr=curv.rr * more)
        step = newton_step(point.grad, damped, low - here.av, high - here.av)
        trial = expand(advance(here, step, prior), star, model, prior)
        better = trial.phi <= point.phi
        point = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, point)
        damping = jnp.where(better, 0.1 * damping, jnp.minimum(10.0 * damping, 1e3))
        return (point, damping), None

    (point, _), _ = jax.lax.scan(one_step, (unset, 1e-2 * one), length=steps + 1)
    return point
