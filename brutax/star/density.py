"""Priors of stars as densities that `brutax.infer` takes."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from brutax import infer
from brutax.infer.prior import Bounds
from brutax.priors import AbstractPrior, Point

# attributes by which priors of `brutax.priors` say where they end
LIMITS = (("low", "high"), ("mass_min", "mass_max"))


class PointDensity(infer.AbstractDensity):
    """A prior of `brutax.priors` over parameters named like quantities of a `Point`."""

    prior: AbstractPrior

    def log_prob(self, params: Mapping[str, Any]) -> Array:
        """ln of the prior at those parameters that are quantities of a `Point`."""
        known = {name: value for name, value in params.items() if name in Point._fields}
        return self.prior.log_prob(Point(**known))

    def bounds(self, name: str) -> tuple[float, float]:
        """The bounds of the prior itself (`low`, `high`, or those of a mass function)."""
        for low, high in LIMITS:
            if hasattr(self.prior, low) and hasattr(self.prior, high):
                return float(getattr(self.prior, low)), float(getattr(self.prior, high))
        raise ValueError(
            f"{type(self.prior).__name__} has no bounds of its own: "
            f"give bounds=dict({name}=(low, high))"
        )

    def check(self, name: str) -> None:
        """Raises `ValueError` for names that are no quantities of a `Point`."""
        if name not in Point._fields:
            raise ValueError(
                f"a brutax prior describes quantities of a Point, and '{name}' is none: "
                f"there are {', '.join(Point._fields)}"
            )


def density(prior: AbstractPrior) -> PointDensity:
    """A prior of `brutax.priors` as an entry of the prior of an `infer.Problem`.

        prior = {"av": star.density(UniformAv(0, 4)), "rv": star.density(TruncatedNormalRv())}
        infer.Problem(prior, log_likelihood, data)

    Under a tuple of names it is a joint density, whose `bounds` the problem is given.
    """
    return PointDensity(prior)


def prior(
    entries: Mapping[Any, Any] | AbstractPrior, bounds: Mapping[str, Bounds] | None = None
) -> infer.Prior:
    """An `infer.Prior` in which priors of `brutax.priors` may stand as they are.

        problem = infer.Problem(star.prior({"mini": KroupaIMF(), "feh": dist.Normal(0, 0.2)}), ...)

    `bounds` as in `infer.Problem`. Raises what `infer.Prior` raises.
    """
    if isinstance(entries, AbstractPrior):
        return infer.Prior(density(entries), bounds)
    made = {k: density(v) if isinstance(v, AbstractPrior) else v for k, v in entries.items()}
    return infer.Prior(made, bounds)
