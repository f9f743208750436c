"""Runs the solver over a catalogue: batches in, rows of the result out.

Every star gets a key of its own from (seed, source id), so that neither the order of the
stars nor the size of the batches changes a draw. Stars whose first round of draws is worth too
little go up a ladder: the best models refined before drawing, then the reference path.
"""

import copy
import hashlib
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaincc

from brutax.cache.programs import Stages
from brutax.catalog import Catalog
from brutax.fitting.devices import (
    BATCHES,
    CPU_BATCH,
    LATER_BATCH,
    Lane,
    batch_for,
    is_out_of_memory,
    later_batch_for,
    make_lanes,
)
from brutax.fitting.prepare import repeat
from brutax.models import Stars, Status
from brutax.priors import AbstractPrior
from brutax.solver import (
    Settings,
    StarPosterior,
    StarPrior,
    TiledModels,
    count_survivors,
    fit_stars,
    settled_stars,
)
from brutax.utils.diagnostics import GOOD_K

log = logging.getLogger("brutax")
T = TypeVar("T")
Rows = Callable[[np.ndarray, dict[str, np.ndarray]], None]

METHODS = ("auto", "fast", "reference")
GOOD_GAP = 1.0  # nats between the sum of the scores and the evidence
EVEN_ESS = 0.8  # effective draws per draw above which weights are next to equal
POOR_P = 1e-3
WRITE_EVERY = 0.5  # seconds of finished stars that are written together
WRITE_AT_ONCE = 2000  # stars that are not kept for others
SETTLED_AT_ONCE = 1024  # stars


@dataclass(frozen=True)
class Options:
    """How to run a fit. Only `seed`, `method` and the numbers of draws change the result."""

    seed: int = 0
    method: str = "auto"
    n_draws: int = 250  # equal-weight draws kept per star; 0: summaries only
    n_samples: int = 512  # weighted draws made in the first round
    min_ess: float = 300.0  # effective draws below which a star gets another round
    batch_size: int | None = None  # stars at once, per core or device; None: `lanes.batch_for`
    dim_prior: bool = False  # add brutus' (N-3)/2 ln N to the evidence

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        for name, least in (("n_draws", 0), ("n_samples", 64), ("batch_size", 1)):
            value = getattr(self, name)
            if name == "batch_size" and value is None:
                continue
            if int(value) != value or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed}")

    def ladder(self) -> list[Settings]:
        """Settings of the successive rounds; `survivors=-1` stands for all that count."""
        drawn = max(self.n_draws, 1)  # without draws the one made is not kept
        first = Settings(n_samples=self.n_samples, n_draws=drawn)
        more = 4 * self.n_samples
        second = replace(first, n_samples=more, tiles=10**9, closely=True, survivors=4096, steps=10)
        last = replace(second, tiles=0, survivors=-1, quadrature=True)
        return {
            "auto": [first, second, last],
            "fast": [first],
            "reference": [replace(last, n_samples=self.n_samples)],
        }[self.method]


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

    seed: Any  # (2,)
    low: Any  # halves of the identifiers, (star,)
    high: Any
    round_: Any


def _keys(_: None, origin: _Origin, __: None) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(origin.seed[0]), origin.seed[1])

    def fold(low: jax.Array, high: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, low), high)
        return jax.random.fold_in(own, origin.round_)

    return jax.vmap(fold)(origin.low, origin.high)


_make_keys = Stages(_keys)


def star_keys(seed: int, source_id: np.ndarray, round_: int = 0) -> jax.Array:
    """One random key per star, from the seed, the source id and the round alone."""
    ids = hash_ids(source_id)
    halves = (np.array([seed & 0xFFFFFFFF, seed >> 32]), ids & np.uint64(0xFFFFFFFF), ids >> 32)
    seed_, low, high = (x.astype(np.uint32) for x in halves)
    origin = _Origin(seed_, low, high, np.uint32(round_))
    return _make_keys(origin, (None,))


def log_constant(catalog: Catalog) -> np.ndarray:
    """The part of the log-likelihood that no model changes: -1/2 sum ln(2 pi sigma^2)."""
    used = np.isfinite(catalog.flux) & np.isfinite(catalog.flux_err) & (catalog.flux_err > 0)
    terms = np.log(2.0 * np.pi * np.where(used, catalog.flux_err, 1.0) ** 2)
    constant = -0.5 * np.sum(np.where(used, terms, 0.0), axis=1)
    plx = _has_parallax(catalog)
    error = np.where(plx, catalog.parallax_err, 1.0)
    return constant - np.where(plx, 0.5 * np.log(2.0 * np.pi * error**2), 0.0)


