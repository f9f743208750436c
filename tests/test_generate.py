"""Tracks and grids built from the models inside the package."""

import jax.numpy as jnp
import numpy as np
import pytest

from brutax.cli import main
from brutax.models import StarGrid
from brutax.models.corrections import get_corrections
from brutax.models.evolution.tracks import EEPTracks
from brutax.models.grid.generate import GridGenerator

BANDS = ("PS_g", "PS_r", "2MASS_Ks")


@pytest.fixture(scope="module")
def tracks():
    return EEPTracks(verbose=False)


@pytest.fixture(scope="module")
def generator(tracks):
    return GridGenerator(tracks, BANDS)


def test_corrections_are_those_of_brutus():
    expected = [-0.006750820712281, 0.006630383371280]
    np.testing.assert_allclose(get_corrections([0.8, 350, -0.25, 0.0]), expected, rtol=1e-12)
    np.testing.assert_array_equal(get_corrections([[1.2, 350, -0.25, 0.0]]), 0.0)


def test_predictions(tracks):
    assert tracks.predictions[-1] == "agewt"
    table = tracks.get_predictions([[1.0, 350, 0.0, 0.0], [1.0, 350, 0.0, 0.4], [99, 350, 0, 0]])
    assert np.isfinite(table[0]).all() and np.isnan(table[1:]).all()
    one = tracks.get_predictions([1.0, 350, 0.0, 0.0])
    np.testing.assert_allclose(one, table[0])
    plain = tracks.get_predictions([0.8, 350, -0.25, 0.0], apply_corr=False)
    shift = tracks.get_predictions([0.8, 350, -0.25, 0.0]) - plain
    names = dict(zip(tracks.predictions, shift))
    assert names["logt"] == pytest.approx(-0.00675, abs=1e-5)
    assert names["logl"] == pytest.approx(2 * 0.00663, abs=1e-5)
    assert names["loga"] == 0.0


def test_bad_tracks():
    with pytest.raises(ValueError, match="not known"):
        EEPTracks(predictions=["loga", "logl", "logt", "logg", "colour"])
    with pytest.raises(ValueError, match="must include"):
        EEPTracks(predictions=["loga"])
    with pytest.raises(FileNotFoundError, match="EEPtrk"):
        EEPTracks("MIST_1.2_EEPtrk.h5")


def test_a_grid_is_what_one_star_is(generator, tracks):
    grid = generator.make_grid([0.6, 1.0, 1.4], [250, 350, 454], [-1.0, 0.0])
    assert grid.axes[:3] == ("mini", "eep", "feh")
    assert grid.band_system == ("AB", "AB", "Vega")
    for k in range(len(grid)):
        label = [grid.label_table[n][k] for n in ("mini", "eep", "feh", "afe")]
        star = dict(zip(tracks.predictions, tracks.get_predictions(label)))
        for name in ("loga", "logl", "logt", "logg"):
            assert grid.label_table[name][k] == pytest.approx(star[name], abs=2e-4)
        mag = generator.photometry.source.magnitudes(
            *(
                jnp.asarray(float(x))
                for x in (star["logl"], star["logt"], star["logg"], label[2], 0.0, 3.1)
            )
        )
        np.testing.assert_allclose(grid.mag[k], np.asarray(mag) + 10.0, atol=2e-3)


def test_files_come_back(generator, tmp_path):
    path = tmp_path / "grid.h5"
    grid = generator.make_grid([0.8, 1.0], [300, 400], [-0.5, 0.0], output_file=path)
    back = StarGrid.read(path)
    assert back.bands == BANDS and back.band_system == grid.band_system
    np.testing.assert_array_equal(back.mag, grid.mag)
    np.testing.assert_array_equal(back.label_table["loga"], grid.label_table["loga"])


def test_nothing_too_old_or_outside(generator):
    grid = generator.make_grid([0.3, 0.9, 1.5], [300, 605], [0.0])
    assert np.all(grid.label_table["loga"] <= 10.14)
    found = set(zip(grid.label_table["mini"], grid.label_table["eep"]))
    # the others are younger than the universe only in models
    assert found == {(0.9, 300.0), (1.5, 300.0), (1.5, 605.0)}
    with pytest.raises(ValueError, match="no model"):
        generator.make_grid([0.3], [605], [0.0])


@pytest.mark.parametrize(
    "axes, message",
    [
        ({"mini_grid": [1.0, 0.5]}, "must increase"),
        ({"mini_grid": [np.nan]}, "finite"),
        ({"feh_grid": [2.0, 3.0]}, "outside the models"),
        ({"mini_grid": [1.0], "mini_range": (0.5, 1.0)}, "not both"),
        ({"eep_range": (500, 400)}, "does not lie"),
        ({"afe_grid": [0.4]}, "outside the models"),
    ],
)
def test_bad_nodes(generator, axes, message):
    with pytest.raises(ValueError, match=message):
        generator.make_grid(**axes)


def test_unknown_bands_and_tracks(tracks):
    with pytest.raises(ValueError, match="did you mean"):
        GridGenerator(tracks, ["PS_q"])
    with pytest.raises(TypeError, match="EEPTracks"):
        GridGenerator("tracks", BANDS)  # type: ignore


def test_command_line(tmp_path, capsys):
    path = tmp_path / "grid.h5"
    build = ["grid", "build", "-q", "-o", str(path), "--bands", "PS_g,2MASS_J"]
    ranges = ["--mass", "0.8:1.2:3", "--eep", "300:400:50", "--feh", "-0.5:0.5:0.5"]
    assert main([*build, *ranges]) == 0
    grid = StarGrid.read(path)
    assert grid.bands == ("PS_g", "2MASS_J")
    assert set(grid.label_table["feh"]) == {-0.5, 0.0, 0.5}
    capsys.readouterr()
    assert main([*build, *ranges]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*build[:-1], "PS_q", "--overwrite"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main([*build, "--overwrite", "--mass", "3:1:5"]) == 2
    assert "--mass" in capsys.readouterr().err
    assert main(["grid", "bands"]) == 0
    assert "PS_g" in capsys.readouterr().out.split()
