"""Tables of stars in every format, with the names and units that surveys use."""

import gzip
import logging
import warnings

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table

from brutax.catalog import CatalogError, read_stars, resolve_bands
from brutax.models.stars import Status

GRID = ("PS_g", "PS_r", "PS_i", "2MASS_J", "2MASS_H", "2MASS_Ks", "Gaia_G_EDR3", "WISE_W1")
VECTOR = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")


@pytest.fixture
def stars():
    """Three stars; one lacks a band, one a parallax; identifiers beyond 2^53."""
    n = 3
    columns = {"source_id": np.array([2**53 + 1, 2**61 + 3, 7])}
    for i, band in enumerate(("PS_g", "PS_r", "PS_i", "2MASS_J")):
        columns[band] = 15.0 - 0.3 * i + np.arange(n)
        columns[f"{band}_err"] = 0.01 + 0.01 * np.arange(n)
    columns["PS_r"][1] = columns["PS_r_err"][1] = np.nan
    columns["parallax"] = np.array([1.5, np.nan, -0.2])
    columns["parallax_err"] = np.array([0.05, np.nan, 0.1])
    columns["l"], columns["b"] = np.array([10.0, 200.0, 359.9]), np.array([5.0, -60.0, 89.0])
    return columns


def same(one, two, rtol=1e-13):
    assert one.bands == two.bands
    assert one.source_id.dtype == two.source_id.dtype
    assert one.source_id.tolist() == two.source_id.tolist()
    for name in ("flux", "flux_err", "parallax", "parallax_err", "coords", "status"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=rtol, err_msg=name)


def write(table, path):
    """Writes a table in the format of the name."""
    if path.name == "arrow.parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(dict(table)), path)
    elif path.name == "group.h5":
        with h5py.File(path, "w") as file:
            for name in table.colnames:
                file[f"stars/{name}"] = np.asarray(table[name])
    elif path.suffix == ".h5":
        table.write(path, path="stars", serialize_meta=path.name == "meta.h5")
    elif path.suffix == ".tsv":
        table.write(path, format="ascii.tab")
    elif path.suffix == ".txt":
        table.write(path, format="ascii.commented_header")
    elif path.suffix == ".vot":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names like 2MASS_J are no XML identifiers
            table.write(path, format="votable")
    else:
        table.write(path)


FILES = ["a.csv", "a.tsv", "a.txt", "a.ecsv", "a.fits", "a.fits.gz", "a.vot", "a.parquet"]
FILES += ["arrow.parquet", "a.h5", "meta.h5", "group.h5"]


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_catalogue(stars, tmp_path, name):
    write(Table(stars), tmp_path / name)
    catalog = read_stars(tmp_path / name, GRID)
    same(catalog, read_stars(stars, GRID))
    assert catalog.bands == ("PS_g", "PS_r", "PS_i", "2MASS_J")
    assert catalog.source_id.tolist() == [2**53 + 1, 2**61 + 3, 7]
    assert list(catalog.n_bands) == [4, 3, 4] and catalog.status[1] == Status.FEW_BANDS


@pytest.mark.parametrize("name", ["a.ecsv", "a.fits", "a.vot", "a.parquet", "meta.h5"])
def test_units_of_the_file_are_used(stars, tmp_path, name):
    table = Table(stars)
    for band in ("PS_g", "PS_r", "PS_i"):
        table[band] = 3631e3 * 10 ** (-0.4 * table[band])
        table[f"{band}_err"] *= 0.4 * np.log(10) * table[band]
        table[band].unit = table[f"{band}_err"].unit = "mJy"
    table["parallax"] /= 1e3
    table["parallax"].unit = "arcsec"
    table["parallax_err"] *= 1e3
    table["parallax_err"].unit = "uas"
    table["l"], table["b"] = np.radians(table["l"]), np.radians(table["b"])
    table["l"].unit = table["b"].unit = "rad"
    write(table, tmp_path / name)
    same(read_stars(tmp_path / name, GRID), read_stars(stars, GRID), rtol=1e-12)


