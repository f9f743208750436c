"""What a cluster looks like: its isochrones, and its stars in the colour-magnitude diagram."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from brutax.cluster.isochrone import TWINS
from brutax.cluster.model import ClusterModel, ClusterParams
from brutax.infer import AbstractOutputs, Axis, Image, Table
from brutax.utils._namespace import as_float
from brutax.utils.photometry import LN_PER_MAG

COMPONENTS = ("singles", "binaries", "field")
CELL = 0.02  # of the plane of both magnitudes [mag]
CELLS_COLOUR, CELLS_MAG = 2, 5  # in a pixel
PIECES = 4  # points on a segment
ROOM = 0.5  # around the stars [mag]
ERRORS = 12  # nodes of the errors as a function of magnitude
SPREAD = np.polynomial.hermite_e.hermegauss(5)  # nodes and weights of a normal distribution


class Plane(NamedTuple):
    """A colour-magnitude diagram: its bands, and the stars' errors in them."""

    bands: tuple[int, int]  # blue, red
    bright: int  # which of both is the magnitude
    low: float  # the first edges of colour and magnitude [mag]
    top: float
    colours: int  # pixels
    mags: int


class ClusterOutputs(AbstractOutputs):
    """Outputs of a cluster, by component: singles, binaries, field.

    "isochrone": initial mass [Msun], EEP and apparent magnitudes along it; binaries are pairs of
    equal stars. "intrinsic": the same without dust, at 10 pc. "density": stars per square
    magnitude of the colour-magnitude diagram, with the errors of the sample at every magnitude;
    pairs of all mass ratios. The model knows no selection: of its members those too faint for the
    sample lie outside.
    """

    plane: Plane = eqx.field(static=True)
    error_mag: Float[Array, "node 2"]  # where the errors of both bands are known [mag]
    error: Float[Array, "node 2"]  # [mag]
    names: tuple[str, ...] = eqx.field(static=True, default=("isochrone", "intrinsic", "density"))
    components: tuple[str, ...] = eqx.field(static=True, default=COMPONENTS)
    bands: tuple[str, ...] = eqx.field(static=True, default=())
    rows: tuple[int, int] = eqx.field(static=True, default=(0, 0))  # vertices, and with pairs
    own_field: bool = eqx.field(static=True, default=False)

    def describe(self, name: str, component: tuple[str, ...]) -> Table | Image:
        if name == "density":
            if self.own_field and "field" in component:
                raise ValueError(
                    "the density of the field is known at the stars only, as it was given to "
                    "make_stars(..., field=...): choose singles, binaries or both"
                )
            plane, steps = self.plane, (CELLS_COLOUR * CELL, CELLS_MAG * CELL)
            blue, red = (self.bands[k] for k in plane.bands)
            colour = Axis(f"{blue}-{red}", "mag", plane.low + 0.5 * steps[0], steps[0])
            bright = Axis((blue, red)[plane.bright], "mag", plane.top + 0.5 * steps[1], steps[1])
            return Image("mag-2", (colour, bright))
        lines = [k for k in component if k != "field"]
        if not lines:
            raise ValueError(f"the field has no {name}: choose singles or binaries")
        counts = [self.rows[k == "binaries"] for k in lines]
        fixed = {"component": np.repeat(lines, counts)}
        units = {"component": "", "mass": "Msun", "eep": "", **dict.fromkeys(self.bands, "mag")}
        return Table(units, fixed)

    def __call__(
        self, params: Any, data: Any, *, what: tuple[str, ...], component: tuple[str, ...]
    ) -> dict[str, Any]:
        known = {name: x for name, x in params.items() if name in ClusterParams._fields}
        p = jax.tree.map(as_float, ClusterParams(**known))
        out: dict[str, Any] = {}
        for name in what:
            if name == "density":
                # side by side draws would take the memory of as many lattices
                one = jax.custom_batching.sequential_vmap(
                    lambda p, data: self._density(p, data, component)
                )
                out[name] = one(p, data)
                continue
            at = p
            if name == "intrinsic":
                at = p._replace(
                    av=jnp.zeros_like(p.av),
                    distance_pc=jnp.full_like(p.distance_pc, 10.0),
                    zero_points=None,
                )
            out[name] = self._lines(data, at, component)
        return out

    def _lines(self, model: ClusterModel, p: Any, component: tuple[str, ...]) -> dict[str, Any]:
        curve = model.lattice(p).curve
        mag = model.magnitudes(p)
        parts = []
        for one in component:
            if one != "field":
                count = self.rows[one == "binaries"]
                shift = TWINS if one == "binaries" else 0.0
                columns = [jnp.exp(curve.log_mass), curve.eep, *(mag.T - shift)]
                parts.append([column[:count] for column in columns])
        joined = [jnp.concatenate(column) for column in zip(*parts, strict=True)]
        return dict(zip(("mass", "eep", *self.bands), joined, strict=True))

    def _density(
        self, p: Any, model: ClusterModel, component: tuple[str, ...]
    ) -> Float[Array, "mag colour"]:
        plane, stars = self.plane, model.stars
        cells, count = _cells(plane, p.av.dtype), jnp.sum(jnp.where(stars.lit, 1.0, 0.0))
        members = jnp.sum(jnp.where(stars.lit, stars.prob, 0.0)) * (1.0 - p.field_fraction)
        total = jnp.zeros((cells[0].size, cells[1].size), p.av.dtype)
        pair = jnp.asarray(plane.bands)
        order = (plane.bright, 1 - plane.bright)  # the magnitude, the other band
        if "field" in component:
            low, high = stars.field_range[:, pair]
            inside = [
                jnp.clip(
                    jnp.minimum(cells[n] + 0.5 * CELL, high[k])
                    - jnp.maximum(cells[n] - 0.5 * CELL, low[k]),
                    0.0,
                )
                / (high[k] - low[k])
                for n, k in enumerate(order)
            ]
            total = total + (count - members) * inside[0][:, None] * inside[1][None, :]
        wanted = [name == "binaries" for name in component if name != "field"]
        if wanted:
            grid = model.lattice(p)
            weight = grid.tiles.weight
            if len(wanted) == 1:
                weight = jnp.where((grid.q > 0)[:, None] == wanted[0], weight, 0.0)
            t = (jnp.arange(PIECES, dtype=weight.dtype) + 0.5) / PIECES
            flux = grid.tiles.flux[..., pair]
            flux = flux[:, :-1, None] * (1.0 - t)[:, None] + flux[:, 1:, None] * t[:, None]
            mag = -(jnp.log(flux) + stars.log_unit[pair]) / LN_PER_MAG
            mag = mag.reshape(-1, 2)
            weight = jnp.repeat(weight.ravel() / PIECES, PIECES)
            shifts: Any = [(1.0, jnp.zeros_like(mag[0]))]
            if p.av_spread is not None:
                reddening = p.av_spread * model.reddening(p)[pair]
                shifts = [
                    (w / np.sum(SPREAD[1]), x * reddening) for x, w in zip(*SPREAD, strict=True)
                ]
            pads = [_padded(cells[n]) for n in range(2)]
            exact = sum(
                w * _deposited((mag + shift)[:, jnp.asarray(order)], weight, pads)
                for w, shift in shifts
            )
            first, second = (
                self._blur(cells[n], pads[n], k, p.scatter) for n, k in enumerate(order)
            )
            seen = jnp.matmul(first, jnp.matmul(exact, second.T, precision="highest"))
            total = total + members * seen
        area = CELLS_COLOUR * CELLS_MAG * CELL**2
        return _pixels(plane, total) / area

    def _blur(
        self, cells: Array, true: Array, band: int, scatter: Any
    ) -> Float[Array, "cell true"]:
        """The chance of observing each cell at every true magnitude."""
        error = jnp.interp(true, self.error_mag[:, band], self.error[:, band])
        if scatter is not None:
            error = jnp.hypot(error, scatter)
        error = jnp.maximum(error, 0.25 * CELL)
        edges = jnp.append(cells - 0.5 * CELL, cells[-1] + 0.5 * CELL)
        below = ndtr((edges[:, None] - true[None, :]) / error[None, :])
        return below[1:] - below[:-1]