def _has_parallax(catalog: Catalog) -> np.ndarray:
    error = catalog.parallax_err
    return np.isfinite(catalog.parallax) & np.isfinite(error) & (error > 0)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.full(size - rows.size, rows[0] if rows.size else 0)])


def _honest(posterior: StarPosterior) -> np.ndarray:
    """Whether weights are bounded or next to equal, and scores add up to about the evidence.

    Scores that promise far more than the draws deliver have drawn models from the wrong place. The
    Pareto index looks at the largest weights alone: where nearly all are equal, it is that of a
    few draws that carry next to nothing.
    """
    k, gap = np.asarray(posterior.pareto_k), np.asarray(posterior.gap)
    even = np.asarray(posterior.ess) >= EVEN_ESS * np.asarray(posterior.n_samples)
    with np.errstate(invalid="ignore"):
        return ((k <= GOOD_K) | even) & (np.abs(gap) <= GOOD_GAP)


def _usable(values: np.ndarray, good: np.ndarray, fill: float | int) -> np.ndarray:
    """Values as the file holds them, with `fill` where they are not numbers or a star is not good.

    Nothing is copied where there is nothing to do.
    """
    values = np.asarray(values)
    kind = np.int32 if values.dtype.kind in "iu" else np.float32
    known = np.isfinite(values)
    if not (good.all() and known.all()):
        values = np.where(good.reshape(-1, *[1] * (values.ndim - 1)) & known, values, fill)
    return values.astype(kind, copy=False)