def test_tables_in_memory(stars):
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    expected = read_stars(stars, GRID)
    rows = np.rec.fromarrays(list(stars.values()), names=list(stars))
    frame = pandas.DataFrame(stars)
    some = [Table(stars), rows, np.asarray(rows), frame, frame.convert_dtypes()]
    for table in (*some, pyarrow.table(stars)):
        same(read_stars(table, GRID), expected)


def test_quantities_and_sky_coordinates(stars):
    table = QTable(stars)
    table["PS_g"] = stars["PS_g"] * u.ABmag
    table["PS_i"] = stars["PS_i"] * u.mag
    table["parallax"] = (stars["parallax"] * u.mas).to(u.arcsec)
    table["parallax_err"] = stars["parallax_err"] * u.mas
    table["sky"] = SkyCoord(stars["l"], stars["b"], unit="deg", frame="galactic").icrs
    table.remove_columns(["l", "b"])
    same(read_stars(table, GRID), read_stars(stars, GRID), rtol=1e-9)


def test_masked_values_are_missing(stars):
    table = Table(stars, masked=True)
    table["PS_i"].mask[2] = True
    table["parallax"].mask[0] = table["parallax_err"].mask[0] = True
    catalog = read_stars(table, GRID)
    assert np.isnan(catalog.flux[2, 2]) and np.isnan(catalog.parallax[0])
    assert list(catalog.status) == [0, Status.FEW_BANDS, Status.FEW_BANDS]
    table["source_id"].mask[1] = True
    with pytest.raises(CatalogError, match="lacks 1 identifiers"):
        read_stars(table, GRID)


def test_missing_values_of_text(stars, tmp_path):
    text = "source_id,PS_g,PS_g_err,PS_r,PS_r_err\n18446744073709551615,15.1,0.1,,\n"
    (tmp_path / "a.csv").write_text(text + "5,null,N/A,14.0,0.1\n", encoding="utf-8-sig")
    catalog = read_stars(tmp_path / "a.csv", GRID)
    np.testing.assert_array_equal(np.isfinite(catalog.flux), np.eye(2, dtype=bool))
    assert catalog.source_id.tolist() == [2**64 - 1, 5]


def test_null_identifiers_do_not_round_the_others(stars, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(stars)
    frame["source_id"] = pandas.array([2**61 + 1, None, 3], dtype="Int64")
    frame.to_parquet(tmp_path / "a.parquet")
    for table in (frame, tmp_path / "a.parquet"):
        with pytest.raises(CatalogError, match="lacks 1 identifiers"):
            read_stars(table, GRID)
        assert read_stars(table, GRID, source_id="row").source_id.tolist() == [0, 1, 2]


def names_of(catalog):
    return " | ".join(catalog.notes)


@pytest.mark.parametrize(
    ("band", "value", "error"),
    [
        *(("PS_g", "PS_g", error) for error in ("PS_g_Err", "PS_g_error", "e_PS_g", "err_PS_g")),
        *(("PS_g", "ps_g", error) for error in ("sigma_ps_g", "ps_g_sigma", "PS_g_unc")),
        ("2MASS_J", "_2MASS_J", "_2MASS_J_err"),
        ("2MASS_J", "_2MASS_J", "e_2MASS_J"),
        ("PS_g", "gMeanPSFMag", "gMeanPSFMagErr"),
        ("PS_g", "gmeanpsfmag", "gmeanpsfmagerr"),
        ("2MASS_J", "j_m", "j_msigcom"),
        ("2MASS_Ks", "ks_m", "ks_msigcom"),
        ("2MASS_Ks", "k_m", "k_msigcom"),
        ("2MASS_H", "Hmag", "e_Hmag"),
        ("2MASS_Ks", "Kmag", "e_Kmag"),
        ("SDSS_u", "psfMag_u", "psfMagErr_u"),
        ("WISE_W1", "w1mpro", "w1sigmpro"),
        ("WISE_W1", "w1mpro", "w1mpro_error"),
        ("WISE_W1", "W1mag", "e_W1mag"),
        ("Gaia_G_EDR3", "Gmag", "e_Gmag"),
        ("Gaia_G_EDR3", "phot_g_mean_mag", "phot_g_mean_mag_error"),
    ],
)
def test_names_of_surveys(band, value, error):
    table = {value: np.array([15.0, 16.0]), error: np.array([0.1, 0.2])}
    catalog = read_stars(table, (*GRID, "SDSS_u"))
    assert catalog.bands == (band,)
    np.testing.assert_allclose(catalog.flux[:, 0], 10 ** (-0.4 * table[value]), rtol=1e-13)
    mag_err = catalog.flux_err / catalog.flux / (0.4 * np.log(10))
    np.testing.assert_allclose(mag_err[:, 0], table[error], rtol=1e-12)
    assert f"{band} from {value}, error from {error}" in names_of(catalog)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (("Gaia_G_DR2Rev", "Gaia_G_EDR3"), "Gaia_G_EDR3"),
        (("PS_g", "Gaia_G_DR2Rev"), "Gaia_G_DR2Rev"),
        (("Gaia_G_MAW",), "Gaia_G_MAW"),
        (None, "Gaia_G_EDR3"),
    ],
)
def test_gaia_magnitude_errors_come_from_fluxes(grid, expected):
    flux, flux_err = np.array([1e4, 1e3]), np.array([100.0, 5.0])
    table = {"phot_g_mean_mag": np.array([15.0, 17.5])}
    ratio = read_stars(table | {"phot_g_mean_flux": flux, "phot_g_mean_flux_error": flux_err}, grid)
    snr = read_stars(table | {"phot_g_mean_flux_over_error": flux / flux_err}, grid)
    assert ratio.bands == snr.bands == (expected,)
    np.testing.assert_allclose(ratio.flux_err, snr.flux_err, rtol=1e-14)
    np.testing.assert_allclose(snr.flux[:, 0] / snr.flux_err[:, 0], flux / flux_err, rtol=1e-12)


