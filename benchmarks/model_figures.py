"""How good are the models inside brutax? Against the MIST tables, a MIST isochrone, M67, the Sun.

    python benchmarks/model_figures.py

Tracks and bolometric corrections are smooth functions fitted to the MIST v1.2 tables (Dotter 2016,
ApJS 222, 8; Choi et al. 2016, ApJ 823, 102). Two figures show what the fit lost at the nodes of the
tables; one compares with an isochrone that MIST itself made (v/vcrit = 0.4; ours do not rotate).
Members of M67 and the Sun test MIST as much as the fit.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from _common import PS, RESULTS, parse, parser, peak_rss_mb, save_figure, table, write

from brutax.models import Isochrone, StellarPop
from brutax.models.evolution.track_model import LOGG_SUN, LOGT_SUN, load_tracks
from brutax.models.photometry.bolometric import available_bands, load_bolometric
from brutax.plotting._style import ACCENT, FAINT, INK, LABELS, pyplot, style

PHASES = {
    "all": (202, 808), "main sequence": (202, 453), "subgiant, giant": (454, 604),
    "helium flash": (605, 630), "core helium": (631, 706), "asymptotic": (707, 808),
}  # fmt: skip
EEP = np.arange(202, 809)
QUANTILES = {"median": 0.5, "95 %": 0.95, "99 %": 0.99}
TEFF_RANGE = (3000.0, 15000.0)  # K, over which bands are summed up
SHOWN = {"SDSS_u": "C0", "PS_g": INK, "Gaia_G_EDR3": ACCENT, "2MASS_Ks": FAINT}
# between 836 pc of the main sequence (An et al. 2007) and 889 pc of Gaia DR2 (Cantat-Gaudin et al.
# 2020); A_V = 3.1 E(B-V), E(B-V) = 0.041 (Taylor 2007)
M67 = {"feh": 0.0, "loga": np.log10(4e9), "dist": 860.0, "av": 0.13, "rv": 3.1}
PARALLAX_SNR = 5.0
GAIA = tuple(f"Gaia_{x}_DR2Rev" for x in ("G", "BP", "RP"))  # as published in DR2

SUN = {  # value, error; Vega magnitudes, SDSS in AB
    "M_V": (4.81, 0.03),  # Willmer 2018, ApJS 236, 47
    "M_G": (4.67, 0.02),  # Casagrande & VandenBerg 2018, MNRAS 479, L102
    "BP-RP": (0.82, 0.02),  # the same
    "B-V": (0.653, 0.005),  # Ramirez et al. 2012, ApJ 752, 5
    "g-r": (0.46, 0.03),  # Willmer 2018
    "J-Ks": (0.362, 0.029),  # Casagrande et al. 2012, ApJ 761, 16
}


def spread(gap: np.ndarray) -> dict[str, float]:
    """Quantiles of absolute differences."""
    return {name: np.nanquantile(np.abs(gap), q) for name, q in QUANTILES.items()}


def report(title: str, rows: dict[str, Any]) -> None:
    """Prints quantiles of {row: {column: quantiles}}."""
    columns = [(c, q) for c in next(iter(rows.values())) for q in ("median", "99 %")]
    values = [(k, *(v[c][q] for c, q in columns)) for k, v in rows.items()]
    table((title, *(f"{c}, {q}" for c, q in columns)), values)


def by_phase(title: str, gaps: dict[str, np.ndarray], eep: np.ndarray) -> dict[str, Any]:
    """Quantiles of absolute differences (point,) [dex, mag] in each phase of evolution."""
    some = {phase: (eep >= low) & (eep <= high) for phase, (low, high) in PHASES.items()}
    out = {k: {name: spread(gap[at]) for name, gap in gaps.items()} for k, at in some.items()}
    report(title, out)
    return out


def mist_tracks(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masses, [Fe/H], and log10 of age [yr], L [Lsun], Teff [K] at EEP 202-808, (m, e, f, 3)."""
    with h5py.File(path) as file:
        mini, feh, offset = (file[n][:] for n in ("mini", "feh_init", "offset"))
        columns = [file[n][:] for n in ("age_gyr", "radius_rsun", "teff_k")]
    some = (mini > 0.1 - 1e-6) & (mini < 3.0 + 1e-6)
    start, count = offset[:, some].T[:, :, None, :]  # (mass, 1, [Fe/H])
    exists = EEP[:, None] <= count
    row = np.where(exists, start + EEP[:, None] - 1, 0)
    age, radius, teff = (np.where(exists, np.log10(x[row]), np.nan) for x in columns)
    return mini[some], feh, np.stack([age + 9, 2 * radius + 4 * (teff - LOGT_SUN), teff], -1)


