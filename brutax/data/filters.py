"""Names of photometric bands, as they appear in grid files, and their magnitude systems."""

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

# the order is part of the promise: files of offsets and old scripts rely on it
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


def band_system(name: str) -> str | None:
    """The magnitude system in which a band's survey publishes: "AB", "Vega", or None if unknown.

    This says what a *catalogue* usually holds. What a *grid* holds is stated by the grid file
    (attribute `band_system`); the public grids of brutus are AB in every band.
    """
    return _SYSTEMS.get(name.split("_", 1)[0])