def test_own_name_goes_before_survey_names(stars):
    table = stars | {"j_m": stars["2MASS_J"] + 1, "j_msigcom": stars["2MASS_J_err"]}
    catalog = read_stars(table, GRID)
    same(catalog, read_stars(stars, GRID))
    assert "column j_m not used" in names_of(catalog)
    other = read_stars(table, GRID, map={"2MASS_J": "j_m"})
    np.testing.assert_allclose(other.flux[:, 3], catalog.flux[:, 3] * 10**-0.4, rtol=1e-13)


def test_map_names_every_column(stars):
    renamed = {f"c{i}": values for i, values in enumerate(stars.values())}
    ours = {name: f"c{i}" for i, name in enumerate(stars)}
    same(read_stars(renamed, GRID, map=ours), read_stars(stars, GRID))


def test_bands_are_in_the_order_of_the_grid(stars):
    back = read_stars(dict(reversed(stars.items())), GRID[::-1])
    assert back.bands == ("2MASS_J", "PS_i", "PS_r", "PS_g")
    np.testing.assert_array_equal(back.flux[:, ::-1], read_stars(stars, GRID).flux)
    floor = np.where(np.array(GRID) == "PS_i", 0.05, 0.0)
    some = read_stars(stars, GRID, error_floor=floor, offsets={"PS_g": 2.0})
    same(some, read_stars(stars, GRID, error_floor={"PS_i": 0.05}, offsets={"PS_g": 2.0}))
    np.testing.assert_allclose(some.flux[:, 0], 2 * back.flux[:, 3], rtol=1e-14)


def test_bands_left_out(stars):
    for options in (dict(map={"PS_r": None}),):
        catalog = read_stars(stars, GRID, **options)
        assert catalog.bands == ("PS_g", "PS_i", "2MASS_J")
    assert read_stars(stars, "PS_g").bands == ("PS_g",)
    small = read_stars(stars, ("PS_g", "PS_r"))
    assert "not in the grid: PS_i, 2MASS_J" in small.notes