def tracks(path: Path) -> dict[str, Any]:
    """Residuals of the tracks at every node where they claim to hold."""
    mini, feh, mist = mist_tracks(path)
    ours = jax.device_get(load_tracks().lattice(*(jnp.asarray(x, float) for x in (mini, EEP, feh))))
    exists = np.isfinite(mist).all(axis=-1)
    use = exists & ours.valid
    eep = np.broadcast_to(EEP[:, None], use.shape)[use]
    gap = np.stack([ours.loga, ours.logl, ours.logt], axis=-1)[use] - mist[use]
    out = by_phase("tracks", dict(zip(("log age", "log L", "log Teff"), gap.T)), eep)

    fig, axes = pyplot().subplots(2, 3, figsize=(9, 6.2), sharex=True, sharey=True)
    names = ("log L", "log Teff", "log age")
    for (what, q), row in zip((("median", 0.5), ("99 %", 0.99)), axes):
        for ax, k, label in zip(row, (1, 2, 0), names):
            hexes = ax.hexbin(
                *mist[use][:, [2, 1]].T, np.abs(gap[:, k]), gridsize=40, mincnt=5, norm="log",
                reduce_C_function=lambda x, q=q: np.quantile(x, q), vmin=1e-5, vmax=1e-1,
            )  # fmt: skip
            ax.set_title(f"{label}: {what}", fontsize=10)
    axes[0, 0].invert_xaxis()
    fig.supxlabel(LABELS["logt"], fontsize=10)
    fig.supylabel(LABELS["logl"], fontsize=10)
    fig.colorbar(hexes, ax=axes, label="|brutax − MIST|  [dex]", extend="both", pad=0.01)
    fig.suptitle(r"Tracks, 0.1-3 $M_\odot$, EEP 202-808, [Fe/H] −4 to 0.5", fontsize=11)
    save_figure(fig, "models_tracks")
    return {"errors [dex]": out, "nodes": use.sum(), "covered": use.sum() / exists.sum()}


def atmospheres(bare: np.ndarray) -> np.ndarray:
    """Nodes that hold an atmosphere: beyond the last one along log g the tables repeat it."""
    same = np.all(np.diff(bare, axis=1) == 0, axis=-1)  # ([Fe/H], log g - 1, Teff)
    edge = np.zeros_like(same[:, :1])
    below = np.concatenate([np.logical_and.accumulate(same, axis=1), edge], axis=1)
    above = np.logical_and.accumulate(same[:, ::-1], axis=1)[:, ::-1]
    return ~below & ~np.concatenate([edge, above], axis=1)


