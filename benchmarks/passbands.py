"""Bands predicted from their transmission curves, beside the same bands of the tables.

    python benchmarks/passbands.py

Every curve of SDSS, PS1, 2MASS, WISE and Gaia whose band is inside brutax is predicted from the
anchors (`brutax.models.photometry.passbands`) and compared with that band: magnitudes at A_V = 0,
extinction at A_V = 1, R_V = 3.1, with the curve of the tables (CCM89) and with the default (F99),
which adds the choice of one wavelength per band (effective in the tables, pivot for curves). A band
that is an anchor is predicted with all anchors, and with that one left out: this is what a new band
meets.
Stars: nodes of 3500-15 000 K, log g 0-5.5, [Fe/H] -2 to 0.5 with an atmosphere. AB magnitudes of
Vega are by synthetic photometry of alpha_lyr_stis_005 (Bohlin et al. 2014, PASP 126, 711); beside
them those of Vega's spectrum as rebuilt from the anchors.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _common import parse, parser, table, write

from brutax.models.photometry.bolometric import Bolometric, load_bolometric
from brutax.models.photometry.passbands import ANCHORS, Passband, Spectra, law_ratios, predict_bands
from brutax.models.spline import TensorSpline

FILES = {f"SDSS_{x}": f"sdss_{x}0.par" for x in "ugriz"}
FILES |= {f"PS_{x}": f"panstarrs_{x}.par" for x in "grizy"}
FILES |= {f"2MASS_{x}": f"twomass_{x}.par" for x in ("J", "H", "Ks")}
FILES |= {f"WISE_W{x}": f"wise_w{x}.par" for x in "1234"}
FILES |= {f"Gaia_{x}_DR2Rev": f"gaia_{x.lower()}_dr2rev.par" for x in ("G", "BP", "RP")}
FILES |= {"Gaia_G_EDR3": "GAIA.GAIA3.G.xml"}
FILES |= {f"Gaia_{x}P_EDR3": f"GAIA.GAIA3.G{x.lower()}p.xml" for x in "BR"}
COOL = 5000.0  # [K]: below, molecules carve the spectra
LIGHT = 2.99792458e18  # [angstrom / s]


def read_curve(path: Path, name: str, system: str) -> Passband:
    """A curve of the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units of VOTables written in other letters
        return Passband.read(path, name, system=system)


def from_curves(curves: Sequence[Passband], anchors: Sequence[str]) -> Bolometric:
    """Bolometric corrections of curves from some anchors, with the curve of the tables."""
    known = load_bolometric(anchors, law="CCM89")
    new = predict_bands(curves, known.bare, known.dust, anchors, "CCM89")
    return dataclasses.replace(
        known,
        bare=TensorSpline(known.bare.knots, new.bare),
        dust=TensorSpline(known.dust.knots, new.dust.reshape(*new.dust.shape[:3], -1)),
        law_ratio=jnp.asarray(new.law_ratio, float),
        bands=tuple(one.name for one in curves),
        systems=tuple(one.system for one in curves),
    )


def stars(model: Bolometric) -> np.ndarray:
    """(star, 3): log10 Teff, log g, [Fe/H] of nodes with atmospheres."""
    logt = np.asarray(model.logt_nodes, float)
    logt = logt[(logt >= np.log10(3499.0)) & (logt <= np.log10(15001.0))]
    lattice = np.meshgrid(logt, np.arange(0, 5.6, 0.5), np.arange(-2, 0.6, 0.25), indexing="ij")
    out = np.stack([x.ravel() for x in lattice], axis=1)
    return out[np.asarray(jax.vmap(model.valid)(*jnp.asarray(out, float).T))]