def test_notes_are_logged(stars, caplog):
    with caplog.at_level(logging.INFO, logger="brutax"):
        catalog = read_stars(stars, GRID)
    assert tuple(record.getMessage() for record in caplog.records) == catalog.notes
    assert "[mag, inferred from the values]" in names_of(catalog)
    assert "[mas, assumed]" in names_of(catalog)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("Jy", 1.0), ("mJy", 1e3), ("uJy", 1e6), ("nJy", 1e9), ("nanomaggies", 1e9 / 3631.0)]
    + [("W m-2 Hz-1", 1e-26), ("maggies", 1 / 3631.0)],
)
def test_fluxes_in_any_unit(stars, unit, scale):
    table = {name: stars[name] for name in stars if not name.startswith("2MASS")}
    expected = read_stars(table, GRID)
    for band in ("PS_g", "PS_r", "PS_i"):
        flux = scale * 3631 * 10 ** (-0.4 * table[band])
        table |= {band: flux, f"{band}_err": flux * 0.4 * np.log(10) * table[f"{band}_err"]}
    same(read_stars(table, GRID, units=unit), expected, rtol=1e-12)
    units = {band: unit for band in ("PS_g", "PS_r", "PS_i")}
    same(read_stars(table, GRID, units=units), expected, rtol=1e-12)


def test_jansky_only_with_an_ab_zero_point(stars):
    one = {"2MASS_J": np.array([1e-3]), "2MASS_J_err": np.array([1e-5])}
    with pytest.raises(CatalogError, match="its zero point is Vega, not AB"):
        read_stars(one, GRID, units="Jy")
    ab = read_stars(one, GRID, units="Jy", band_system={"2MASS_J": "AB"})
    np.testing.assert_allclose(ab.flux, 1e-3 / 3631, rtol=1e-14)
    with pytest.raises(CatalogError, match="AB magnitudes, the grid's 2MASS_J is in Vega"):
        read_stars(stars, GRID, units={"2MASS_J": "ABmag"})
    with pytest.raises(CatalogError, match="not known"):
        read_stars({"New_x": [1e-3], "New_x_err": [1e-4]}, ("New_x",), units="Jy")


def test_equatorial_is_galactic(stars):
    sky = SkyCoord(stars["l"], stars["b"], unit="deg", frame="galactic").icrs
    table = {name: stars[name] for name in stars if name not in "lb"}
    expected = read_stars(stars, GRID)
    both = {"ra": sky.ra.deg, "dec": sky.dec.deg}
    same(read_stars(table | both, GRID), expected, rtol=1e-9)
    hours = {"ra": sky.ra.hour, "dec": sky.dec.rad}
    units = {"ra": "hourangle", "dec": "rad"}
    same(read_stars(table | hours, GRID, units=units), expected, rtol=1e-9)
    text = {
        "RAJ2000": sky.ra.to_string("hour", sep=":", precision=9),
        "DEJ2000": sky.dec.to_string("deg", sep=" ", precision=8),
    }
    same(read_stars(table | text, GRID), expected, rtol=1e-9)
    # l, b go first; an upper-case B is no latitude
    wrong = {"ra": sky.ra.deg + 5, "dec": sky.dec.deg, "B": np.full(3, 15.0)}
    same(read_stars(stars | wrong, GRID), expected)
    half = both | {"dec": np.where([True, False, False], np.nan, sky.dec.deg)}
    assert read_stars(table | half, GRID).status[0] == Status.NO_COORDINATES


def test_identifiers(stars):
    assert read_stars(stars, GRID, source_id="row").source_id.tolist() == [0, 1, 2]
    named = stars | {"star": np.array(["a", "bb", "c"])}
    assert read_stars(named, GRID, source_id="star").source_id.tolist() == [b"a", b"bb", b"c"]
    large = stars | {"source_id": np.array([2**63, 2**63 + 1, 2**64 - 1], np.uint64)}
    assert read_stars(large, GRID).source_id.tolist() == large["source_id"].tolist()
    del large["source_id"]
    assert read_stars(large, GRID).source_id.tolist() == [0, 1, 2]


