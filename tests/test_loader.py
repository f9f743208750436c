"""`load_models` and offsets: the return values that scripts written for brutus expect."""

import logging

import h5py
import numpy as np
import pytest

from brutax.data import FILTERS, band_system, filters, load_models, load_offsets, save_offsets
from brutax.models import demo_grid


def write_brutus(path, afe=(0.0,), smf=(0.0,), extra=(), bands=("PS_r", "Odd_x", "PS_g")):
    """A small file written independently of brutax; returns its `mag_coeffs` and `labels`."""
    lattice = np.array(
        [
            (m, e, z, a, q)
            for m in (0.8, 1.0, 1.2)
            for e in (300.0, 454.0, 500.0)
            for z in (-0.5, 0.0)
            for a in afe
            for q in smf
        ]
    )
    n = len(lattice)
    rng = np.random.default_rng(3)
    mags = np.zeros(n, [(b, "<f4", (3,)) for b in bands])
    for band in bands:
        mags[band] = rng.normal(size=(n, 3))
    labels = np.zeros(n, [(k, "<f8") for k in ("mini", "eep", "feh", "afe", "smf")])
    for k, name in enumerate(labels.dtype.names):
        labels[name] = lattice[:, k]
    parameters = np.zeros(n, [(k, "<f8") for k in ("loga", "agewt", "feh_surf", *extra)])
    parameters["loga"] = np.linspace(8, 10, n)
    for name in extra:
        parameters[name] = np.nan
    with h5py.File(path, "w") as f:
        f["mag_coeffs"], f["labels"], f["parameters"] = mags, labels, parameters
    return mags, labels


def test_names_of_bands():
    assert len(FILTERS) == 49 == len(set(FILTERS))
    assert FILTERS[:4] == ["Gaia_G_MAW", "Gaia_BP_MAWf", "Gaia_RP_MAW", "SDSS_u"]
    assert FILTERS[-1] == "TESS" and filters.ps[-1] == "PS_open"
    assert FILTERS.index("2MASS_J") == 3 + 5 + 7 + 6 + 5
    assert [band_system(x) for x in ("PS_g", "WISE_W1", "nonsense")] == ["AB", "Vega", None]


def test_models_come_back_exactly(tmp_path):
    mags, labels = write_brutus(tmp_path / "g.h5")
    models, table, mask = load_models(tmp_path / "g.h5", filters=["PS_g", "PS_r"])
    assert models.dtype == np.float32 and models.shape == (18, 2, 3)
    np.testing.assert_array_equal(models[:, 0], mags["PS_g"])
    np.testing.assert_array_equal(models[:, 1], mags["PS_r"])
    assert table.dtype.names == ("mini", "feh", "eep", "loga", "agewt")
    np.testing.assert_array_equal(table["eep"], labels["eep"])
    assert mask.shape == (1,) and mask[0].tolist() == (True, True, True, False, False)


def test_default_bands_are_known_ones_first(tmp_path):
    mags, _ = write_brutus(tmp_path / "g.h5")
    models, _, _ = load_models(tmp_path / "g.h5")  # PS_g, PS_r, then Odd_x
    np.testing.assert_array_equal(models[:, 0], mags["PS_g"])
    np.testing.assert_array_equal(models[:, 2], mags["Odd_x"])


def test_missing_filters_are_skipped_with_a_warning(tmp_path):
    write_brutus(tmp_path / "g.h5")
    with pytest.warns(UserWarning, match="lacks the filters.*PS_z.*are.*PS_g"):
        models, _, _ = load_models(tmp_path / "g.h5", filters=["PS_z", "PS_g"])
    assert models.shape[1] == 1
    with pytest.raises(ValueError, match="PS_q.*nearest: PS_"):
        load_models(tmp_path / "g.h5", filters=["PS_q"])


