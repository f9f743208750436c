"""What does a star cost that nothing fits?

    python benchmarks/misfits.py [--stars 1000]

Rows of a survey that are no single stars, beside ordinary ones (mock stars, 2 % photometry,
parallaxes to 0.05 mas) on three grids of 25 486, 208 352 and 725 196 models in 8 bands: random
colours (magnitudes from 8 to 22, errors from 0.01 % to 3 mag), a power law with emission lines (a
quasar), and stars of which every band is off by 0.3 mag (blends, galaxies). All are fitted at the
defaults, in memory, once to compile and once to be timed.
"""

import time
from typing import Any

import numpy as np
from _common import PS, TMASS, parse, parser, table, write

import brutax
from brutax.catalog import make_catalog
from brutax.fitting.mock import mock_catalog
from brutax.models import Status

GRIDS = ("mist_small", "mist_medium", "mist_large")
SKY = (90.0, 30.0)  # Galactic l, b [deg]
WAVELENGTH = np.array([0.48, 0.62, 0.75, 0.87, 0.96, 1.24, 1.65, 2.16])  # of the bands [micron]


def with_errors(mag: np.ndarray, err: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """A table of magnitudes with parallaxes that have nothing to do with them."""
    columns = {band: mag[:, k] for k, band in enumerate(PS + TMASS)}
    columns |= {f"{band}_err": err[:, k] for k, band in enumerate(PS + TMASS)}
    size = len(mag)
    plx = {"parallax": rng.normal(0.5, 1.0, size), "parallax_err": np.full(size, 0.05)}
    return columns | plx | {"l": np.full(size, SKY[0]), "b": np.full(size, SKY[1])}


def random_colours(size: int, rng: np.random.Generator) -> dict[str, Any]:
    mag = rng.uniform(8.0, 22.0, (size, 8))
    return with_errors(mag, np.exp(rng.uniform(np.log(1e-4), np.log(3.0), mag.shape)), rng)


def quasars(size: int, rng: np.random.Generator) -> dict[str, Any]:
    slope = rng.normal(-0.5, 0.3, (size, 1))  # of the flux per frequency
    mag = rng.uniform(16.0, 20.0, (size, 1)) - 2.5 * slope * np.log10(0.62 / WAVELENGTH)
    lines = np.where(rng.uniform(size=(size, 8)) < 0.3, rng.uniform(0.1, 0.5, (size, 8)), 0.0)
    return with_errors(mag - lines, np.full((size, 8), 0.02), rng)


def ordinary(grid: brutax.StarGrid, size: int) -> Any:
    mock = mock_catalog(grid, size, seed=1, coords=SKY, mag_limit=("PS_r", 18.0))
    return brutax.read_stars(mock, grid.bands)


def kinds(grid: brutax.StarGrid, size: int) -> dict[str, Any]:
    """Catalogues of each kind."""
    rng = np.random.default_rng(1)
    stars = ordinary(grid, size)
    off = stars.flux * 10 ** (-0.4 * rng.normal(0.0, 0.3, stars.flux.shape))
    blends = {"flux": off, "flux_err": 0.02 * off, "parallax": stars.parallax}
    blends |= {"parallax_err": stars.parallax_err, "coords": stars.coords}
    tables = {"random colours": random_colours(size, rng), "quasars": quasars(size, rng)}
    return {
        "ordinary": stars,
        **{k: brutax.read_stars(x, grid.bands, units="mag") for k, x in tables.items()},
        "0.3 mag off": make_catalog(bands=grid.bands, **blends),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--stars", type=int, default=1000)
    args = parse(arguments)
    results = {}
    for name in GRIDS:
        grid = brutax.StarGrid.read(args.shared / f"models/{name}.h5", bands=PS + TMASS)
        rows = {}
        for kind, stars in kinds(grid, args.stars).items():
            brutax.fit(stars, grid, progress=False)
            start = time.perf_counter()
            result = brutax.fit(stars, grid, progress=False)
            each = 1e3 * (time.perf_counter() - start) / args.stars
            first = rows.get("ordinary", {"ms per star": each})["ms per star"]
            rows[kind] = {"ms per star": each, "times an ordinary one": each / first}
            for flag in (Status.POOR_FIT, Status.LOW_ESS, Status.EXTENDED, Status.NO_MODELS):
                rows[kind][str(flag.name)] = int(np.sum((result["status"] & flag) != 0))
        results[name] = {"models": len(grid), "kinds": rows}
        print(f"{name}: {len(grid):,} models")
        table(("", *rows["ordinary"]), [(kind, *row.values()) for kind, row in rows.items()])
    write("misfits", {"stars": args.stars, "bands": PS + TMASS}, results)


if __name__ == "__main__":
    main()
