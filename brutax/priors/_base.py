"""What a prior is: a pytree of its own parameters with a log density over named quantities."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array


class Point(NamedTuple):
    """The quantities a prior may look at; arrays of any one shape, None where not known."""

    mini: Any = None  # initial mass [Msun]
    eep: Any = None  # equivalent evolutionary point
    feh: Any = None  # initial [Fe/H] [dex]
    loga: Any = None  # log10 of the age [yr]
    agewt: Any = None  # d(age)/d(EEP) [yr]
    Mr: Any = None  # absolute Pan-STARRS r magnitude [mag]
    dist: Any = None  # distance [kpc]
    av: Any = None  # A_V [mag]
    rv: Any = None  # R_V
    ell: Any = None  # Galactic longitude [deg]
    b: Any = None  # Galactic latitude [deg]


class AbstractPrior(eqx.Module):
    """A density over some of the quantities of a `Point`. Priors compose with `*`.

    A prior is a pytree of its own parameters, so that it can be batched and differentiated.

        prior = KroupaIMF(alpha_high=2.7) * UniformAv(0.0, 3.0)
        prior.log_prob(Point(mini=1.2, av=0.4))
    """

    @abc.abstractmethod
    def log_prob(self, point: Point) -> Array:
        """Natural log of the density, element by element; -inf outside the support.

        The quantities that a prior looks at, and their units, are those of `Point`.
        """

    def __mul__(self, other: "AbstractPrior") -> "Product":
        return Product((self, other))


class Product(AbstractPrior):
    """The product of independent factors: the sum of their log-densities."""

    factors: tuple[AbstractPrior, ...]

    def log_prob(self, point: Point) -> Array:
        total: Any = sum(factor.log_prob(point) for factor in self.factors)
        return total