def bands(path: Path) -> dict[str, Any]:
    """Residuals of bolometric corrections without dust at the nodes that hold atmospheres."""
    names = available_bands()
    with h5py.File(path) as file:
        feh, logg, teff = (file[n][:] for n in ("feh", "logg", "teff"))
        heavy, cool = (logg >= -1.0) & (logg <= 6.0), teff <= 50_000.0
        bare = np.stack([file["bc"][b][0] for b in names], axis=-1)[:, heavy][:, :, cool]
        derived = [b for b in names if file["bc"][b].attrs["derived"]]
    nodes = np.stack(np.meshgrid(feh, logg[heavy], teff[cool], indexing="ij"), axis=-1)
    nodes, true = nodes[some := atmospheres(bare)], bare[some]
    true = np.where((true < -90.0) | (true == 0.0), np.nan, true)  # tables write -99, W146 also 0
    at = (jnp.asarray(x) for x in (np.log10(nodes[:, 2]), nodes[:, 1], nodes[:, 0]))
    gap = 1e3 * (np.asarray(jax.jit(jax.vmap(load_bolometric(names).bare))(*at), float) - true)
    hot = nodes[:, 2] > TEFF_RANGE[1]
    usual = ~hot & (nodes[:, 2] >= TEFF_RANGE[0])
    held = json.loads((RESULTS / "bolometric_accuracy.json").read_text())["held out"]
    rows = {
        b: {"nodes of the fit": spread(x[usual]), "hotter nodes": spread(x[hot]),
            "held-out nodes": dict(zip(QUANTILES, held[b]["A_V 0 [mmag]"]))}
        for b, x in zip(names, gap.T)
    }  # fmt: skip
    report("bands [mmag]", rows)

    fig, (ax, right) = pyplot().subplots(1, 2, figsize=(9.5, 7))
    place = np.arange(len(names))
    for label, color, shift in (("nodes of the fit", INK, -0.15), ("held-out nodes", ACCENT, 0.15)):
        low, high = ([rows[b][label][q] for b in names] for q in ("median", "99 %"))
        ax.hlines(place + shift, low, high, color=color, lw=0.6, alpha=0.5)
        ax.plot(low, place + shift, "o", ms=3.5, color=color, label=f"{label}: median")
        ax.plot(high, place + shift, "o", ms=3.5, mfc="w", color=color, label="99 %")
    ax.set_yticks(place, [f"{b} *" if b in derived else b for b in names], fontsize=7)
    ax.set(xscale="log", ylim=(len(names) - 0.3, -4.5), xlabel="|brutax − MIST|  [mmag]")
    ax.set_title("3000-15 000 K, no dust (* derived from SDSS bands)", fontsize=10)
    ax.legend(loc="upper right", ncols=2, fontsize=8)
    for band, color in SHOWN.items():
        parts = [spread(gap[nodes[:, 2] == t, names.index(band)]) for t in teff[cool]]
        for q, line in (("median", "-"), ("99 %", ":")):
            y = [part[q] for part in parts]
            right.plot(teff[cool], y, line, color=color, lw=1.2, label=f"{band}: {q}")
    right.axvspan(*TEFF_RANGE, color=FAINT, alpha=0.15, lw=0)
    right.set(xscale="log", yscale="log", xlim=(2300, 54000), ylim=(0.05, 9000))
    right.set(xlabel=r"$T_{\rm eff}$  [K]", ylabel="|brutax − MIST|  [mmag]")
    right.set_title("nodes of the fit, by temperature", fontsize=10)
    right.set_xticks(ticks := [2500, 5000, 10000, 20000, 50000], map(str, ticks))
    right.minorticks_off()
    right.legend(loc="upper center", fontsize=8, ncols=2)
    save_figure(fig, "models_bands")
    lost = dict(zip(names, np.isnan(true).sum(axis=0)))
    return {"errors [mmag]": rows, "derived": derived, "nodes without a value": lost}


