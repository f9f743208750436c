"""Files of model outputs: FITS images and tables, ECSV."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brutax.infer.outputs import Image, Table
from brutax.utils.durable import replace

Kinds = Mapping[str, Table | Image | None]  # None: an array that nothing is known of


def write(path: Path, values: Mapping[str, Any], kinds: Kinds, meta: Any, header: Any) -> None:
    """Writes outputs to FITS, or ECSV where the path ends so, in place of an older file.

    FITS: arrays of one shape and of unknown kind are one image, in slices; anything else has an
    extension each. `header` is copied to images of unknown kind. Raises ValueError for what ECSV
    cannot hold.
    """
    partial = path.with_name(path.name + ".new")
    if path.suffix == ".ecsv":
        _ecsv(values, kinds, meta).write(partial, format="ascii.ecsv", overwrite=True)
    else:
        _fits(values, kinds, meta, header).writeto(partial, overwrite=True)
    replace(partial, path)


def _ecsv(values: Mapping[str, Any], kinds: Kinds, meta: Mapping[str, str]) -> Any:
    table = _astropy("astropy.table").Table
    if not any(kinds.values()):
        return table(dict(values), meta={**meta, "MODEL": ",".join(values)})
    if len(values) > 1 or not isinstance(kinds[next(iter(values))], Table):
        raise ValueError(
            f"ECSV holds one table; {', '.join(values)} go into FITS (a name that ends in .fits)"
        )
    name, columns = next(iter(values.items()))
    return table(columns, units=_units(kinds[name]), meta={**meta, "MODEL": name})


def _fits(values: Mapping[str, Any], kinds: Kinds, meta: Mapping[str, str], header: Any) -> Any:
    fits = _astropy("astropy.io.fits")
    if not any(kinds.values()):
        return _slices(fits, values, meta, header)
    alone = len(values) == 1 and not any(isinstance(kind, Table) for kind in kinds.values())
    image = fits.PrimaryHDU if alone else fits.ImageHDU
    units = [_extension(fits, image, name, values[name], kinds[name]) for name in values]
    if not alone:
        units.insert(0, fits.PrimaryHDU())
        units[0].header["MODEL"] = ",".join(values)
    for unit in units:
        unit.header.update(meta)
    return fits.HDUList(units)


def _slices(fits: Any, values: Mapping[str, Any], meta: Mapping[str, str], header: Any) -> Any:
    shapes = {np.shape(value) for value in values.values()}
    if len(shapes) > 1:
        raise ValueError(f"outputs of different shapes {shapes} do not go into one image")
    one = len(values) == 1
    array = np.stack(list(values.values())) if not one else next(iter(values.values()))
    hdu = fits.PrimaryHDU(np.asarray(array), header=header)
    if one:
        hdu.header["MODEL"] = next(iter(values))
    else:
        hdu.header["NSLICES"] = len(values)
        for k, name in enumerate(values, 1):
            hdu.header[f"SLICE{k}"] = name
    hdu.header.update(meta)
    return hdu


def _extension(fits: Any, image: Any, name: str, value: Any, kind: Table | Image | None) -> Any:
    if isinstance(kind, Table):
        hdu = fits.BinTableHDU(_astropy("astropy.table").Table(value, units=_units(kind)))
    else:
        hdu = image(np.asarray(value))
    if isinstance(kind, Image):
        hdu.header["BUNIT"] = kind.unit
        for k, axis in enumerate(kind.axes, 1):
            hdu.header[f"CTYPE{k}"], hdu.header[f"CUNIT{k}"] = axis.name, axis.unit
            hdu.header[f"CRPIX{k}"], hdu.header[f"CRVAL{k}"] = 1.0, axis.start
            hdu.header[f"CDELT{k}"] = axis.step
    hdu.header["EXTNAME"] = hdu.header["MODEL"] = name
    return hdu


def _units(kind: Any) -> dict[str, str]:
    return {name: unit for name, unit in kind.units.items() if unit}


def _astropy(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("savemodel needs astropy: pip install 'brutax[tables]'") from error