def test_vector_columns(stars):
    mag = np.stack([stars["PS_g"], stars["PS_i"], stars["2MASS_J"]], axis=1)
    err = np.stack([stars[f"{band}_err"] for band in ("PS_g", "PS_i", "2MASS_J")], axis=1)
    order = ("PS_g", "PS_i", "2MASS_J")
    rest = {name: stars[name] for name in ("source_id", "parallax", "parallax_err", "l", "b")}
    vectors = read_stars(rest | {"mag": mag, "err": err}, order)
    same(vectors, read_stars(stars, order))
    wide = read_stars(rest | {"mag": mag, "err": err}, GRID, vector_bands=order)
    same(wide, vectors)
    mapped = {"photometry": "x", "photometry_err": "y"}
    same(read_stars(rest | {"x": mag, "y": err}, GRID, map=mapped, vector_bands=order), wide)
    with pytest.raises(CatalogError, match="no photometry recognised"):
        read_stars(rest | {"mag": mag, "err": err}, ("WISE_W1",), vector_bands=order)
    with pytest.raises(CatalogError, match="more than once: band PS_g"):
        read_stars(rest | {"mag": mag, "err": err}, GRID, vector_bands=("PS_g", "PS_g", "PS_i"))
    with pytest.raises(CatalogError, match=r"\(3,\) for 8 bands.*vector_bands="):
        read_stars(rest | {"mag": mag, "err": err}, GRID)
    fewer = read_stars(rest | {"mag": mag, "err": err}, ("PS_g", "PS_r"), vector_bands=order)
    assert fewer.bands == ("PS_g",) and "not in the grid: PS_i, 2MASS_J" in fewer.notes