def look(model: Bolometric, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes of stars of one bolometric magnitude and extinction at A_V = 1, (star, band)."""
    av, rv = jnp.asarray([0.0, 1.0]), jnp.asarray(3.1)
    both = jax.vmap(lambda x, a: -model(*x, a, rv), (None, 0))
    seen = jax.lax.map(lambda x: both(x, av), jnp.asarray(at, float), batch_size=1000)
    bare, dusty = np.moveaxis(np.asarray(seen, float), 1, 0)
    return bare, dusty - bare


def summary(gap: np.ndarray) -> dict[str, float]:
    """Differences [mmag]: the median, and |difference| without and with it."""
    middle = np.median(gap)
    after, before = (1e3 * np.quantile(np.abs(x), (0.5, 0.99)) for x in (gap - middle, gap))
    names = ("offset", "median", "99 %", "median with offset", "99 % with offset")
    return dict(zip(names, (1e3 * middle, *after, *before)))


def vega_in(band: Passband, wave: np.ndarray, flux: np.ndarray) -> float:
    """AB magnitude of a spectrum [erg / s / cm² / angstrom] through a band."""
    x = np.union1d(wave, band.wavelength)
    through = np.interp(x, band.wavelength, band.photons, left=0.0, right=0.0)
    light = np.trapezoid(np.interp(x, wave, flux) * through * x, x)
    return float(-2.5 * np.log10(light / np.trapezoid(LIGHT * through / x, x)) - 48.6)


def main() -> None:
    args = parse(parser(__doc__))
    from astropy.io import fits

    folder, every = args.shared / "filters", tuple(ANCHORS)
    ccm, f99 = (load_bolometric(tuple(FILES), law=law) for law in ("CCM89", "F99"))
    curves = [read_curve(folder / FILES[b], b, s) for b, s in zip(f99.bands, f99.systems)]
    at = stars(f99)
    cool = at[:, 0] < np.log10(COOL)
    (bare, dust), (_, dust_f99) = look(ccm, at), look(f99, at)
    todo = [("all anchors", curves, every)]
    for one in (curve for curve in curves if curve.name in ANCHORS):
        todo.append(("left out", [one], tuple(name for name in every if name != one.name)))
    bands, vega = {name: {} for name in FILES}, {}
    for kind, some, anchors in todo:
        model = from_curves(some, anchors)
        new, red = look(model, at)
        ratio = jnp.asarray(law_ratios(np.array([one.pivot for one in some]), "F99"), float)
        red_f99 = look(dataclasses.replace(model, law_ratio=ratio), at)[1]
        for k, b in enumerate(f99.bands.index(one.name) for one in some):
            bands[f99.bands[b]][kind if f99.bands[b] in ANCHORS else "no anchor"] = {
                "A_V 0": summary(new[:, k] - bare[:, b]),
                f"A_V 0, below {COOL:g} K": summary((new[:, k] - bare[:, b])[cool]),
                "A CCM89": summary(red[:, k] - dust[:, b]),
                "A F99": summary(red_f99[:, k] - dust_f99[:, b]),
            }
    print(f"{len(at)} stars, {cool.sum()} below {COOL:g} K; prediction - table [mmag]: offset,")
    print("then |difference| without (with) it at A_V = 0; with it for the extinction at A_V = 1")
    rows = []
    for name, kind, row in ((b, k, row) for b, kinds in bands.items() for k, row in kinds.items()):
        mag, *others = (list(part.values()) for part in row.values())
        numbers = [*mag, *others[0][1:3], *others[1][3:], *others[2][3:]]
        rows.append((name, kind, *(f"{x:.1f}" for x in numbers)))
    head = ("offset", "median", "99 %", "(median)", "(99 %)", f"<{COOL:g} K", "99 %")
    table(("band", "", *head, "A CCM89", "99 %", "A F99", "99 %"), rows)

    spectrum = fits.getdata(folder / "alpha_lyr_stis_005.fits")
    wave, flux = (np.asarray(spectrum[n], float) for n in ("WAVELENGTH", "FLUX"))
    for curve in (dataclasses.replace(curve, system="Vega") for curve in curves):
        rebuilt = Spectra(np.array([1e4]), np.zeros((1, len(every))), every, curve).vega
        row = {"pivot": curve.pivot, "spectrum": vega_in(curve, wave, flux), "rebuilt": rebuilt}
        if curve.name in ANCHORS:
            row |= {"module": ANCHORS[curve.name].vega, "module pivot": ANCHORS[curve.name].pivot}
        vega[curve.name] = row
    head = ("pivot", "module pivot", "spectrum", "module", "rebuilt")
    cells = [(b, *(f"{r[c]:.3f}" if c in r else "" for c in head)) for b, r in vega.items()]
    table(("Vega [AB mag]", *head), cells)
    settings = {"stars": len(at), f"below {COOL:g} K": int(cool.sum()), "rv": 3.1, "unit": "mmag"}
    write("passbands", settings, {"bands": bands, "vega": vega})


if __name__ == "__main__":
    main()
