"""The rounds of a star: how much effort it gets, and when that is enough.

Every star gets a random key of its own from (seed, source id), so that neither the order of the
stars nor the size of the batches changes a draw. Stars whose draws of one round are too few, or
not to be trusted, get another with more effort: the best models refined before drawing, then the
reference path. A star that no model fits is not worth that: by the chi-square of its best model it
gets one small round more, or none.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from brutax.cache.programs import Stages
from brutax.catalog import Catalog
from brutax.fitting.devices import (
    CPU_BATCH,
    Worker,
    batch_for,
    is_out_of_memory,
    later_batch_for,
)
from brutax.fitting.prior import repeat
from brutax.fitting.rows import Observed, file_rows, observed, trusted
from brutax.models import Stars, Status
from brutax.priors import AbstractAvPrior
from brutax.solver import (
    Settings,
    StarPosterior,
    StarPrior,
    TiledModels,
    count_survivors,
    fit_stars,
    settled_stars,
)

log = logging.getLogger("brutax")
T = TypeVar("T")
Table = dict[str, np.ndarray]  # arrays of the posterior file, by name

METHODS = ("auto", "nodes", "reference")
# weighted draws of the first round: 512 are equivalent to about 490 independent ones at the
# defaults, twice as many as are kept (benchmarks/against_brutus.py)
EFFORTS = {"low": 512, "normal": 512, "high": 2048}
MORE = 4  # times as many weighted draws in later rounds
REFINED = 4096  # models refined before drawing in the second round
REFINED_POOR = 256  # the same for a star that no model fits
# chi-square of the best model, per degree of freedom, beyond which more draws say nothing: it is
# some ten standard deviations off in every band
HOPELESS = 100.0
LATER_STEPS = 10  # Gauss-Newton steps of later rounds
ALL = 10**9  # tiles: more than any grid has
SETTLED_AT_ONCE = 1024  # stars whose kind of score is found out in one program


@dataclass(frozen=True)
class FitOptions:
    """How to run a fit. Only `seed`, `method`, `effort` and the numbers of draws change results.

    `method`: "auto" and "nodes" give the posterior on the models of the grid, "reference" the same
    with every model that matters refined and integrated by quadrature. `effort`: "low" makes one
    round of 512 weighted draws, "normal" repeats stars for which that is too little, once those
    that no model fits (POOR_FIT), "high" starts with 2048 and repeats all. `draws` equal-weight
    draws are kept per star; 0 keeps summaries only. A star with fewer than `min_ess` effective
    draws gets another round. `weighted_draws`, if given, replaces the number of `effort`.
    `batch_size` stars run at once on each core or device (None: as many as is best there). With
    `dim_prior` brutus' (N - 3)/2 ln N is added to evidences.

    Raises `ValueError` for unknown names and numbers out of range.
    """

    seed: int = 0
    method: str = "auto"
    effort: str = "normal"
    draws: int = 250
    weighted_draws: int | None = None
    min_ess: float = 300.0
    batch_size: int | None = None
    dim_prior: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.effort not in EFFORTS:
            raise ValueError(f"effort must be one of {', '.join(EFFORTS)}, got {self.effort!r}")
        for name, least in (("draws", 0), ("weighted_draws", 64), ("batch_size", 1)):
            value = getattr(self, name)
            if name != "draws" and value is None:
                continue
            if int(value) != value or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed}")

    @property
    def first_draws(self) -> int:
        """Weighted draws of the first round."""
        return EFFORTS[self.effort] if self.weighted_draws is None else self.weighted_draws

    def rounds(self) -> "list[Round]":
        """The successive rounds of a star."""
        kept = max(self.draws, 1)  # without draws the one made is not kept
        first = Settings(n_samples=self.first_draws, n_draws=kept)
        second = replace(
            first,
            n_samples=MORE * self.first_draws,
            tiles=ALL,
            closely=True,
            survivors=REFINED,
            steps=LATER_STEPS,
        )
        last = replace(second, tiles=0, quadrature=True)
        if self.method == "reference":
            return [Round(replace(last, n_samples=self.first_draws), by_survivors=True)]
        if self.effort == "low":
            return [Round(first)]
        return [Round(first), Round(second), Round(last, by_survivors=True)]

    def after_poor_fit(self) -> "list[Round]":
        """The rounds after the first of a star that no model fits."""
        first, *others = self.rounds()
        if self.effort != "normal" or not others:
            return others
        return [Round(replace(first.settings, survivors=REFINED_POOR), in_fluxes=True)]

    def identity(self) -> dict[str, object]:
        """What the numbers of a fit depend on, under the names of posterior files."""
        method = "reference" if self.method == "reference" else "auto"
        return {
            "seed": self.seed,
            "method": "fast" if method == "auto" and self.effort == "low" else method,
            "n_draws": self.draws,
            "n_samples": self.first_draws,
            "min_ess": self.min_ess,
            "dim_prior": self.dim_prior,
        }


class Round(NamedTuple):
    """The solver's settings of one round.

    `by_survivors`: how many models are refined is found out for each star (the reference path).
    `in_fluxes`: no star is scored in magnitudes, where misfits of many standard deviations weigh
    otherwise than in flux.
    """

    settings: Settings
    by_survivors: bool = False
    in_fluxes: bool = False


def hash_ids(source_id: np.ndarray) -> np.ndarray:
    """64 bits from each identifier: integers as they are, strings by their BLAKE2 digest."""
    ids = np.asarray(source_id)
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64, copy=False).view(np.uint64) if ids.dtype != np.uint64 else ids
    if ids.dtype.kind == "U":
        ids = np.char.encode(ids, "utf-8")
    digests = [hashlib.blake2b(bytes(x), digest_size=8).digest() for x in ids]
    return np.frombuffer(b"".join(digests), np.uint64)


class _Origin(NamedTuple):
    """What the random keys of stars come from, as 32-bit numbers."""

    seed: UInt32[np.ndarray, " 2"] | Array
    low: UInt32[np.ndarray, " star"] | Array  # halves of the identifiers
    high: UInt32[np.ndarray, " star"] | Array
    round_: np.uint32 | Array


def _keys(_: None, origin: _Origin, __: None) -> Array:
    key = jax.random.fold_in(jax.random.key(origin.seed[0]), origin.seed[1])

    def fold(low: Array, high: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, low), high)
        return jax.random.fold_in(own, origin.round_)

    return jax.vmap(fold)(jnp.asarray(origin.low), jnp.asarray(origin.high))


_make_keys = Stages(_keys)


def star_keys(seed: int, source_id: np.ndarray, round_: int = 0) -> Array:
    """One random key per star, from the seed, the source id and the round alone."""
    ids = hash_ids(source_id)
    halves = (np.array([seed & 0xFFFFFFFF, seed >> 32]), ids & np.uint64(0xFFFFFFFF), ids >> 32)
    seed_, low, high = (x.astype(np.uint32) for x in halves)
    origin = _Origin(seed_, low, high, np.uint32(round_))
    return _make_keys((origin,), (None,))


@dataclass(frozen=True)
class Job:
    """What is fitted, and how: the same for all batches, and never changed."""

    catalog: Catalog
    models: TiledModels
    order: Int[np.ndarray, " model"]  # row of the grid of each model; -1 for padding
    prior: StarPrior
    options: FitOptions
    av_per_star: AbstractAvPrior | None  # with a leading axis over the stars of the catalogue
    observed: Observed
    magnitudes: Bool[np.ndarray, " star"]  # stars scored in magnitudes, found out in `settle`

    @classmethod
    def make(
        cls,
        catalog: Catalog,
        models: TiledModels,
        order: np.ndarray,
        prior: StarPrior,
        options: FitOptions,
        av_per_star: AbstractAvPrior | None = None,
    ) -> "Job":
        """A job whose stars have not been looked at yet."""
        none = np.zeros(len(catalog), bool)
        order = order.astype(np.int32)
        known = observed(catalog)
        return cls(catalog, models, order, prior, options, av_per_star, known, none)

    def inputs(self, rows: np.ndarray, size: int) -> tuple[Stars, AbstractAvPrior]:
        """Data and A_V priors of a full batch; padding has no photometry and costs nothing."""
        full = _padded(rows, size)
        stars = self.catalog.stars(full)
        weight = np.array(stars.weight)
        weight[rows.size :] = 0.0
        stars = eqx.tree_at(lambda s: s.weight, stars, jnp.asarray(weight))
        if self.av_per_star is not None:
            return stars, jax.tree.map(lambda leaf: leaf[full], self.av_per_star)
        assert self.prior.av is not None  # it is None where each star has its own
        return stars, repeat(self.prior.av, size)

    def wants_more(self, posterior: StarPosterior, n_rows: int) -> Bool[np.ndarray, " star"]:
        """Which stars of a batch should go to the next round."""
        enough = np.asarray(posterior.ess) >= self.options.min_ess
        fitted = np.asarray(posterior.n_samples) > 0
        return (fitted & ~(enough & trusted(posterior)))[:n_rows]


def nothing_fits(table: Table) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Of rows of the file, those that no model fits, and those of them that are hopeless."""
    poor = (table["status"] & Status.POOR_FIT) != 0
    freedom = np.maximum(table["obj_Nbands"] - 3, 1)
    return poor, poor & (table["obj_chi2min"] > HOPELESS * freedom)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.full(size - rows.size, rows[0] if rows.size else 0)])


