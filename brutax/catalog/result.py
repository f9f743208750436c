"""The posteriors of a catalogue, as users hold them."""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.catalog.schema import BY_NAME, COLUMNS, PER_DRAW, QUANTITY_UNITS, SAMPLES, TABLE_ORDER
from brutax.catalog.store import FINGERPRINT, PosteriorStore, StoreError, read_arrays
from brutax.models.stars import Status

if TYPE_CHECKING:
    from astropy.table import Table


class FitResult:
    """Posterior draws and summaries of one star or of a catalogue.

    Indexed by names, it gives arrays with a leading axis over stars: the datasets of the
    posterior file (`"samps_dist"`, `"obj_log_evid"`, ...), or `"<quantity>_samples"` for
    the draws of a quantity: `dist_samples` [kpc], `av_samples` [mag], `rv_samples`, and any label
    of the grid (`mini_samples`, `loga_samples`, ...). Draws kept in half precision come out in
    single, so that what is computed from them loses no more. Where draws were not kept, asking
    for them raises `StoreError`. The result of a single star given without a leading axis has
    none here either.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any], *, single: bool = False
    ) -> None:
        self._arrays = dict(arrays)
        self.attrs = dict(attrs)
        self.single = single
        self.path: Path | None = None

    @classmethod
    def load(cls, path: str | Path) -> "FitResult":
        """Opens a posterior file; unfinished rows are left out, and `attrs["unfinished"]` says
        how many there were. Numbers are read when they are looked at, and cannot be changed.

        Raises `StoreError` if the file is missing, damaged, or not a posterior file.
        """
        arrays, attrs = read_arrays(path)
        done = arrays.pop("done").astype(bool)
        n_stars = done.size
        arrays = {
            name: array if name.startswith("models/") or done.all() else array[done]
            for name, array in arrays.items()
        }
        attrs["unfinished"] = int(n_stars - done.sum())
        result = cls(arrays, attrs, single=bool(attrs.get("single", False)))
        result.path = Path(path)
        return result

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the result as a posterior file (the layout of `fit(..., save_file=)`).

        Raises `StoreError` if the file exists, unless it is a posterior file and `overwrite`.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise StoreError(f"{path} exists; choose another name or overwrite=True")
        own = {"parameters", "quantile_levels", "format", FINGERPRINT, "unfinished"}
        save_draws = "samps_dist" in self._arrays
        store = PosteriorStore.create(
            path,
            source_id=self._arrays["source_id"],
            labels=self._arrays["labels"],
            n_draws=self._arrays["model_idx"].shape[1] if "model_idx" in self._arrays else 0,
            parameters=self.parameters,
            levels=self.levels,
            fingerprint=json.loads(self.attrs[FINGERPRINT]),
            attrs={k: v for k, v in self.attrs.items() if k not in own} | {"single": self.single},
            models=self._models(),
            save_draws=save_draws,
            draw_dtype=self._arrays["samps_dist"].dtype.name if save_draws else "float32",
        )
        with store:
            store.append(np.arange(len(self)), self._arrays)
        return path

    def _models(self) -> dict[str, np.ndarray]:
        return {k[7:]: v for k, v in self._arrays.items() if k.startswith("models/")}

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the summarised quantities."""
        return tuple(str(name) for name in self.attrs["parameters"])

    @property
    def levels(self) -> tuple[float, ...]:
        """Levels of the quantiles."""
        return tuple(float(level) for level in self.attrs["quantile_levels"])

    @property
    def n_stars(self) -> int:
        return len(self._arrays["status"])

    def __len__(self) -> int:
        return self.n_stars

    def __iter__(self) -> "Iterator[FitResult]":
        """The stars, one after the other, each as a result of its own."""
        return (self[k] for k in range(len(self)))

    def keys(self) -> Any:
        """Names of the arrays."""
        return self._arrays.keys()

    def items(self) -> Any:
        """Names and arrays."""
        return ((name, self[name]) for name in self._arrays)

    def __contains__(self, name: object) -> bool:
        try:
            self._resolve(str(name))
        except (KeyError, StoreError):
            return False
        return True

    def _resolve(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        """An array by any of its names, of some stars."""
        if name in self._arrays:
            array = self._arrays[name]
            array = array if name.startswith("models/") else array[rows]
            return array.astype(np.float32) if array.dtype == np.float16 else array
        if name.endswith("_samples"):
            quantity = name.removesuffix("_samples")
            if SAMPLES.get(quantity) in self._arrays:
                return self._resolve(SAMPLES[quantity], rows)
            if f"models/{quantity}" in self._arrays:
                index = self._arrays["model_idx"][rows]
                values = self._arrays[f"models/{quantity}"][np.maximum(index, 0)]
                return np.where(index >= 0, values, np.float32(0))
        known = PER_DRAW | {f"{quantity}_samples" for quantity in (*SAMPLES, *self.parameters)}
        if name in known and "samps_dist" not in self._arrays:
            raise self._no_draws(name)
        draws = [f"{k}_samples" for k in (*SAMPLES, *self._models())]
        raise KeyError(f"no '{name}'; there are {', '.join([*self._arrays, *draws])}")

    def _no_draws(self, what: str) -> StoreError:
        reason = "save_draws=False" if "model_idx" in self._arrays else "n_draws=0"
        return StoreError(
            f"no {what}: this result was saved without draws ({reason}); its summaries are in "
            "table()"
        )

    def __getitem__(self, key: Any) -> Any:
        """An array by its name, or the stars at an index, a slice, a mask or an array of rows.

        `result["dist_samples"]` is an array (star, draw), `result[5]` one star, without a leading
        axis, and `result[result.fitted]` a smaller result. Raises `KeyError` for unknown names,
        `IndexError` for rows that are not there.
        """
        if not isinstance(key, str):
            return self._select(key)
        array = self._resolve(key)
        return array[0] if self.single and not key.startswith("models/") else array

    def _select(self, rows: Any) -> "FitResult":
        at = np.arange(len(self))[rows]
        arrays = {
            name: array if name.startswith("models/") else array[np.atleast_1d(at)]
            for name, array in self._arrays.items()
        }
        one = FitResult(arrays, self.attrs | {"single": at.ndim == 0}, single=at.ndim == 0)
        one.path = self.path
        return one

    def star(self, source_id: Any) -> "FitResult":
        """The star with an identifier, as the table of stars had it (text or a number).

        Raises `KeyError` if there is none, or more than one.
        """
        ids = self._arrays["source_id"]
        as_bytes = isinstance(source_id, str) and ids.dtype.kind == "S"
        wanted = source_id.encode() if as_bytes else source_id
        rows = np.flatnonzero(ids == wanted)
        if rows.size != 1:
            raise KeyError(f"{rows.size} stars have the identifier {source_id!r}")
        return self[int(rows[0])]

    def draws(self, index: int = 0) -> dict[str, np.ndarray]:
        """Equal-weight draws of one star: dist [kpc], av [mag], rv, and the grid's labels.

        Raises `StoreError` if the result was saved without draws.
        """
        if "samps_dist" not in self._arrays:
            raise self._no_draws("draws")
        names = ["dist", "av", "rv", *self._models(), "log_post", "weight"]
        out = {name: self._resolve(f"{name}_samples", index) for name in names}
        return out | {"model": self._arrays["model_idx"][index]}

    def table(self) -> "Table":
        """An astropy table: one row per star, quantiles, evidence, quality and flags.

        Columns `<quantity>_<percent>` hold the quantiles of the weighted draws, `_mean` and
        `_std` their moments. Rows that could not be fitted are masked there; `flags` says why.
        """
        try:
            from astropy.table import MaskedColumn, Table
        except ImportError:
            raise ImportError("tables need astropy: pip install 'brutax[tables]'") from None
        table = Table()
        table["source_id"] = self._arrays["source_id"]
        fitted = self.fitted
        for column, name in enumerate(self.parameters):
            unit = QUANTITY_UNITS.get(name)

            def add(suffix: str, values: np.ndarray, name: str = name, unit: Any = unit) -> None:
                table[f"{name}_{suffix}"] = MaskedColumn(values, mask=~fitted, unit=unit)

            add("median", self._arrays["summary_quantiles"][:, column, self.levels.index(0.5)])
            for k, level in enumerate(self.levels):
                if level != 0.5:
                    add(f"p{100 * level:g}", self._arrays["summary_quantiles"][:, column, k])
            add("mean", self._arrays["summary_mean"][:, column])
            add("std", self._arrays["summary_std"][:, column])
        named = {column.table: column.name for column in COLUMNS if column.table}
        for new in TABLE_ORDER:
            column = BY_NAME[named[new]]
            table[new] = MaskedColumn(
                self._arrays[column.name], mask=~fitted, description=column.meaning
            )
        table["n_bands"] = self._arrays["obj_Nbands"]
        table["status"] = self._arrays["status"]
        table["flags"] = [flag_names(int(x)) for x in self._arrays["status"]]
        table.meta.update(
            {k: v for k, v in self.attrs.items() if isinstance(v, str) and len(v) < 2000}
        )
        return table

    @property
    def fitted(self) -> np.ndarray:
        """Which stars have a posterior."""
        return (self._arrays["status"] & (Status.NO_PHOTOMETRY | Status.NO_MODELS)) == 0

    def to_arviz(self, index: int | None = None) -> Any:
        """ArviZ data of one star, or of all (then with a `star` dimension): one chain of draws.

        Works with ArviZ before and after 1.0; raises `ImportError` naming the extra without it,
        `StoreError` if the result was saved without draws.
        """
        try:
            import arviz
        except ImportError:
            raise ImportError("to_arviz needs ArviZ: pip install 'brutax[arviz]'") from None
        names = ["dist", "av", "rv", *self._models()]
        if index is None and self.single:
            index = 0
        rows = slice(None) if index is None else index
        draws = {name: self._resolve(f"{name}_samples", rows) for name in names}
        if index is not None:
            posterior = {name: values[None] for name, values in draws.items()}
            options: dict[str, Any] = {}
        else:
            posterior = {name: values.T[None] for name, values in draws.items()}
            options = {
                "dims": {name: ["star"] for name in names},
                "coords": {"star": _plain_ids(self._arrays["source_id"])},
            }
        if int(arviz.__version__.split(".")[0]) >= 1:
            return arviz.from_dict({"posterior": posterior}, **options)
        return arviz.from_dict(posterior=posterior, **options)

    def __repr__(self) -> str:
        n = self.n_stars
        if n == 1 and self.fitted[0]:
            mean, std = self._arrays["summary_mean"][0], self._arrays["summary_std"][0]
            parts = [
                f"{name}={m:.4g}±{s:.2g}"
                for name, m, s in zip(self.parameters, mean, std, strict=True)
            ]
            return f"FitResult(1 star: {', '.join(parts)}; dist in kpc, av in mag)"
        flagged = int(np.count_nonzero(self._arrays["status"]))
        return f"FitResult({n} stars, {int(self.fitted.sum())} fitted, {flagged} with flags)"


def load(path: str | Path | Sequence[str | Path]) -> FitResult:
    """Opens results: a posterior file, several of them, a folder or a pattern like `run/*.h5`.

    Several files are joined, star by star, in the order given (a folder's or pattern's in that of
    names); they must be fits over the same grid, of the same kind. Raises `StoreError` for files
    that are missing, damaged, or do not fit together.
    """
    files = _files(path)
    results = [FitResult.load(file) for file in files]
    if len(results) == 1:
        return results[0]
    first = results[0]
    for file, other in zip(files[1:], results[1:], strict=True):
        same = first.keys() == other.keys() and first.parameters == other.parameters
        own, its = first._models(), other._models()
        if not same or any(not np.array_equal(own[k], its[k], equal_nan=True) for k in own):
            raise StoreError(f"{file} does not go with {files[0]}: another grid or other datasets")
    try:
        arrays = {
            name: first._arrays[name]
            if name.startswith("models/")
            else np.concatenate([result._arrays[name] for result in results])
            for name in first.keys()
        }
    except (ValueError, TypeError) as error:
        raise StoreError(f"{files[0]} and others have rows of other shapes: {error}") from None
    unfinished = sum(result.attrs["unfinished"] for result in results)
    return FitResult(arrays, first.attrs | {"unfinished": unfinished, "single": False})


def _files(path: str | Path | Sequence[str | Path]) -> list[Path]:
    if not isinstance(path, str | Path):
        files = [Path(one) for one in path]
    elif Path(path).is_dir():
        files = sorted(x for x in Path(path).iterdir() if x.suffix.lower() in (".h5", ".hdf5"))
    elif glob.has_magic(str(path)) and not Path(path).exists():
        files = sorted(Path(x) for x in glob.glob(str(path)))
    else:
        files = [Path(path)]
    if not files:
        raise StoreError(f"{path}: no posterior file there")
    return files


def flag_names(status: int) -> str:
    """The flags of a status in words, joined by '|'; empty if there are none."""
    return "|".join(str(flag.name) for flag in Status if flag and int(status) & flag)


def _plain_ids(ids: np.ndarray) -> list:
    return [x.decode() if isinstance(x, bytes) else x for x in ids.tolist()]