def isochrone(path: Path) -> dict[str, Any]:
    """The isochrone of MIST and ours, at equal EEP; and its stars seen through our bands."""
    given = np.loadtxt(path)
    given = given[(given[:, 0] >= EEP[0]) & (given[:, 0] <= EEP[-1])]
    pop = StellarPop(Isochrone(verbose=False), PS, verbose=False)
    where = {"feh": -1.35, "loga": np.log10(12e9), "dist": 10.0, "mini_bound": 0.1}
    mag, star, _ = pop.get_seds(eep=given[:, 0], apply_corr=False, **where)
    both = np.isfinite(mag).all(axis=1)
    given, mag, star = given[both], mag[both], {k: v[both] for k, v in star.items()}
    eep, mini, logt, logg, logl, mist = *given[:, [0, 2, 4, 5, 6]].T, given[:, 9:14]
    look = jax.vmap(pop.photometry.source.magnitudes, (0, 0, 0, None, None, None))
    seen = np.asarray(look(*map(jnp.asarray, (logl, logt, logg, where["feh"], 0.0, 3.1))), float)
    color, mist_color, seen_color = (m[:, 0] - m[:, 2] for m in (mag, mist, seen))
    gaps = {
        "log mass": np.log10(star["mini"] / mini), "log L": star["logl"] - logl,
        "log Teff": star["logt"] - logt, "PS_i": mag[:, 2] - mist[:, 2], "g-i": color - mist_color,
        "PS_i, same stars": seen[:, 2] - mist[:, 2], "g-i, same stars": seen_color - mist_color,
    }  # fmt: skip
    out = by_phase("isochrone", gaps, eep)
    ms = eep <= PHASES["main sequence"][1]
    at_mass = np.interp(mini[ms], star["mini"][ms], star["logl"][ms])
    at_mag = np.interp(-mist[ms, 2], -mag[ms, 2], color[ms])
    dwarfs = {"log L at equal mass": spread(at_mass - logl[ms]),
              "g-i at equal PS_i": spread(at_mag - mist_color[ms])}  # fmt: skip
    report("", {"main sequence": dwarfs})

    fig, ((hr, cmd), lower) = pyplot().subplots(2, 2, figsize=(10, 7.5), height_ratios=(2, 1))
    for ax, x, y, own_x, own_y in ((hr, logt, logl, star["logt"], star["logl"]),
                                   (cmd, mist_color, mist[:, 2], color, mag[:, 2])):  # fmt: skip
        ax.plot(x, y, color=INK, lw=3, alpha=0.35, label="MIST, v/vcrit = 0.4")
        ax.plot(own_x, own_y, color=ACCENT, lw=1, label="brutax, v/vcrit = 0")
    hr.set(xlabel=LABELS["logt"], ylabel=LABELS["logl"], xlim=(3.83, 3.53))
    cmd.set(xlabel="PS1 g − i  [mag]", ylabel=r"$M_i$, PS1  [mag]", ylim=(12.5, -4))
    hr.legend(loc="upper left", fontsize=9)
    shown = (("log L", "log Teff", "log mass"), ("PS_i", "g-i", "g-i, same stars"))
    for ax, names, unit in zip(lower, shown, ("dex", "mag")):
        for name, shade in zip(names, (INK, ACCENT, FAINT)):
            ax.plot(eep, gaps[name], color=shade, lw=1, label=name)
        ax.axhline(0, color=INK, lw=0.5)
        ax.set_yscale("symlog", linthresh=0.01)
        ax.set(xlabel="EEP", ylabel=f"brutax − MIST  [{unit}]", ylim=(-0.5, 0.5))
        ax.legend(fontsize=8, ncols=3, loc="lower center")
    fig.suptitle("12 Gyr, [Fe/H] = −1.35; below: differences at equal EEP", fontsize=11)
    save_figure(fig, "models_isochrone")
    return {"at equal EEP [dex, mag]": out, "main sequence [dex, mag]": dwarfs}


def ridge(x: np.ndarray, width: float = 0.06) -> tuple[float, int, int]:
    """Median of the stars within `width` of it, single ones (binaries are redder), and counts."""
    centre = np.quantile(x, 0.3)
    for _ in range(50):
        centre = np.median(x[np.abs(x - centre) < width])
    return centre, int(np.sum(np.abs(x - centre) < width)), x.size


