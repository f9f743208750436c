"""Names of photometric bands, as they appear in grid files, and their magnitude systems."""

from collections.abc import Sequence

gaia = ["Gaia_G_MAW", "Gaia_BP_MAWf", "Gaia_RP_MAW"]
sdss = ["SDSS_u", "SDSS_g", "SDSS_r", "SDSS_i", "SDSS_z"]
ps = ["PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "PS_w", "PS_open"]
decam = ["DECam_u", "DECam_g", "DECam_r", "DECam_i", "DECam_z", "DECam_Y"]
bessell = ["Bessell_U", "Bessell_B", "Bessell_V", "Bessell_R", "Bessell_I"]
tmass = ["2MASS_J", "2MASS_H", "2MASS_Ks"]
vista = ["VISTA_Z", "VISTA_Y", "VISTA_J", "VISTA_H", "VISTA_Ks"]
ukidss = ["UKIDSS_Z", "UKIDSS_Y", "UKIDSS_J", "UKIDSS_H", "UKIDSS_K"]
wise = ["WISE_W1", "WISE_W2", "WISE_W3", "WISE_W4"]
tycho = ["Tycho_B", "Tycho_V"]
hipp = ["Hipparcos_Hp"]
kepler = ["Kepler_D51", "Kepler_Kp"]
tess = ["TESS"]

# all bands of brutus' grids; files of offsets and old scripts depend on the order
FILTERS = (
    gaia
    + sdss
    + ps
    + decam
    + bessell
    + tmass
    + vista
    + ukidss
    + wise
    + tycho
    + hipp
    + kepler
    + tess
)

_SYSTEMS = {
    "SDSS": "AB",
    "PS": "AB",
    "DECam": "AB",
    "GALEX": "AB",
    "Kepler": "AB",
    "Gaia": "Vega",
    "2MASS": "Vega",
    "VISTA": "Vega",
    "UKIDSS": "Vega",
    "WISE": "Vega",
    "Bessell": "Vega",
    "Tycho": "Vega",
    "Hipparcos": "Vega",
    "TESS": "Vega",
}


# short names, as catalogues and brutus' documentation write them
_SHORT = {
    "u": ("SDSS_u",),
    "g": ("Gaia_G_EDR3", "PS_g", "SDSS_g"),
    "r": ("PS_r", "SDSS_r"),
    "i": ("PS_i", "SDSS_i"),
    "z": ("PS_z", "SDSS_z"),
    "y": ("PS_y",),
    "bp": ("Gaia_BP_EDR3",),
    "rp": ("Gaia_RP_EDR3",),
    "j": ("2MASS_J",),
    "h": ("2MASS_H",),
    "ks": ("2MASS_Ks",),
    **{f"w{k}": (f"WISE_W{k}",) for k in "1234"},
}


def full_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of bands in full: `g, r, i, z, y` are Pan-STARRS, `bp, g, rp, j, h, ks` Gaia and 2MASS.

    A letter that several surveys use is resolved by the others: `bp` or `rp` make `g` Gaia's,
    `y` makes `g, r, i, z` those of Pan-STARRS, `u` those of SDSS. Raises `ValueError` with the
    candidates where that does not decide. Names that are not short are left as they are.
    """
    short = {name.lower() for name in names}
    marks = {"Gaia": short & {"bp", "rp"}, "PS": short & {"y"}, "SDSS": short & {"u"}}
    out = []
    for name in names:
        bands = _SHORT.get(name.lower(), (name,))
        meant = [band for band in bands if len(bands) == 1 or marks[band.split("_")[0]]]
        if len(meant) != 1:
            raise ValueError(
                f"band {name!r} may be {' or '.join(bands)}: give the full name (with 'bp' or 'rp' "
                "beside it g is Gaia's, with 'y' Pan-STARRS', with 'u' SDSS')"
            )
        out += meant
    return tuple(out)


def band_system(name: str) -> str | None:
    """The magnitude system in which a band's survey publishes: "AB", "Vega", or None if unknown.

    This is what a *catalogue* usually holds. What a *grid* holds is stated by the grid file
    (attribute `band_system`); the public grids of brutus are AB in every band.

        band_system("2MASS_Ks")  # "Vega"
    """
    return _SYSTEMS.get(name.split("_", 1)[0])