class Runner:
    """The solver with its models and priors, applied to batches of a catalogue."""

    def __init__(
        self,
        catalog: Catalog,
        grid: TiledModels,
        order: np.ndarray,
        prior: StarPrior,
        options: Options,
        av: AbstractPrior | None = None,
    ) -> None:
        """`av`, where given, is the A_V prior of each star (a pytree with a leading axis)."""
        self.catalog, self.grid, self.order = catalog, grid, order.astype(np.int32)
        self.prior, self.options = prior, options
        self.av, self.av_per_star = (prior.av if av is None else av), av is not None
        self.constant = log_constant(catalog)
        self.has_parallax = _has_parallax(catalog)
        self.n_bands = np.asarray(catalog.n_bands) + self.has_parallax
        self.quick = np.zeros(len(self.n_bands), bool)  # stars scored in magnitudes
        self.batch, self.one_by_one = options.batch_size or CPU_BATCH, True
        self.later = LATER_BATCH

    def _on(self, lane: Lane) -> "Runner":
        """The same, for one of the places where batches run."""
        runner = copy.copy(self)
        runner.grid, runner.one_by_one = lane.grid, lane.device.platform == "cpu"
        runner.batch = self.options.batch_size or batch_for(lane, self.options.ladder()[0])
        runner.later = later_batch_for(lane)
        return runner

    def _inputs(self, rows: np.ndarray, size: int) -> tuple[Stars, AbstractPrior]:
        """Data and A_V priors of a full batch; padding has no photometry and costs nothing."""
        full = _padded(rows, size)
        stars = self.catalog.stars(full)
        weight = np.array(stars.weight)
        weight[rows.size :] = 0.0
        stars = eqx.tree_at(lambda s: s.weight, stars, jnp.asarray(weight))
        if self.av_per_star:
            return stars, jax.tree.map(lambda leaf: leaf[full], self.av)
        return stars, repeat(self.av, size)

    def dispatch(self, rows: np.ndarray, settings: Settings, round_: int) -> StarPosterior:
        """Starts the fit of up to a batch of rows; returns before it is done."""
        size = self._size(round_)
        stars, av = self._inputs(rows, size)
        ids = self.catalog.source_id[_padded(rows, size)]
        keys = star_keys(self.options.seed, ids, round_)
        settings = replace(settings, side_by_side=1 if self.one_by_one else size)
        return fit_stars(stars, self.grid, self.prior, av, keys, settings)

    def _size(self, round_: int) -> int:
        """Stars per program."""
        return min(self.later, self.batch) if round_ else self.batch

    def _groups(self, rows: np.ndarray, settings: Settings) -> list[tuple[np.ndarray, Settings]]:
        """Splits rows by what chooses the program of a star: itself, never its neighbours.

        That is whether it is scored in magnitudes, or how many models the reference path needs.
        """
        if settings.survivors >= 0:
            quick = self.quick[rows]
            kinds = [(np.flatnonzero(quick == kind), kind) for kind in (True, False)]
            return [(some, replace(settings, quick=kind)) for some, kind in kinds if some.size]
        counts = []
        for first in range(0, rows.size, self.later):
            some = rows[first : first + self.later]
            stars, av = self._inputs(some, self.later)
            counts.append(count_survivors(stars, self.grid.models, self.prior, av)[: some.size])
        needed = np.concatenate(counts)
        return [
            (np.flatnonzero(needed == count), replace(settings, survivors=int(count)))
            for count in np.unique(needed)
        ]

    def _settle(self, todo: np.ndarray) -> None:
        """Finds out which rows can be scored in magnitudes."""
        size = CPU_BATCH if todo.size <= CPU_BATCH else SETTLED_AT_ONCE
        for first in range(0, todo.size, size):
            rows = todo[first : first + size]
            stars, av = self._inputs(rows, size)
            side_by_side = 1 if self.one_by_one else size
            settled = settled_stars(stars, self.grid, self.prior, av, side_by_side)
            self.quick[rows] = np.asarray(settled)[: rows.size]

    def solve(
        self, rows: np.ndarray, settings: Settings, round_: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Result arrays of some rows, and which of these are still wanting."""
        table: dict[str, np.ndarray] = {}
        wanting, size = np.zeros(rows.size, bool), self._size(round_)
        for group, chosen in self._groups(rows, settings):
            for first in range(0, group.size, size):
                members = group[first : first + size]
                posterior = self.dispatch(rows[members], chosen, round_)
                for name, values in self.rows(rows[members], posterior).items():
                    if name not in table:
                        table[name] = np.empty((rows.size, *values.shape[1:]), values.dtype)
                    table[name][members] = values
                wanting[members] = self.wants_more(posterior, members.size)
        return table, wanting

    def rows(self, rows: np.ndarray, posterior: StarPosterior) -> dict[str, np.ndarray]:
        """Arrays of the result file for some rows; everything is finite."""
        post = jax.tree.map(lambda x: np.asarray(x)[: rows.size], posterior)
        draws, constant = post.draws, self.constant[rows]
        good = np.isfinite(post.log_evidence) & (post.n_samples > 0)
        n_bands = self.n_bands[rows]
        dof = np.maximum(n_bands - 3, 1)
        chi2 = np.where(np.isfinite(post.chi2_min), post.chi2_min, 0.0)
        p_value = gammaincc(0.5 * dof, 0.5 * chi2.astype(np.float64))
        evidence = post.log_evidence.astype(np.float64) + constant
        if self.options.dim_prior:
            evidence = evidence + 0.5 * (n_bands - 3) * np.log(np.maximum(n_bands, 1))
        status = self.catalog.status[rows].astype(np.int32)
        unseen = np.asarray(self.catalog.n_bands)[rows] == 0
        poor = good & ~((post.ess >= self._enough()) & _honest(post))
        status |= np.where(~good & ~unseen, Status.NO_MODELS, 0).astype(np.int32)
        status |= np.where(poor, Status.LOW_ESS, 0).astype(np.int32)
        status |= np.where(good & (p_value < POOR_P), Status.POOR_FIT, 0).astype(np.int32)
        extended = good & (post.n_samples > self.options.n_samples)
        status |= np.where(extended, Status.EXTENDED, 0).astype(np.int32)
        with np.errstate(over="ignore"):
            scale = np.exp(-2.0 * draws.mode.eta)
        size = draws.theta.av.shape[1]
        table = {
            "model_idx": (self.order[draws.model], -99),
            "ml_scale": (scale, 1),
            "ml_av": (draws.mode.av, 0),
            "ml_rv": (draws.mode.rv, 0),
            "ml_cov_sar": (draws.cov_sar, 0),
            "obj_log_post": (draws.log_model + constant[:, None], 0),
            "obj_log_evid": (evidence, 0),
            "obj_chi2min": (chi2, 0),
            "mc_ess": (draws.model_ess, 0),
            "samps_dist": (np.exp(draws.theta.eta), 1),
            "samps_red": (draws.theta.av, 1),
            "samps_dred": (draws.theta.rv, 1),
            "samps_logp": (draws.log_post + constant[:, None], 1),
            "samps_weight": (np.broadcast_to(np.float32(1.0 / size), draws.theta.av.shape), 0),
            "obj_log_evid_err": (post.log_evidence_err, 0),
            "obj_ess": (post.ess, 0),
            "obj_khat": (np.nan_to_num(post.pareto_k, posinf=99.0), 0),
            "obj_nsamp": (post.n_samples, 0),
            "obj_captured": (post.captured, 0),
            "obj_pvalue": (p_value, 0),
            "summary_quantiles": (post.quantiles, 0),
            "summary_mean": (post.mean, 0),
            "summary_std": (post.std, 0),
        }
        out = {name: _usable(values, good, fill) for name, (values, fill) in table.items()}
        return out | {"obj_Nbands": n_bands.astype(np.int16), "status": status}

    def _enough(self) -> float:
        """Effective draws that a star is promised: 200, or what fewer samples can give."""
        return min(200.0, 0.5 * self.options.n_samples)

    def wants_more(self, posterior: StarPosterior, n_rows: int) -> np.ndarray:
        """Which stars of a batch should go to the next round."""
        enough = np.asarray(posterior.ess) >= self.options.min_ess
        fitted = np.asarray(posterior.n_samples) > 0
        return (fitted & ~(enough & _honest(posterior)))[:n_rows]

    def run(self, todo: np.ndarray, write: Rows) -> Generator[int, None, None]:
        """Fits rows, hands finished ones to `write` in order, and yields how many those were."""
        first, lanes = self.options.ladder()[0], make_lanes(self.grid)
        runners = [self._on(lane) for lane in lanes]
        fits = [x.under_settings(runner._fit) for x, runner in zip(lanes, runners, strict=True)]
        piece = runners[0].batch * (1 if runners[0].one_by_one else BATCHES)
        # whole rounds of all lanes, since one without work costs time; not of less than a batch
        rounds = math.ceil(todo.size / (len(lanes) * piece))
        pieces = len(lanes) * rounds
        if not runners[0].one_by_one:  # padding costs as much as stars do
            pieces = min(pieces, math.ceil(todo.size / runners[0].batch))
        batches = [rows for rows in np.array_split(todo, max(pieces, 1)) if rows.size]
        if first.survivors >= 0:
            runners[0]._settle(todo)
            for kind in np.unique(self.quick[todo]) if len(batches) > 1 else ():
                runners[0]._prepare(replace(first, quick=bool(kind)))  # before several threads do
        unwritten: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

        def flush() -> None:
            done = [rows for rows, _ in unwritten]
            tables = [table for _, table in unwritten]
            unwritten.clear()
            if len(done) == 1:
                write(done[0], tables[0])
            elif done:
                table = {k: np.concatenate([t[k] for t in tables]) for k in tables[0]}
                write(np.concatenate(done), table)

        with ThreadPoolExecutor(len(lanes)) as pool:
            written = time.monotonic()
            work = zip(itertools.cycle(fits), batches)
            try:
                ahead = deque(
                    pool.submit(fit, rows) for fit, rows in itertools.islice(work, len(lanes) + 1)
                )
                for k, rows in enumerate(batches):
                    unwritten.append((rows, ahead.popleft().result()))
                    for fit, later in itertools.islice(work, 1):
                        ahead.append(pool.submit(fit, later))
                    waited = time.monotonic() > written + WRITE_EVERY
                    if waited or rows.size >= WRITE_AT_ONCE or k + 1 == len(batches):
                        flush()
                        written = time.monotonic()
                    yield rows.size
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                flush()  # interrupted: what is computed is kept

    def _fit(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Result arrays of a batch, after as many rounds as its stars need."""
        return self._within_memory(lambda: self._rounds(rows))

    def _prepare(self, settings: Settings) -> None:
        """Has a program ready: fits a batch of padding alone, which costs nothing."""
        self._within_memory(lambda: self.dispatch(np.empty(0, int), settings, 0))

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
                        "use a smaller grid or fewer n_samples"
                    ) from error
            self.batch, self.later = (self.batch + 1) // 2, (self.later + 1) // 2
            log.warning("the device is out of memory: going on with %d stars at once", self.batch)

    def _rounds(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        first = self.options.ladder()[0]
        table, wanting = self.solve(rows, first, 0)
        if first.survivors >= 0:
            self._climb(rows, table, wanting)
        return table

    def _climb(self, rows: np.ndarray, table: dict[str, np.ndarray], wanting: np.ndarray) -> None:
        """Repeats wanting stars with more effort, in place, until the ladder ends."""
        again = np.flatnonzero(wanting)
        for round_, settings in enumerate(self.options.ladder()[1:], start=1):
            if not again.size:
                return
            log.debug("%d of %d stars go to round %d", again.size, rows.size, round_ + 1)
            better, wanting = self.solve(rows[again], settings, round_)
            for name, values in better.items():
                table[name][again] = values
            again = again[wanting]