AMBIGUOUS = {"gmag": np.array([15.0]), "e_gmag": np.array([0.1])}
REFUSED = {
    "no photometry recognised in the table: looked for PS_g": dict(table={"x": [1.0]}),
    r"several surveys: gmag \(PS_g or SDSS_g\)": dict(
        table=AMBIGUOUS, bands=("PS_g", "SDSS_g"), source_id=None
    ),
    r"several surveys: gmag \(PS_g\)": dict(table=AMBIGUOUS),
    "several columns match 2MASS_J: j_m, Jmag": dict(
        add={"j_m": 15.0, "j_msigcom": 0.1, "Jmag": 15.0, "e_Jmag": 0.1}, drop="2MASS_J"
    ),
    "several columns match the error of PS_g": dict(add={"e_PS_g": 0.1}),
    r"column PS_g \(PS_g\) has no error column": dict(drop="PS_g_err"),
    "several columns match parallax": dict(add={"Plx": 1.0, "e_Plx": 0.1}),
    r"column parallax \(parallax\) has no error": dict(drop="parallax_err"),
    "phot_g_mean_flux is in electrons": dict(
        add={"phot_g_mean_flux": 1e4, "phot_g_mean_flux_error": 10.0}
    ),
    "map has the key 'PS_q'": dict(map={"PS_q": "PS_g"}),
    "column 'PS_gg', which the table lacks: near it are PS_g": dict(map={"PS_g": "PS_gg"}),
    "map names l only": dict(map={"l": "l"}),
    "units has the key 'paralax'": dict(units={"paralax": "mas"}),
    "no brightness understood": dict(units="furlong"),
    "give units= one of mas": dict(units={"parallax": "kg"}),
    "give units= one of deg": dict(units={"l": "kg"}),
    "if they are magnitudes, say units='mag'": dict(units="maggies"),
    "no photometry of WISE_W1": dict(require_bands=["WISE_W1"]),
    "is no mapping": dict(map="PS_g"),
    "listed more than once": dict(bands=("PS_g", "PS_g")),
    "source_id names column 'nam'": dict(source_id="nam"),
    "column PS_g is not numeric": dict(add={"PS_g": "bright"}),
    "latitude is beyond 90": dict(add={"b": 120.0}),
    "declination .* is beyond 90": dict(map={"l": None}, add={"ra": 10.0, "dec": 95.0}),
    "leave|in memory": dict(dataset="stars"),
    "source_id 7 appears 3 times": dict(add={"source_id": 7}),
    "both in one kind": dict(units={"PS_g": "mag", "PS_g_err": "Jy"}),
    "use 'AB' or 'Vega'": dict(band_system={"PS_g": "ST"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_in_one_line(stars, message):
    options = dict(REFUSED[message])
    drop = options.pop("drop", None)
    add = {name: np.full(3, value) for name, value in options.pop("add", {}).items()}
    table = {name: stars[name] for name in stars if name != drop} | add
    table = options.pop("table", table)
    bands = options.pop("bands", GRID)
    with pytest.raises(CatalogError, match=message) as caught:
        read_stars(table, bands, **options)
    assert "\n" not in str(caught.value)


def test_unclear_magnitudes_can_be_settled(stars):
    table = stars | {"gmag": stars["PS_g"], "e_gmag": stars["PS_g_err"]}
    assert "gmag not used: PS_g comes from another" in names_of(read_stars(table, GRID))
    sdss = read_stars(table, (*GRID, "SDSS_g"), map={"SDSS_g": "gmag"})
    np.testing.assert_array_equal(sdss.flux[:, -1], sdss.flux[:, 0])
    assert read_stars(AMBIGUOUS, GRID, map={"PS_g": "gmag"}).bands == ("PS_g",)
    bare = read_stars(stars | {"g": stars["PS_g"], "z": np.zeros(3)}, GRID)
    assert "columns g, z not used" in names_of(bare)


def test_units_that_are_not_clear_are_asked_for(stars):
    flux = stars | {"PS_g": 10 ** (-0.4 * stars["PS_g"]), "PS_g_err": np.full(3, 1e-8)}
    for name in ("PS_r", "PS_i", "2MASS_J"):
        flux[name] = 10 ** (-0.4 * flux[name])
    with pytest.raises(CatalogError, match="not clearly magnitudes: say units"):
        read_stars(flux, GRID)
    with pytest.raises(CatalogError, match="say units='maggies'"):
        read_stars(flux, GRID, units="mag")


def test_files_with_several_tables(stars, tmp_path):
    table = Table(stars)
    path = tmp_path / "a.h5"
    table.write(path, path="one")
    table.write(path, path="two/three", append=True)
    with pytest.raises(CatalogError, match="a.h5 holds 2 tables.*'one', 'two/three'"):
        read_stars(path, GRID)
    same(read_stars(path, GRID, dataset="two/three"), read_stars(stars, GRID))
    with pytest.raises(CatalogError, match="no dataset 'four': its tables are 'one'"):
        read_stars(path, GRID, dataset="four")
    hdus = [fits.BinTableHDU(table, name=name) for name in ("STARS", "MORE")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "a.fits")
    with pytest.raises(CatalogError, match="several tables: choose dataset= of 1 STARS, 2 MORE"):
        read_stars(tmp_path / "a.fits", GRID)
    same(read_stars(tmp_path / "a.fits", GRID, dataset="MORE"), read_stars(stars, GRID))


@pytest.mark.parametrize("name", ["a.fits", "a.h5", "a.parquet", "a.vot", "a.fits.gz"])
def test_truncated_files_are_named(stars, tmp_path, name):
    table = Table({key: np.tile(values, 2000) for key, values in stars.items()})
    write(table, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for fraction in (0.5, 0.9):
        (tmp_path / name).write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(CatalogError, match=name) as caught:
            read_stars(tmp_path / name, GRID)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.fits", b"hello", "a.fits is not a FITS file"),
        ("a.parquet", b"hello", "is not a Parquet file"),
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"PS_g,PS_g_err\n", "zero rows"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "a.csv cannot be read as csv"),
        ("a.dat", b"\x00\x01\x02", "no format known here"),
        ("a.fits.gz", b"\x1f\x8bnothing", "damaged gzip"),
        ("none.csv", None, "no such file"),
    ],
)
def test_foreign_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError, match=message) as caught:
        read_stars(tmp_path / name, GRID)
    assert "\n" not in str(caught.value)


