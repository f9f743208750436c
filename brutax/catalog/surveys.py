"""Column names and band names of the common surveys."""

import re
from typing import NamedTuple

GAIA = {
    "g": ("Gaia_G_EDR3", "Gaia_G_DR2Rev", "Gaia_G_MAW"),
    "bp": ("Gaia_BP_EDR3", "Gaia_BP_DR2Rev", "Gaia_BP_MAWf"),
    "rp": ("Gaia_RP_EDR3", "Gaia_RP_DR2Rev", "Gaia_RP_MAW"),
}
# the bands that are recognised when no grid is named, the newest calibration of Gaia only
DEFAULT_BANDS = (
    *(names[0] for names in GAIA.values()),
    *(f"SDSS_{x}" for x in "ugriz"),
    *(f"PS_{x}" for x in ("g", "r", "i", "z", "y", "w", "open")),
    *(f"DECam_{x}" for x in "ugrizY"),
    *(f"Bessell_{x}" for x in "UBVRI"),
    *(f"2MASS_{x}" for x in ("J", "H", "Ks")),
    *(f"VISTA_{x}" for x in ("Z", "Y", "J", "H", "Ks")),
    *(f"UKIDSS_{x}" for x in "ZYJHK"),
    *(f"WISE_W{x}" for x in "1234"),
    *("Tycho_B", "Tycho_V", "Hipparcos_Hp", "Kepler_D51", "Kepler_Kp", "TESS"),
)
BAND_NAME = re.compile(
    r"Gaia_(G|BP|RP)(_\w+)?|"
    r"(SDSS|PS|DECam|Bessell|2MASS|VISTA|UKIDSS|WISE|Tycho|Hipparcos|Kepler|GALEX)_[A-Za-z]\w*"
)
# single letters may be bands of several systems, or no bands at all: they are never guessed
BARE = ("u", "g", "r", "i", "z", "y", "G", "BP", "RP", "U", "B", "V", "R", "I", "Z", "Y")
BARE += ("J", "H", "K", "Ks", "W1", "W2", "W3", "W4")

PARALLAX = ("parallax", "plx", "varpi", "parallax_mas", "parallax_obs")
GALACTIC = (("l", "b"), ("glon", "glat"), ("_glon", "_glat"), ("gal_l", "gal_b"))
GALACTIC += (("gal_lon", "gal_lat"), ("galactic_l", "galactic_b"))
EQUATORIAL = (("ra", "dec"), ("ra_icrs", "de_icrs"), ("_ra_icrs", "_de_icrs"))
EQUATORIAL += (("raj2000", "dej2000"), ("_raj2000", "_dej2000"), ("ra_j2000", "dec_j2000"))
EQUATORIAL += (("ramean", "decmean"), ("ra_deg", "dec_deg"))
SOURCE_ID = ("source_id", "sourceid", "gaia_dr3_id", "gaia_edr3_id", "gaia_dr2_id", "gaia_id")
SOURCE_ID += ("dr3_source_id", "dr2_source_id", "source", "gaiadr3", "gaiaedr3", "gaiadr2")
SOURCE_ID += ("obj_id", "objid", "object_id", "star_id", "id", "tic", "kic", "epic", "name")
SOURCE_ID += ("designation", "2mass")
VECTORS = ("mag", "mags", "magnitude", "magnitudes", "flux", "fluxes", "phot", "photometry")
VECTOR_ERRORS = ("err", "errs", "error", "errors", "magerr", "fluxerr", "err_mag", "err_flux")
STAR_KEYS = ("parallax", "parallax_err", "l", "b", "ra", "dec", "source_id", "photometry")
STAR_KEYS += ("photometry_err",)


class Alias(NamedTuple):
    """A column name of a survey: the bands it may be, and how its error is found."""

    bands: tuple[str, ...]  # of one quantity in order of preference, or of different surveys
    errors: tuple[str, ...] = ()  # error columns [mag], in order of preference
    over_error: tuple[str, ...] = ()  # columns with flux / error (Gaia: flux_over_error)
    fluxes: tuple[tuple[str, str], ...] = ()  # columns with flux, error
    ambiguous: bool = False


def _survey_aliases() -> dict[str, Alias]:
    table: dict[str, Alias] = {}
    for x, bands in GAIA.items():
        stem, short = f"phot_{x}_mean", x.upper()
        table[f"{stem}_mag"] = Alias(
            bands,
            (f"{stem}_mag_error", f"{stem}_mag_err", f"e_{stem}_mag"),
            (f"{stem}_flux_over_error",),
            ((f"{stem}_flux", f"{stem}_flux_error"),),
        )
        table[f"{short}mag"] = Alias(
            bands, (f"e_{short}mag",), (f"RF{short}",), ((f"F{short}", f"e_F{short}"),)
        )
    for x in "grizy":
        table[f"{x}MeanPSFMag"] = Alias((f"PS_{x}",), (f"{x}MeanPSFMagErr",))
        table[f"{x}_mean_psf_mag"] = Alias((f"PS_{x}",), (f"{x}_mean_psf_mag_error",))
    for x in "ugriz":
        table[f"psfMag_{x}"] = Alias((f"SDSS_{x}",), (f"psfMagErr_{x}",))
    for x in "ugrizy":
        systems = {"u": ("SDSS", "DECam"), "y": ("PS", "DECam")}.get(x, ("PS", "SDSS", "DECam"))
        bands = tuple(f"{s}_{x.upper() if (s, x) == ('DECam', 'y') else x}" for s in systems)
        table[f"{x}mag"] = Alias(bands, (f"e_{x}mag",), ambiguous=True)
    for x, band in (("j", "J"), ("h", "H"), ("k", "Ks"), ("ks", "Ks")):
        errors = tuple(f"{x}_{end}" for end in ("msigcom", "m_error", "m_err", "cmsig", "msig"))
        table[f"{x}_m"] = Alias((f"2MASS_{band}",), errors)
        table[f"{x.capitalize()}mag"] = Alias((f"2MASS_{band}",), (f"e_{x.capitalize()}mag",))
    for x in "1234":
        errors = (f"w{x}sigmpro", f"w{x}mpro_error", f"w{x}mpro_err", f"e_w{x}mpro")
        table[f"w{x}mpro"] = Alias((f"WISE_W{x}",), errors)
        table[f"W{x}mag"] = Alias((f"WISE_W{x}",), (f"e_W{x}mag",))
    table["BTmag"] = Alias(("Tycho_B",), ("e_BTmag",))
    table["VTmag"] = Alias(("Tycho_V",), ("e_VTmag",))
    table["Hpmag"] = Alias(("Hipparcos_Hp",), ("e_Hpmag",))
    return table


ALIASES = _survey_aliases()


def alias_of(column: str) -> Alias | None:
    if column in ALIASES:
        return ALIASES[column]
    same = [alias for name, alias in ALIASES.items() if name.lower() == column.lower()]
    if len(same) > 1:  # GMAG: Gaia's Gmag or gmag
        return Alias(tuple(b for alias in same for b in alias.bands), ambiguous=True)
    return same[0] if same else None