def _cells(plane: Plane, dtype: Any) -> list[Array]:
    """The middles of the cells of the magnitude and of the other band, multiples of `CELL`."""
    rows, columns = plane.mags * CELLS_MAG, plane.colours * CELLS_COLOUR
    first = plane.top + 0.5 * CELL
    if plane.bright == 0:  # the other band is the magnitude less the colour
        other = first - (plane.low + (columns - 0.5) * CELL)
    else:
        other = first + plane.low + 0.5 * CELL
    wide = rows + columns - 1
    return [
        jnp.asarray(start + CELL * np.arange(n), dtype)
        for start, n in ((first, rows), (other, wide))
    ]


def _padded(cells: Array) -> Array:
    """The same cells and some on both sides, from where errors scatter stars into them."""
    more = int(ROOM / CELL)
    return cells[0] + CELL * (jnp.arange(cells.size + 2 * more, dtype=cells.dtype) - more)


def _deposited(mag: Float[Array, "point 2"], weight: Array, cells: list[Array]) -> Array:
    """Weights of points shared between the four cells around each."""
    place = [(mag[:, k] - cells[k][0]) / CELL for k in range(2)]
    low = [jnp.floor(x) for x in place]
    out = jnp.zeros((cells[0].size, cells[1].size), weight.dtype)
    for a in (0, 1):
        for b in (0, 1):
            share = [jnp.abs(1.0 - c - (x - f)) for c, x, f in zip((a, b), place, low)]
            at = [(f + c).astype(jnp.int32) for c, f in zip((a, b), low)]
            inside = [(i >= 0) & (i < c.size) for i, c in zip(at, cells)]
            amount = jnp.where(inside[0] & inside[1], weight * share[0] * share[1], 0.0)
            at = [jnp.clip(i, 0, c.size - 1) for i, c in zip(at, cells)]
            out = out.at[at[0], at[1]].add(amount)
    return out