def test_compressed_text(stars, tmp_path):
    Table(stars).write(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    same(read_stars(tmp_path / "a.csv.gz", GRID), read_stars(stars, GRID))


def test_resolve_bands():
    assert resolve_bands(["ps_g", "2MASS_J"], GRID) == ("PS_g", "2MASS_J")
    with pytest.raises(CatalogError, match="no band 'PS_h': near it are .*PS_g"):
        resolve_bands(["PS_h"], GRID)
    with pytest.raises(CatalogError, match="more than once"):
        resolve_bands(["PS_g", "ps_g"], GRID)


def test_masked_column_of_text_ids():
    table = Table({"PS_g": [15.0, 16.0], "PS_g_err": [0.1, 0.1]})
    table["name"] = MaskedColumn(["a", "b"], mask=[False, False])
    assert read_stars(table, GRID).source_id.tolist() == [b"a", b"b"]


def test_open_cluster_as_published(shared):
    """M67: 312 columns of many surveys, without units, NaN and -9999 for missing."""
    grid = (*VECTOR, "Gaia_G_EDR3", "WISE_W1", "WISE_W2", "WISE_W3", "SDSS_u")
    path = shared / "observed" / "NGC_2682.fits"
    catalog = read_stars(path, grid)
    table = Table.read(path)
    assert len(catalog) == 1585
    assert catalog.bands == (*VECTOR, "WISE_W1", "WISE_W2", "WISE_W3", "SDSS_u")
    assert catalog.source_id.tolist() == table["Gaia_DR2_ID"].tolist()
    mag = table["PS_g"].filled(np.nan).astype(float)
    np.testing.assert_allclose(catalog.flux[:, 0], 10 ** (-0.4 * mag), rtol=1e-12)
    w3 = np.asarray(table["WISE_W3_Err"], float)
    np.testing.assert_array_equal(np.isfinite(catalog.flux[:, 10]), w3 > 0)
    flagged = np.isfinite(table["WISE_W3"].filled(np.nan)) & (w3 == -9999)
    assert np.all(catalog.status[flagged] & Status.BAD_BANDS)
    note = next(note for note in catalog.notes if note.startswith("not in the grid"))
    assert "Gaia_G_DR2Rev" in note and "GALEX_NUV" in note and "Err" not in note
    # the positions of two frames agree
    sky = SkyCoord(table["gaia_dr2_source.ra"], table["gaia_dr2_source.dec"], unit="deg").galactic
    np.testing.assert_allclose(catalog.coords[:, 0], sky.l.deg, atol=1e-4)


def test_sight_line_as_published(shared):
    """Orion: vector columns, -999 and infinity for missing, parallaxes in arcsec."""
    path = shared / "observed" / "Orion_l204.7_b-19.2.h5"
    options = dict(dataset="photometry/pixel 0-0", source_id="row")
    catalog = read_stars(path, VECTOR, units={"parallax": "arcsec"}, **options)
    with h5py.File(path) as file:
        rows = file["photometry/pixel 0-0"][()]
    assert len(catalog) == 1642 and np.all(catalog.status == 0)
    np.testing.assert_array_equal(np.isfinite(catalog.flux), np.isfinite(rows["err"]))
    known = rows["parallax_error"] < 1e3
    np.testing.assert_array_equal(np.isfinite(catalog.parallax), known)
    np.testing.assert_allclose(catalog.parallax[known], 1e3 * rows["parallax"][known].astype(float))
    wide = read_stars(
        path, (*VECTOR, "WISE_W1"), units={"parallax": "arcsec"}, vector_bands=VECTOR, **options
    )
    same(wide, catalog)
    with pytest.raises(CatalogError, match=r"units=\{'parallax': 'arcsec'\}"):
        read_stars(path, VECTOR, **options)
    with pytest.raises(CatalogError, match="appears 1642 times.*source_id='row'"):
        read_stars(path, VECTOR, units={"parallax": "arcsec"})


def test_mock_stars_in_maggies(shared):
    path = shared / "gold" / "open_stars.csv"
    grid = (*VECTOR, "Gaia_G_EDR3", "Gaia_BP_EDR3", "Gaia_RP_EDR3", "WISE_W1", "WISE_W2")
    catalog = read_stars(path, (*grid, "SDSS_u"), units="maggies")
    with h5py.File(path.with_suffix(".h5")) as file:
        assert catalog.bands == grid
        np.testing.assert_allclose(catalog.flux, file["flux"][()], rtol=1e-8)
        np.testing.assert_allclose(catalog.flux_err, file["flux_err"][()], rtol=1e-8)
        np.testing.assert_allclose(catalog.coords, file["coords"][()], rtol=1e-8)
        np.testing.assert_allclose(catalog.parallax, file["parallax"][()], rtol=1e-8)
        assert catalog.source_id.tolist() == file["name"][()].tolist()
    assert catalog.status.tolist() == [Status.NEGATIVE_FLUX if i == 13 else 0 for i in range(24)]
    with pytest.raises(CatalogError, match="say units="):
        read_stars(path, grid)
