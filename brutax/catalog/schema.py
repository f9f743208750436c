"""The one table of the posterior file: what every dataset is called, holds and means.

Writers (`PosteriorStore`, `brutax.fitting.rows`), readers (`FitResult`, its `.table()`, `brutax
info`) and the page docs/posterior-file.md are made from `COLUMNS`. Names, types and fill values
follow brutus 1.2.0 where it has the dataset.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DRAW, PARAMETER, LEVEL = "draw", "parameter", "level"  # axes whose lengths a fit decides
DRAW_DTYPES = {"float32": "f4", "float16": "f2"}  # of distance, A_V and R_V of draws


@dataclass(frozen=True)
class Column:
    """One dataset of a posterior file, which has a leading axis over stars.

    `shape` is that of one star: numbers, or names of axes. `dtype` is that of NumPy. `fill` stands
    in rows that could not be fitted. `source` says where in `brutax.solver.StarPosterior`, or how,
    the values arise. `table` is its name in `FitResult.table()`, `samples` the quantity whose draws
    it holds. `half` columns may be kept in half precision; `sampled` ones are left out with
    `save_draws=False`.
    """

    name: str
    shape: tuple[str | int, ...]
    dtype: str
    fill: float | int
    unit: str
    meaning: str
    source: str
    table: str | None = None
    samples: str | None = None
    half: bool = False
    sampled: bool = False

    @property
    def per_draw(self) -> bool:
        """Whether there is one value (or matrix) for each draw of a star."""
        return self.shape[:1] == (DRAW,)


_MODE = "at the optimum of the draw's model"
_OF_WEIGHTED = "of the weighted draws, in the order of the attribute `parameters`"

COLUMNS: tuple[Column, ...] = (
    Column(
        "model_idx", (DRAW,), "i4", -99, "", "row of the grid that the draw comes from",
        "draws.model, by the order of the tiles",
    ),
    Column(
        "ml_scale", (DRAW,), "f4", 1, "kpc^-2", f"distance^-2 {_MODE}", "exp(-2 draws.mode.eta)"
    ),
    Column("ml_av", (DRAW,), "f4", 0, "mag", f"A_V {_MODE}", "draws.mode.av"),
    Column("ml_rv", (DRAW,), "f4", 0, "", f"R_V {_MODE}", "draws.mode.rv"),
    Column(
        "ml_cov_sar", (DRAW, 3, 3), "f4", 0, "kpc^-2, mag, 1",
        f"covariance of (scale, A_V, R_V) {_MODE}", "draws.cov_sar",
    ),
    Column(
        "obj_log_post", (DRAW,), "f4", 0, "", "ln posterior mass of the draw's model",
        "draws.log_model, with the constant of the star",
    ),
    Column(
        "obj_log_evid", (), "f4", 0, "", "ln evidence (fluxes in maggies, parallax in mas)",
        "log_evidence, with the constant of the star", table="log_evidence",
    ),
    Column(
        "obj_chi2min", (), "f4", 0, "",
        "smallest chi-square of the draws' modes, parallax included", "chi2_min",
        table="chi2_min",
    ),
    Column(
        "obj_Nbands", (), "i2", 0, "", "bands used, plus one with a parallax",
        "the catalogue", table="n_bands",
    ),
    Column(
        "mc_ess", (DRAW,), "f4", 0, "", "effective draws from the same model", "draws.model_ess",
    ),
    Column(
        "samps_dist", (DRAW,), "f4", 1, "kpc", "distance", "exp(draws.theta.eta)",
        samples="dist", half=True, sampled=True,
    ),
    Column(
        "samps_red", (DRAW,), "f4", 1, "mag", "A_V", "draws.theta.av",
        samples="av", half=True, sampled=True,
    ),
    Column(
        "samps_dred", (DRAW,), "f4", 1, "", "R_V", "draws.theta.rv",
        samples="rv", half=True, sampled=True,
    ),
    Column(
        "samps_logp", (DRAW,), "f4", 1, "", "ln posterior density of the draw",
        "draws.log_post, with the constant of the star", samples="log_post", sampled=True,
    ),
    Column(
        "samps_weight", (DRAW,), "f4", 0, "", "weight of the draw; the weights sum to one",
        "1 / number of draws", samples="weight", sampled=True,
    ),
    Column(
        "status", (), "i4", 0, "", "sum of flags, see attribute `flags`",
        "the catalogue, and the judgement of the fit", table="status",
    ),
    Column(
        "obj_log_evid_err", (), "f4", 0, "", "Monte Carlo error of obj_log_evid",
        "log_evidence_err", table="log_evidence_err",
    ),
    Column(
        "obj_ess", (), "f4", 0, "", "effective number of weighted draws", "ess", table="ess"
    ),
    Column(
        "obj_khat", (), "f4", 0, "",
        "Pareto index of the weights (Vehtari et al. 2024); trust below 0.7", "pareto_k",
        table="pareto_k",
    ),
    Column("obj_nsamp", (), "i4", 0, "", "weighted draws made", "n_samples"),
    Column(
        "obj_captured", (), "f4", 0, "", "share of the screened mass that could be drawn",
        "captured",
    ),
    Column(
        "obj_pvalue", (), "f4", 0, "", "p-value of obj_chi2min with obj_Nbands - 3 degrees of "
        "freedom, one at least", "chi2_min", table="p_value",
    ),
    Column(
        "summary_quantiles", (PARAMETER, LEVEL), "f4", 0, "of each quantity",
        f"quantiles {_OF_WEIGHTED}, at the levels of `quantile_levels`", "quantiles",
    ),
    Column(
        "summary_mean", (PARAMETER,), "f4", 0, "of each quantity", f"mean {_OF_WEIGHTED}", "mean",
    ),
    Column(
        "summary_std", (PARAMETER,), "f4", 0, "of each quantity",
        f"standard deviation {_OF_WEIGHTED}", "std",
    ),
)  # fmt: skip

BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}
SAMPLES: Mapping[str, str] = {c.samples: c.name for c in COLUMNS if c.samples is not None}
HALF = tuple(column.name for column in COLUMNS if column.half)
PER_DRAW = frozenset(column.name for column in COLUMNS if column.per_draw)
# order of the quality columns in `FitResult.table()`, after the quantities
TABLE_ORDER = ("log_evidence", "log_evidence_err", "chi2_min", "p_value", "ess", "pareto_k")
# units of summarised quantities, as astropy writes them; others have none
QUANTITY_UNITS = {"dist": "kpc", "av": "mag", "mini": "solMass", "Mr": "mag"}

# datasets beside those of `COLUMNS`, and what they hold
BESIDE = {
    "source_id": "(star,) identifiers as the table of stars has them",
    "labels": "(star, ...) what `data_labels` held, or the identifiers",
    "done": "(star,) 1 where the row is finished",
    "models/<label>": "(model,) labels of the rows of the grid; not in files without draws",
}


def columns(n_draws: int, save_draws: bool = True) -> Iterable[Column]:
    """The columns that a file has; without draws only those of whole stars."""
    for column in COLUMNS:
        if (save_draws or not column.sampled) and (n_draws or not column.per_draw):
            yield column


def markdown() -> str:
    """The table as docs/posterior-file.md shows it."""
    lines = [
        "| dataset | per star | type | fill | unit | meaning | from | in `table()` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in COLUMNS:
        shape = " x ".join(str(x) for x in c.shape) or "1"
        dtype = f"{c.dtype} or f2" if c.half else c.dtype
        also = c.table or (f"`{c.samples}_samples`" if c.samples else "")
        lines.append(
            f"| `{c.name}` | {shape} | {dtype} | {c.fill} | {c.unit} | {c.meaning} | "
            f"{c.source} | {also} |"
        )
    return "\n".join(lines)