def test_label_rules(tmp_path):
    """afe goes if constant and not asked for; smf goes without binaries; all-NaN columns go."""
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    write_brutus(one, extra=("logg",))
    write_brutus(two, afe=(0.0, 0.4), smf=(0.0, 0.5))
    assert "afe" not in load_models(one)[1].dtype.names
    assert "logg" not in load_models(one)[1].dtype.names
    asked = load_models(one, labels=["afe", "mini", "feh_surf"])
    assert asked[1].dtype.names == ("afe", "mini", "feh_surf")
    assert asked[2][0].tolist() == (True, True, False)
    models, table, _ = load_models(two)
    assert "afe" in table.dtype.names and "smf" not in table.dtype.names and len(models) == 36
    models, table, mask = load_models(two, include_binaries=True)
    assert len(models) == 72 and mask["smf"][0] and set(table["smf"]) == {0.0, 0.5}


@pytest.mark.parametrize("ms, postms, n", [(True, True, 18), (True, False, 12), (False, True, 6)])
def test_phases(tmp_path, ms, postms, n):
    write_brutus(tmp_path / "g.h5")
    models, table, _ = load_models(tmp_path / "g.h5", include_ms=ms, include_postms=postms)
    assert len(models) == len(table) == n
    assert ms or table["eep"].min() > 454


def test_no_phase_is_an_error(tmp_path):
    write_brutus(tmp_path / "g.h5")
    with pytest.raises(ValueError, match="no models are left"):
        load_models(tmp_path / "g.h5", include_ms=False, include_postms=False)


def test_memmap_gives_the_same(tmp_path):
    grid = demo_grid(("PS_g", "PS_r"), 6, 8, 4)
    grid.write(tmp_path / "g.h5")
    models, labels, _ = load_models(tmp_path / "g.h5")
    mapped, labels2, _ = load_models(tmp_path / "g.h5", memmap=True)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, models)
    np.testing.assert_array_equal(labels2, labels)


def test_verbose_goes_to_the_log(tmp_path, caplog, capsys):
    write_brutus(tmp_path / "g.h5")
    with caplog.at_level(logging.INFO, "brutax"):
        load_models(tmp_path / "g.h5", verbose=False)
        assert not caplog.records
        load_models(tmp_path / "g.h5")
    assert "18 of 18 models" in caplog.text and "afe" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_real_grid(shared):
    models, labels, mask = load_models(shared / "models" / "mist_small.h5")
    assert models.shape == (25486, 18, 3)
    assert labels.dtype.names == ("mini", "feh", "eep", "loga", "logl", "logt", "logg", "agewt")
    assert mask[0].tolist() == (True, True, True, False, False, False, False, False)
    # row 9000, as brutus 1.2.0 reads it; the first band is SDSS_u, the sixth PS_g
    assert tuple(labels[9000])[:4] == (1.02, -0.375, 550.0, 9.895278930664062)
    np.testing.assert_array_equal(models[9000, [5, 10], 0], np.float32([10.387085, 7.7734375]))


def test_offsets(tmp_path):
    path = tmp_path / "offsets.txt"
    path.write_text("# two bands\nPS_g 1.02\n2MASS_H  0.97 # blue\n\nOdd_x 3.0\n")
    np.testing.assert_array_equal(load_offsets(path, ["2MASS_H", "PS_r", "PS_g"]), [0.97, 1, 1.02])
    every = load_offsets(path)
    assert every.shape == (49,) and every[FILTERS.index("PS_g")] == 1.02
    assert np.sum(every != 1.0) == 2


def test_offsets_round_trip(tmp_path):
    names, values = ["PS_g", "PS_r", "2MASS_J"], np.array([1.0 / 3.0, 0.987654321, 1.0])
    path = save_offsets(tmp_path / "o.txt", names, values)
    np.testing.assert_array_equal(load_offsets(path, names), values)


@pytest.mark.parametrize(
    "text, message",
    [
        ("PS_g 1.0\nPS_g 1.1\n", "line 2: filter PS_g is listed twice"),
        ("PS_g one\n", "line 1: 'PS_g one' is not a filter and a number"),
        ("PS_g\n", "line 1"),
        ("PS_g nan\n", "not positive"),
    ],
)
def test_bad_offsets(tmp_path, text, message):
    (tmp_path / "o.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_offsets(tmp_path / "o.txt")


def test_missing_offsets(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of offsets"):
        load_offsets(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="not a readable text file"):
        load_offsets(tmp_path / "binary")
    with pytest.raises(ValueError, match="2 filters"):
        save_offsets(tmp_path / "o.txt", ["a", "b"], [1.0])
