"""The door for arrays: what is refused, what is flagged, and what must not change the data."""

import jax
import numpy as np
import pytest

from brutax.catalog import CatalogError, make_catalog
from brutax.models.stars import Status

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "2MASS_J")
MAG = np.array([[15.0, 14.5, 14.2, 14.1, 13.0], [18.0, 17.0, 16.5, 16.2, 15.0]])
MERR = np.array([[0.02, 0.01, 0.01, 0.03, 0.02], [0.05, 0.02, 0.02, 0.02, 0.06]])


@pytest.fixture
def phot():
    """Fluxes and errors of two stars, for a test to spoil."""
    flux = 10 ** (-0.4 * MAG)
    return flux, flux * MERR * 0.4 * np.log(10)


def flags(catalog):
    return [Status(int(one)) for one in catalog.status]


SKY = np.array([[10.0, -20.0], [350.0, 60.0]])


def test_clean_stars_have_no_flags(phot):
    catalog = make_catalog(*phot, BANDS, parallax=[1.0, 2.0], parallax_err=[0.1, 0.1], coords=SKY)
    assert flags(catalog) == [Status.OK, Status.OK]
    assert len(catalog) == 2 and list(catalog.n_bands) == [5, 5]
    np.testing.assert_array_equal(catalog.source_id, [0, 1])
    np.testing.assert_array_equal(catalog.flux, phot[0])


def test_magnitudes_and_fluxes_are_the_same_stars(phot):
    from_flux = make_catalog(*phot, BANDS, coords=SKY).stars()
    from_mag = make_catalog(MAG, MERR, BANDS, units="mag", coords=SKY).stars()
    for one, two in zip(jax.tree.leaves(from_flux), jax.tree.leaves(from_mag)):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_scale_of_a_star_is_only_in_its_unit(phot):
    near = make_catalog(phot[0] * 1e4, phot[1] * 1e4, BANDS).stars()
    far = make_catalog(*phot, BANDS).stars()
    np.testing.assert_allclose(near.flux, far.flux, rtol=1e-6)
    np.testing.assert_allclose(near.weight, far.weight, rtol=1e-6)
    np.testing.assert_allclose(near.unit_mag + 10.0, far.unit_mag, rtol=1e-6)


@pytest.mark.parametrize(
    ("flux", "err", "flag"),
    [
        (np.nan, np.nan, Status.OK),
        (-999.0, -999.0, Status.OK),
        (np.nan, 1e-8, Status.OK),
        (np.inf, 1e-8, Status.BAD_BANDS),
        (-np.inf, 1e-8, Status.BAD_BANDS),
        (1e-6, np.nan, Status.BAD_BANDS),
        (1e-6, np.inf, Status.BAD_BANDS),
        (1e-6, 0.0, Status.BAD_BANDS),
        (1e-6, -1e-8, Status.BAD_BANDS),
        (1e-6, -9999.0, Status.BAD_BANDS),
    ],
)
def test_odd_band_is_unobserved(phot, flux, err, flag):
    phot[0][0, 2], phot[1][0, 2] = flux, err
    catalog = make_catalog(*phot, BANDS, coords=SKY)
    assert flags(catalog) == [flag, Status.OK]
    assert np.isnan(catalog.flux[0, 2]) and np.isnan(catalog.flux_err[0, 2])
    assert list(catalog.n_bands) == [4, 5]
    assert float(catalog.stars().weight[0, 2]) == 0.0


@pytest.mark.parametrize("mag", [-99.0, -999.0, 99.0, 99.99, 9999.0, np.inf])
def test_magnitude_sentinels_are_missing(mag):
    mags = MAG.copy()
    mags[1, 0] = mag
    catalog = make_catalog(mags, MERR, BANDS, units="mag", coords=SKY)
    assert flags(catalog) == [Status.OK, Status.OK] and np.isnan(catalog.flux[1, 0])
    assert any("missing photometry" in note for note in catalog.notes)


def test_negative_flux_is_data(phot):
    phot[0][0, 0] = -1e-7
    catalog = make_catalog(*phot, BANDS, coords=SKY)
    assert flags(catalog)[0] == Status.NEGATIVE_FLUX
    assert catalog.flux[0, 0] == -1e-7 and float(catalog.stars().weight[0, 0]) > 0