def m67(path: Path) -> dict[str, Any]:
    """Members in two colour-magnitude diagrams, and how far single ones lie from the isochrone."""
    from astropy.table import Table

    source = Table.read(path)
    names = ("PS_g", "PS_i", *GAIA)
    wanted = (*names, "HDBscan_MemProb", "Parallax", "Parallax_Err")
    star = {n: np.ma.filled(np.ma.asarray(source[n], float), np.nan) for n in wanted}
    member = star["HDBscan_MemProb"] > 0.5
    member &= star["Parallax"] > PARALLAX_SNR * star["Parallax_Err"]
    pop = StellarPop(Isochrone(verbose=False), names, verbose=False)
    models = {}
    for label, corrected in (("MIST as it is", False), ("empirical corrections", True)):
        pair = pop.get_seds_smf_grid([0, 1], eep=EEP, mini_bound=0.1, apply_corr=corrected, **M67)
        models[label] = [dict(zip(names, mag.T)) for mag, *_ in pair]

    fig, axes = pyplot().subplots(1, 2, figsize=(10, 6))
    out, columns = {"members": member.sum()}, ("offset", "single", "stars")
    for ax, blue, red, bright, (title, label_y, xlim, ylim) in (
        (axes[0], "PS_g", "PS_i", "PS_g", ("g − i", "PS1 g", (0.2, 2.7), (20.5, 12.0))),
        (axes[1], *GAIA[1:], GAIA[0], ("BP − RP", "Gaia DR2 G", (0.4, 2.9), (19.5, 9.5))),
    ):
        mag, color = star[bright][member], (star[blue] - star[red])[member]
        seen = np.isfinite(mag) & np.isfinite(color)
        ax.plot(color, mag, ".", ms=4, color=FAINT, label=f"{seen.sum()} members")
        for (label, (one, pair)), line in zip(models.items(), (":", "-")):
            x, y = one[blue] - one[red], one[bright]
            ax.plot(x, y, line, color=ACCENT, lw=1.2, label=f"isochrone, {label}")
            dwarf = (EEP < 400) & np.isfinite(y)
            off = (color - np.interp(mag, y[dwarf][::-1], x[dwarf][::-1]))[seen]
            slices = {f"{k}-{k + 1}": ridge(off[np.floor(mag[seen]) == k]) for k in range(14, 19)}
            slices = {k: dict(zip(columns, x)) for k, x in slices.items() if x[1] >= 10}
            out[f"{title}, {label}"] = slices
            table((f"{title}, {label}", *columns), [(k, *v.values()) for k, v in slices.items()])
            x, y = pair[blue] - pair[red], np.where(EEP <= 440, pair[bright], np.nan)
            if line == "-":  # to the turn-off
                ax.plot(x, y, "--", color=INK, lw=0.9, label="the same, two equal stars")
        ax.set(xlim=xlim, ylim=ylim, xlabel=f"{title}  [mag]", ylabel=f"{label_y}  [mag]")
        ax.legend(fontsize=8, loc="lower left")
    fig.suptitle("M67: 4 Gyr, [Fe/H] = 0.0, 860 pc, A$_V$ = 0.13", fontsize=11)
    save_figure(fig, "models_m67")
    return out


def sun() -> dict[str, Any]:
    """Magnitudes of a star with the L, Teff and log g of the Sun."""
    names = ("Bessell_V", "Gaia_G_EDR3", "Gaia_BP_EDR3", "Gaia_RP_EDR3", "Bessell_B", "SDSS_g",
             "SDSS_r", "2MASS_J", "2MASS_Ks")  # fmt: skip
    at = (jnp.asarray(x) for x in (0.0, LOGT_SUN, LOGG_SUN, 0.0, 0.0, 3.1))
    v, g, bp, rp, b, sdss_g, sdss_r, j, ks = np.asarray(load_bolometric(names).magnitudes(*at))
    ours = (v, g, bp - rp, b - v, sdss_g - sdss_r, j - ks)
    columns = ("model", "literature", "error")
    rows = {k: dict(zip(columns, (x, *SUN[k]))) for k, x in zip(SUN, ours)}
    table(("Sun [mag]", *columns), [(k, *row.values()) for k, row in rows.items()])
    return rows


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["figure.constrained_layout.use"] = True
    args = parse(parser(__doc__))
    models = args.shared / "models"
    with style():
        results = {"tracks": tracks(models / "mist_eep_tracks_vvcrit0.0.h5"),
                   "bands": bands(models / "mist_bc_tables_fixedfeh.h5"),
                   "isochrone": isochrone(next(models.glob("MIST_iso_*_feh-1.35_12Gyr.iso.cmd"))),
                   "m67": m67(args.shared / "observed/NGC_2682.fits"), "sun": sun()}  # fmt: skip
    settings = {"bands_teff_k": TEFF_RANGE, "parallax_snr": PARALLAX_SNR, "m67": M67}
    write("model_figures", settings, results | {"peak_rss_mb": peak_rss_mb()})


if __name__ == "__main__":
    main()