class BatchFitter:
    """Fits batches of a job on one worker.

    Only its sizes of batches change, when memory is short.
    """

    def __init__(self, job: Job, worker: Worker) -> None:
        self.job, self.models = job, worker.grid
        self.one_by_one = worker.device.platform == "cpu"
        self.rounds = job.options.rounds()
        self.after_poor_fit = job.options.after_poor_fit()
        self.batch = job.options.batch_size or batch_for(worker, self.rounds[0].settings)
        self.later = later_batch_for(worker)

    def size(self, settings: Settings, round_: int) -> int:
        """Stars per program: fewer where all models of a star are scored at once."""
        whole = not 0 < settings.tiles < ALL
        return min(self.later, self.batch) if round_ and whole else self.batch

    def dispatch(self, rows: np.ndarray, settings: Settings, round_: int) -> StarPosterior:
        """Starts the fit of up to a batch of rows; returns before it is done."""
        job, size = self.job, self.size(settings, round_)
        stars, av = job.inputs(rows, size)
        ids = job.catalog.source_id[_padded(rows, size)]
        keys = star_keys(job.options.seed, ids, round_)
        settings = replace(settings, side_by_side=1 if self.one_by_one else size)
        return fit_stars(stars, self.models, job.prior, av, keys, settings)

    def settle(self, todo: np.ndarray) -> Bool[np.ndarray, " star"]:
        """Which stars of the catalogue can be scored in magnitudes, among the rows `todo`."""
        out = np.zeros(len(self.job.catalog), bool)
        if self.rounds[0].by_survivors:
            return out
        size = CPU_BATCH if todo.size <= CPU_BATCH else SETTLED_AT_ONCE
        for first in range(0, todo.size, size):
            rows = todo[first : first + size]
            stars, av = self.job.inputs(rows, size)
            side_by_side = 1 if self.one_by_one else size
            settled = settled_stars(stars, self.models, self.job.prior, av, side_by_side)
            out[rows] = np.asarray(settled)[: rows.size]
        return out

    def prepare(self, magnitudes: bool) -> None:
        """Compiles the first round: fits a batch of padding, which costs nothing."""
        settings = replace(self.rounds[0].settings, in_magnitudes=magnitudes)
        self._within_memory(lambda: self.dispatch(np.empty(0, int), settings, 0))

    def fit(self, rows: np.ndarray) -> Table:
        """Arrays of the posterior file for some rows, after as many rounds as each star needs."""
        return self._within_memory(lambda: self._all_rounds(rows))

    def _all_rounds(self, rows: np.ndarray) -> Table:
        table, unfinished = self._one_round(rows, self.rounds[0], 0)
        poor, hopeless = nothing_fits(table)
        if self.after_poor_fit == self.rounds[1:]:  # no difference is made
            poor = hopeless = np.zeros(rows.size, bool)
        ways = ((~poor, self.rounds[1:]), (poor & ~hopeless, self.after_poor_fit))
        for which, later in ways:
            again = np.flatnonzero(unfinished & which)
            for round_, following in enumerate(later, 1):
                if not again.size:
                    break
                log.debug("%d of %d stars go to round %d", again.size, rows.size, round_ + 1)
                better, still = self._one_round(rows[again], following, round_)
                for name, values in better.items():
                    table[name][again] = values
                again = again[still]
        return table

    def _one_round(
        self, rows: np.ndarray, this: Round, round_: int
    ) -> tuple[Table, Bool[np.ndarray, " row"]]:
        """Arrays of the file of some rows, and which of these should go to the next round."""
        job, table = self.job, {}
        unfinished, size = np.zeros(rows.size, bool), self.size(this.settings, round_)
        for group, settings in self._groups(rows, this):
            for first in range(0, group.size, size):
                members = group[first : first + size]
                posterior = self.dispatch(rows[members], settings, round_)
                options = job.options
                for name, values in file_rows(
                    posterior,
                    rows[members],
                    job.catalog,
                    job.observed,
                    job.order,
                    options.first_draws,
                    options.dim_prior,
                ).items():
                    if name not in table:
                        table[name] = np.empty((rows.size, *values.shape[1:]), values.dtype)
                    table[name][members] = values
                unfinished[members] = job.wants_more(posterior, members.size)
        return table, unfinished

    def _groups(self, rows: np.ndarray, round_: Round) -> list[tuple[np.ndarray, Settings]]:
        """Splits rows by what chooses the program of a star: itself, never its neighbours.

        That is whether it is scored in magnitudes, or how many models the reference path needs.
        """
        settings = round_.settings
        if not round_.by_survivors:
            magnitudes = self.job.magnitudes[rows] & (not round_.in_fluxes)
            kinds = [(np.flatnonzero(magnitudes == kind), kind) for kind in (True, False)]
            return [
                (some, replace(settings, in_magnitudes=kind)) for some, kind in kinds if some.size
            ]
        counts = []
        for first in range(0, rows.size, self.later):
            some = rows[first : first + self.later]
            stars, av = self.job.inputs(some, self.later)
            found = count_survivors(stars, self.models.models, self.job.prior, av)
            counts.append(found[: some.size])
        needed = np.concatenate(counts)
        return [
            (np.flatnonzero(needed == count), replace(settings, survivors=int(count)))
            for count in np.unique(needed)
        ]

    def _within_memory(self, work: Callable[[], T]) -> T:
        """What `work` returns; where a device has not enough memory, with smaller batches."""
        while True:
            try:
                return work()
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch == 1:
                    raise MemoryError(
                        "the device has not enough memory for a single star; "
                        "use a smaller grid or a lower effort"
                    ) from error
            self.batch, self.later = (self.batch + 1) // 2, (self.later + 1) // 2
            log.warning("the device is out of memory: going on with %d stars at once", self.batch)
