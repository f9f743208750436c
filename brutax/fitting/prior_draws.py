"""Exact draws from the default prior of the fit.

The Galactic prior is a mixture of populations c, each a product of a density along the line of
sight and of densities of [Fe/H] and age, so that model k at distance d along a direction has

    p(k, d) = sum_c [pi_k p(feh_k | c) p(age_k | c)] [d^2 n_c(d)].

A draw is a population first, then model and distance independently of each other. The only
approximation is the step of a fine lattice in ln d, within which the density is constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from brutax.fitting.prepare import model_log_prior
from brutax.models import StarGrid
from brutax.priors import (
    ExponentialDiskDistance,
    GalacticStructure,
    Point,
    logp_age_from_feh,
    logp_feh,
    logp_galactic_structure,
)
from brutax.solver.density import ETA_LIMIT

STEP = 0.005  # of the lattice in ln d
CHUNK = 256  # stars whose distance distributions are held at once
TRIES = 64  # candidates per star and round where stars are selected
ROUNDS = 500  # of candidates, after which the selection leaves too few stars: an error

Sampler = Callable[[np.random.Generator, Any], np.ndarray]  # (rng, shape) -> draws


class Population(NamedTuple):
    """The models of one component of the Galaxy."""

    log_mass: float  # ln of the prior mass of all of them
    cdf: np.ndarray  # (model,), up to 1


class Truth(NamedTuple):
    """What stars are; arrays of one shape."""

    model: np.ndarray  # row of the grid
    dist: np.ndarray  # [kpc]
    av: np.ndarray  # A_V [mag]
    rv: np.ndarray  # R_V


def populations(grid: StarGrid) -> list[Population]:
    """The models of thin disk, thick disk and halo, and all models for unknown directions."""
    log_prior = model_log_prior(grid)
    labels = {name: np.nan_to_num(grid.label_table[name]) for name in grid.label_names}
    galaxy = GalacticStructure()
    out = []
    for mean, sigma in (
        (galaxy.feh_thin, galaxy.feh_thin_sigma),
        (galaxy.feh_thick, galaxy.feh_thick_sigma),
        (galaxy.feh_halo, galaxy.feh_halo_sigma),
    ):
        log_mass = log_prior
        if "feh" in labels:
            log_mass = log_mass + logp_feh(labels["feh"], float(mean), float(sigma))
        if "loga" in labels:
            log_mass = log_mass + logp_age_from_feh(10.0 ** (labels["loga"] - 9.0), float(mean))
        out.append(_population(log_mass))
    return [*out, _population(log_prior)]


def _population(log_mass: np.ndarray) -> Population:
    total = float(np.asarray(logsumexp(log_mass)))
    cdf = np.cumsum(np.exp(log_mass - total))
    return Population(total, cdf / cdf[-1])


def line_of_sight(sky: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """ln of the density of each population in eta = ln(d / kpc), (star, population, node).

    `sky` is (star, 2), Galactic l and b [deg]. Where they are NaN there is only the last of the
    populations, everywhere else only the first three.
    """
    dist = np.exp(eta)
    anywhere = np.asarray(ExponentialDiskDistance().log_prob(Point(dist=dist)), np.float64)
    out = np.full((len(sky), 4, len(eta)), -np.inf)
    for i, (ell, b) in enumerate(sky):
        if np.isfinite(ell) and np.isfinite(b):
            _, parts = logp_galactic_structure(dist, (ell, b), return_components=True)
            out[i, :3] = np.stack(parts["number_density"])
        else:
            out[i, 3] = anywhere
    return out + eta


@dataclass(frozen=True)
class Sights:
    """The populations along the directions of some stars."""

    groups: list[Population]
    row: np.ndarray  # (star,) direction of each star
    share: np.ndarray  # (direction, population), cumulative, up to 1
    edges: np.ndarray  # of the cells in ln d
    cdf: np.ndarray  # (direction, population, edge), from 0 to 1

    @classmethod
    def towards(cls, sky: np.ndarray, groups: list[Population]) -> "Sights":
        edges = np.linspace(-ETA_LIMIT, ETA_LIMIT, round(2 * ETA_LIMIT / STEP) + 1)
        known, row = np.unique(sky, axis=0, return_inverse=True)
        log_p = line_of_sight(known, 0.5 * (edges[1:] + edges[:-1]))
        weight = np.asarray(logsumexp(log_p, axis=2)) + [group.log_mass for group in groups]
        share = np.cumsum(np.exp(weight - weight.max(axis=1, keepdims=True)), axis=1)
        peak = np.maximum(log_p.max(axis=2, keepdims=True), -1e300)  # finite where empty
        cdf = np.pad(np.cumsum(np.exp(log_p - peak), axis=2), ((0, 0), (0, 0), (1, 0)))
        cdf /= np.where(cdf[..., -1:] > 0, cdf[..., -1:], 1.0)
        return cls(groups, row.ravel(), share / share[:, -1:], edges, cdf)

    def draw(self, stars: np.ndarray, tries: int, rng: np.random.Generator) -> tuple:
        """Models and distances, each (star, try)."""
        row = np.repeat(self.row[stars], tries)
        group = np.sum(rng.random((row.size, 1)) > self.share[row], axis=1)
        model, eta = np.empty(row.size, int), np.empty(row.size)
        u_model, u_eta = rng.random((2, row.size))
        for g in np.unique(group):
            at = group == g
            model[at] = np.searchsorted(self.groups[g].cdf, u_model[at], side="right")
            for r in np.unique(row[at]):
                here = at & (row == r)
                eta[here] = np.interp(u_eta[here], self.cdf[r, g], self.edges)
        shape = (len(stars), tries)
        return model.reshape(shape), np.exp(eta).reshape(shape)


def draw_stars(
    grid: StarGrid,
    sky: np.ndarray,
    av: Sampler,
    rv: Sampler,
    rng: np.random.Generator,
    seen: Callable[[Truth], np.ndarray] | None = None,
) -> Truth:
    """One star per direction (star, 2) [deg], drawn from the prior.

    With `seen` from the prior given that `seen(truth)` is true. Raises `ValueError` if that is
    too rare.
    """
    groups, parts = populations(grid), []
    tries = 1 if seen is None else TRIES
    for first in range(0, len(sky), CHUNK):
        sights = Sights.towards(sky[first : first + CHUNK], groups)
        todo = np.arange(len(sights.row))
        out = Truth(np.zeros(todo.size, int), *(np.zeros(todo.size) for _ in range(3)))
        for _ in range(ROUNDS):
            model, dist = sights.draw(todo, tries, rng)
            drawn = Truth(model, dist, av(rng, model.shape), rv(rng, model.shape))
            good = np.ones(model.shape, bool) if seen is None else seen(drawn)
            found, pick = np.any(good, axis=1), np.argmax(good, axis=1)
            for values, new in zip(out, drawn, strict=True):
                values[todo[found]] = new[found, pick[found]]
            todo = todo[~found]
            if not todo.size:
                break
        else:
            raise ValueError(
                f"fewer than one star in {ROUNDS * TRIES} is bright enough in some direction: "
                "choose a fainter magnitude limit"
            )
        parts.append(out)
    return Truth(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