@pytest.mark.parametrize(
    ("n", "flag"), [(4, Status.OK), (3, Status.FEW_BANDS), (0, Status.NO_PHOTOMETRY)]
)
def test_number_of_bands(phot, n, flag):
    mask = np.ones(MAG.shape, bool)
    mask[0, n:] = False
    catalog = make_catalog(*phot, BANDS, mask=mask, coords=SKY)
    assert flags(catalog) == [flag, Status.OK] and catalog.n_bands[0] == n


def test_integer_mask_is_a_mask(phot):
    mask = np.array([[1, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    yes_no = make_catalog(*phot, BANDS, mask=mask.astype(bool))
    np.testing.assert_array_equal(make_catalog(*phot, BANDS, mask=mask).flux, yes_no.flux)


@pytest.mark.parametrize(
    ("plx", "err", "bad"),
    [
        (1.0, 0.1, False),
        (-0.3, 0.1, False),
        (np.nan, np.nan, False),
        (-999.0, -999.0, False),
        (0.5, 1e7, False),
        (1.0, 0.0, True),
        (1.0, -0.1, True),
        (1.0, np.nan, True),
        (np.nan, 0.1, True),
        (np.inf, 0.1, True),
    ],
)
def test_parallax_flag(phot, plx, err, bad):
    catalog = make_catalog(*phot, BANDS, parallax=[plx, 1.0], parallax_err=[err, 0.1], coords=SKY)
    assert flags(catalog) == [Status.BAD_PARALLAX if bad else Status.OK, Status.OK]
    used = np.isfinite(plx) and np.isfinite(err) and 0 < err < 1e6
    assert (float(catalog.stars().parallax_weight[0]) > 0) == used
    assert np.isfinite(catalog.parallax[0]) == used == np.isfinite(catalog.parallax_err[0])


def test_coordinates_wrap_and_bad_ones_are_flagged(phot):
    flux, err = (np.concatenate([x, x, x]) for x in phot)
    coords = [[370, 5], [-10, 5], [-1e-17, 90], [10, 91], [np.nan, 5], [720, -90]]
    catalog = make_catalog(flux, err, BANDS, coords=coords)
    np.testing.assert_allclose(catalog.coords[:3], [[10, 5], [350, 5], [0, 90]])
    np.testing.assert_allclose(catalog.coords[5], [0, -90])
    assert np.all(np.isnan(catalog.coords[3:5]))
    assert [one == Status.NO_COORDINATES for one in flags(catalog)] == [0, 0, 0, 1, 1, 0]
    assert flags(make_catalog(*phot, BANDS)) == [Status.NO_COORDINATES] * 2


def test_error_floor_is_in_quadrature(phot):
    catalog = make_catalog(*phot, BANDS, error_floor=0.03)
    mag_err = catalog.flux_err / catalog.flux / (0.4 * np.log(10))
    np.testing.assert_allclose(mag_err, np.hypot(MERR, 0.03), rtol=1e-12)
    some = make_catalog(*phot, BANDS, error_floor={"PS_r": 0.03})
    np.testing.assert_allclose(some.flux_err[:, 1], catalog.flux_err[:, 1], rtol=1e-12)
    np.testing.assert_array_equal(some.flux_err[:, 0], phot[1][:, 0])
    each = make_catalog(*phot, BANDS, error_floor=[0, 0.03, 0, 0, 0])
    np.testing.assert_array_equal(each.flux_err, some.flux_err)


def test_offsets_scale_flux_and_error(phot):
    offsets = np.array([1.0, 0.9, 1.1, 1.0, 2.0])
    catalog = make_catalog(*phot, BANDS, phot_offsets=offsets)
    np.testing.assert_allclose(catalog.flux, phot[0] * offsets, rtol=1e-15)
    np.testing.assert_allclose(catalog.flux_err, phot[1] * offsets, rtol=1e-15)


def test_brutus_culls_only_when_asked(phot):
    phot[0][0, 0] = -1e-8
    assert np.all(make_catalog(*phot, BANDS).n_bands == 5)
    culled = make_catalog(*phot, BANDS, mag_max=17.5, merr_max=0.025)
    seen = [[False, True, True, False, True], [False, True, True, True, False]]
    np.testing.assert_array_equal(np.isfinite(culled.flux), seen)


def test_identifiers_keep_every_digit(phot):
    large = np.array([2**63 + 12345, 2**53 + 1], np.uint64)
    assert make_catalog(*phot, BANDS, source_id=large).source_id.tolist() == large.tolist()
    signed = np.array([2**62 + 1, -(2**53) - 1])
    catalog = make_catalog(*phot, BANDS, source_id=signed)
    assert catalog.source_id.dtype == np.int64 and catalog.source_id.tolist() == signed.tolist()
    text = make_catalog(*phot, BANDS, source_id=[" HD 1", "Proxima é"])
    assert text.source_id.dtype.kind == "S"
    assert text.source_id[1].decode() == "Proxima é" and text.source_id[0] == b"HD 1"
    whole = make_catalog(*phot, BANDS, source_id=[1.0, 7.0]).source_id
    assert whole.dtype == np.int64 and whole.tolist() == [1, 7]


def test_select_is_reading_less(phot):
    catalog = make_catalog(*phot, BANDS, parallax=[1, 2], parallax_err=[0.1, 0.2], coords=SKY)
    for rows in (1, [1], slice(1, 2), np.array([False, True])):
        some = catalog.select(rows)
        assert len(some) == 1 and some.source_id[0] == 1 and some.parallax[0] == 2.0
        np.testing.assert_array_equal(some.flux[0], catalog.flux[1])
        np.testing.assert_array_equal(catalog.stars(rows).flux, some.stars().flux)


REFUSED = {
    "differ in shape": dict(flux_err=np.ones((2, 4))),
    r"4 bands": dict(bands=BANDS[:4]),
    "zero rows": dict(flux=np.zeros((0, 5)), flux_err=np.zeros((0, 5))),
    r"mask \(2, 4\)": dict(mask=np.ones((2, 4), bool)),
    "other values than": dict(mask=np.full((2, 5), 2)),
    "not an array of numbers": dict(flux=[["a"] * 5] * 2),
    r"star, band": dict(flux=np.ones(5), flux_err=np.ones(5)),
    "more than once: band PS_g": dict(bands=("PS_g", "PS_g", "PS_i", "PS_z", "2MASS_J")),
    "beyond 90 deg": dict(coords=[[1.0, 100.0], [2.0, 120.0]]),
    "no star has a usable band": dict(mask=np.zeros((2, 5), bool)),
    "units='mag'": dict(flux=MAG, flux_err=MERR),
    "units='maggies'": dict(units="mag"),
    "'Jy' for arrays": dict(units="Jy"),
    "parallax is given without parallax_err": dict(parallax=[1.0, 1.0]),
    "parallax_err is given without parallax:": dict(parallax_err=[1.0, 1.0]),
    "'arcsec'": dict(parallax=[1e-3, 2e-3], parallax_err=[1e-5, 1e-4]),
    "another unit": dict(parallax=[1e3, 2e3], parallax_err=[1e4, 1e4]),
    "for 2 stars": dict(parallax=[1.0], parallax_err=[0.1]),
    r"coords \(2,\) for 2 stars": dict(coords=[1.0, 2.0]),
    "source_id 7 appears 2 times .1 duplicates": dict(source_id=[7, 7]),
    r"source_id='row'": dict(source_id=["a", "a"]),
    "floating point": dict(source_id=[1e17, 1.5]),
    "not negative": dict(error_floor=-0.01),
    "error_floor names PS_q": dict(error_floor={"PS_q": 0.01}),
    r"error_floor has shape \(3,\)": dict(error_floor=[0.1, 0.1, 0.1]),
    "must be positive": dict(phot_offsets=[1, 1, 0, 1, 1]),
    r"phot_offsets has shape \(2,\)": dict(phot_offsets=[1, 1]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_in_one_line(phot, message):
    arguments = dict(flux=phot[0], flux_err=phot[1], bands=BANDS) | REFUSED[message]
    with pytest.raises(CatalogError, match=message) as caught:
        make_catalog(**arguments)
    assert "\n" not in str(caught.value)


def test_same_numbers_in_any_precision_or_order(phot):
    """Big-endian and float32 input, as FITS has them, become native float64."""
    single = make_catalog(phot[0].astype(">f4"), phot[1].astype(">f4"), BANDS)
    assert single.flux.dtype == np.float64
    np.testing.assert_allclose(single.flux, phot[0], rtol=1e-6)
