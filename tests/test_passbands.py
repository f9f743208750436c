"""Bands from transmission curves: right where the answer is known, refused where they are odd."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.cli import main
from brutax.models import GridGenerator, Passband, StarGrid, load_bolometric

pytest.importorskip("dust_extinction")

SUN = (np.log10(5772.0), 4.44, 0.0)


def box(name="box", low=5500.0, high=6900.0, n=60, **options) -> Passband:
    wave = np.linspace(low - 100.0, high + 100.0, n)
    return Passband(name, wave, ((wave > low) & (wave < high)).astype(float), **options)


def look(bands, star=SUN, av=0.0, rv=3.1, **options):
    model = load_bolometric(bands, **options)
    return np.asarray(model(*(jnp.asarray(float(x)) for x in (*star, av, rv))))


def test_a_known_band_from_a_box_like_it():
    """PS1 r is close to a box from 5500 to 6900 angstrom."""
    for teff in (4500.0, 5772.0, 8000.0):
        new, old = look([box(), "PS_r"], (np.log10(teff), 4.4, -0.3))
        assert new == pytest.approx(old, abs=0.03)
    new, old = look([box(), "PS_r"], av=1.0) - look([box(), "PS_r"])
    assert new == pytest.approx(old, abs=0.02)


def test_a_band_beyond_the_optical():
    wave = np.linspace(19_000.0, 24_500.0, 50)
    ks = Passband("K", wave, (np.abs(wave - 21_600.0) < 1600.0).astype(float), "Vega")
    new, old = look([ks, "2MASS_Ks"])
    assert new == pytest.approx(old, abs=0.03)


def test_real_curves(shared):
    from_file = Passband.read(shared / "filters/GAIA.GAIA3.G.xml", "G", system="Vega")
    for teff in (4500.0, 6000.0, 9000.0):
        new, old = look([from_file, "Gaia_G_EDR3"], (np.log10(teff), 4.4, 0.0))
        assert new == pytest.approx(old, abs=0.08)


def test_systems_differ_by_a_constant():
    bands = [box("a"), box("v", system="Vega")]
    gaps = [
        np.subtract(*look(bands, (np.log10(t), 4.0, 0.0), av)) for t, av in ((4e3, 0), (9e3, 2))
    ]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-5)
    assert gaps[0] == pytest.approx(-0.14, abs=0.03)  # Vega in AB, r


def test_only_the_shape_of_the_curve_matters():
    band = box()
    same = [
        Passband("b", band.wavelength[::-1], band.transmission[::-1]),
        Passband("b", band.wavelength / 10.0, 80.0 * band.transmission, unit="nm"),
        Passband("b", band.wavelength / 1e4, band.transmission, unit="micron"),
        Passband("b", band.wavelength, band.transmission * band.wavelength, detector="energy"),
    ]
    want = look([band])
    for one in same:
        np.testing.assert_allclose(look([one]), want, atol=1e-5)
        assert one.pivot == pytest.approx(band.pivot)


def test_extinction_falls_from_blue_to_red_and_with_width():
    bands = [box("b", 4000.0, 4800.0), box("r", 5500.0, 6900.0), box("i", 7000.0, 8200.0)]
    for law in ("CCM89", "F99", "F19", "G23"):
        dimmed = look(bands, law=law) - look(bands, av=1.0, law=law)
        assert np.all(np.diff(dimmed) < 0) and 0.4 < dimmed[2] < dimmed[0] < 1.4
    wide = [box("w", 4000.0, 8200.0)]
    per_mag = [(look(wide) - look(wide, av=a)) / a for a in (0.5, 5.0)]
    assert per_mag[1] < per_mag[0]  # red light is left over


def test_gradients_are_finite():
    model = load_bolometric([box(), "PS_r"])
    x = jnp.asarray([3.75, 4.4, -0.2, 0.5, 3.1])
    jacobian = np.asarray(jax.jacrev(lambda x: model(*x))(x))
    assert np.isfinite(jacobian).all()
    np.testing.assert_allclose(jacobian[0], jacobian[1], rtol=0.1, atol=0.12)


def test_order_and_mixture_of_bands():
    one = look(["PS_g", box(), "2MASS_J"])
    other = look([box(), "2MASS_J", "PS_g"])
    np.testing.assert_allclose(one, other[[2, 0, 1]], atol=1e-6)
    assert load_bolometric(["PS_g", box(system="Vega")]).systems == ("AB", "Vega")
    with pytest.raises(ValueError, match="another name"):
        load_bolometric([box("PS_r")])
    with pytest.raises(ValueError, match="different bands"):
        load_bolometric([box(), box()])


def test_a_grid_with_a_curve(tmp_path, capsys):
    band = box()
    np.savetxt(tmp_path / "curve.dat", np.stack([band.wavelength, band.transmission], axis=1))
    path = tmp_path / "grid.h5"
    build = ["grid", "build", "-q", "-o", str(path), "--bands", "PS_g", "--overwrite"]
    build += ["--mass", "0.8:1.2:3", "--eep", "300:400:50", "--feh", "-0.5:0.5:0.5"]
    assert main([*build, "--filter", f"mine={tmp_path / 'curve.dat'},vega"]) == 0
    grid = StarGrid.read(path)
    assert grid.bands == ("PS_g", "mine") and grid.band_system == ("AB", "Vega")
    want = GridGenerator(None, ["PS_g", box("mine", system="Vega")], verbose=False).make_grid(
        [1.0], [300.0], [0.0], verbose=False
    )
    row = (np.asarray(grid.label_table["mini"]) > 0.97) & (grid.label_table["eep"] == 300.0)
    row &= (grid.label_table["feh"] == 0.0) & (np.asarray(grid.label_table["mini"]) < 0.99)
    assert row.sum() == 1 and len(want) == 1
    assert np.asarray(grid.red)[row][0, 1] == pytest.approx(float(want.red[0, 1]), abs=5e-3)
    for text, words in (("mine", "NAME=curve"), ("m=x.dat,blue", "blue"), ("m=none.dat", "none")):
        assert main([*build, "--filter", text]) == 2
        assert words in capsys.readouterr().err


WAVE = np.linspace(5000.0, 7000.0, 21)
BELL = np.exp(-0.5 * ((WAVE - 6000.0) / 250.0) ** 2)


@pytest.mark.parametrize(
    "wave, through, message",
    [
        (WAVE[:3], BELL[:3], "points or more"),
        (WAVE, BELL[:-1], "points or more"),
        (WAVE, np.where(BELL > 0.99, np.nan, BELL), "finite"),
        (WAVE, BELL - 0.1, "negative"),
        (WAVE, 0.0 * BELL, "zero"),
        (np.where(WAVE == 6000.0, 5900.0, WAVE), BELL, "must increase"),
        (WAVE / 10.0, BELL, "nm.*unit="),
        (WAVE / 1e4, BELL, "micron.*unit="),
        (WAVE[:11], BELL[:11], "red end.*cut off"),
        (WAVE[10:], BELL[10:], "blue end.*cut off"),
    ],
)
def test_odd_curves_are_refused(wave, through, message):
    with pytest.raises(ValueError, match=message):
        Passband("odd", wave, through)


def test_gaps_and_leaks_are_refused():
    wave = np.concatenate([np.linspace(4000.0, 4500.0, 30), np.linspace(6000.0, 6500.0, 30)])
    through = np.where((wave > 4050.0) & (wave < 6450.0), 1.0, 0.0)
    with pytest.raises(ValueError, match="between 4500 and 6000.*gap"):
        Passband("gap", wave, through)
    wave = np.linspace(3000.0, 12_000.0, 400)
    leaky = np.exp(-0.5 * ((wave - 3800.0) / 200.0) ** 2)
    leaky += 0.1 * np.exp(-0.5 * ((wave - 10_500.0) / 300.0) ** 2)
    with pytest.raises(ValueError, match="leak"):
        Passband("leak", wave, leaky)
    wide = np.linspace(4000.0, 10_500.0, 200)
    Passband("wide", wide, ((wide > 4200.0) & (wide < 10_200.0)).astype(float))  # no leak


def test_options_and_files(tmp_path):
    for option in ({"system": "ST"}, {"detector": "ccd"}, {"unit": "inch"}):
        with pytest.raises(ValueError, match="is not one of"):
            box(**option)
    (tmp_path / "words.dat").write_text("wavelength transmission\n")
    with pytest.raises(ValueError, match="no table of numbers"):
        Passband.read(tmp_path / "words.dat")
    (tmp_path / "one.dat").write_text("1\n2\n3\n4\n5\n")
    with pytest.raises(ValueError, match="two columns"):
        Passband.read(tmp_path / "one.dat")
    with pytest.raises(FileNotFoundError):
        Passband.read(tmp_path / "gone.dat")