def _pixels(plane: Plane, cells: Float[Array, "row column"]) -> Float[Array, "mag colour"]:
    """Sums over the cells of every pixel: whole rows of magnitude, diagonals of colour."""
    i, k = np.indices(cells.shape)
    columns = plane.colours * CELLS_COLOUR
    difference = i - k + columns - 1 if plane.bright == 0 else k - i
    inside = (difference >= 0) & (difference < columns)
    pixel = (i // CELLS_MAG) * plane.colours + difference // CELLS_COLOUR
    count = plane.mags * plane.colours
    where = jnp.asarray(np.where(inside, pixel, count).ravel())
    total = jax.ops.segment_sum(cells.ravel(), where, count + 1)[:count]
    return total.reshape(plane.mags, plane.colours)


def cluster_outputs(
    model: ClusterModel, colour: tuple[str, str] | None = None, band: str | None = None
) -> ClusterOutputs:
    """The outputs of a cluster, with diagrams in the `colour` of two bands.

    By default the first and the last band; `band`, the magnitude, is one of both (the first).
    Raises `ValueError` for others.
    """
    bands = tuple(model.pop.filters)
    if len(bands) < 2:
        raise ValueError("a diagram needs a colour: the model has one band")
    pair = colour or (bands[0], bands[-1])
    bright = band or pair[0]
    if len(pair) != 2 or pair[0] == pair[1] or any(name not in bands for name in pair):
        raise ValueError(f"colour {pair} must be two bands of {', '.join(bands)}")
    if bright not in pair:
        raise ValueError(f"the magnitude {bright} must be one of the bands of the colour {pair}")
    both = bands.index(pair[0]), bands.index(pair[1])
    mag, error = _observed(model, both)
    seen = np.isfinite(mag).all(axis=1)
    if not seen.any():
        raise ValueError(f"no star has positive fluxes in both {pair[0]} and {pair[1]}")
    difference, y = mag[seen, 0] - mag[seen, 1], mag[seen, pair.index(bright)]
    # edges half a cell beside whole cells: differences of cells fall inside pixels
    low = CELL * (np.floor((difference.min() - ROOM) / CELL) - 0.5)
    top = CELL * (np.floor((y.min() - ROOM) / CELL) - 0.5)
    colours = int(np.ceil((difference.max() + ROOM - low) / (CELL * CELLS_COLOUR)))
    mags = int(np.ceil((y.max() + ROOM - top) / (CELL * CELLS_MAG)))
    nodes = [_error_nodes(mag[:, k], error[:, k]) for k in range(2)]
    plane = Plane(both, pair.index(bright), float(low), float(top), colours, mags)
    return ClusterOutputs(
        plane=plane,
        error_mag=as_float(np.stack([at for at, _ in nodes], axis=1)),
        error=as_float(np.stack([e for _, e in nodes], axis=1)),
        bands=bands,
        rows=(model.layout.segments + 1, model.layout.pairs + 1),
        own_field=not np.isfinite(np.asarray(model.stars.field_range)[:, list(both)]).all(),
    )


def _observed(model: ClusterModel, bands: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes and errors (star, 2) of the sample, NaN where not observed or not positive."""
    stars = model.stars
    pair = list(bands)
    flux = np.moveaxis(np.asarray(stars.flux, np.float64), 1, -1).reshape(
        -1, len(model.pop.filters)
    )
    inverse = np.moveaxis(np.asarray(stars.inverse, np.float64), 1, -1).reshape(flux.shape)
    ratio, inverse = flux[:, pair], inverse[:, pair]  # flux / error, unit / error
    good = (inverse > 0) & (ratio > 0)
    unit = np.asarray(stars.log_unit, np.float64)[pair]
    log_flux = np.log(np.where(good, ratio, 1.0) / np.where(good, inverse, 1.0)) + unit
    error = 1.0 / np.where(good, ratio, 1.0) / LN_PER_MAG
    return (np.where(good, x, np.nan) for x in (-log_flux / LN_PER_MAG, error))  # pyright: ignore


def _error_nodes(mag: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median errors at `ERRORS` magnitudes, of stars of similar brightness."""
    order = np.argsort(mag)[: np.isfinite(mag).sum()]
    groups = np.array_split(order, min(ERRORS, order.size))
    at = [np.median(mag[g]) for g in groups]
    typical = [np.median(error[g]) for g in groups]
    more = ERRORS - len(groups)
    return np.append(at, at[-1] + np.arange(1, more + 1)), np.append(typical, typical[-1:] * more)
