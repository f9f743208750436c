"""What a measurement of zero points returns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brutax.data import save_offsets


@dataclass(frozen=True)
class ZeroPoints:
    """Offsets that multiply observed fluxes and their errors, band by band.

    `offsets`, `errors` and `n_stars` are (band,); `errors` are infinite in bands for which none of
    the stars constrains the offset. The method "evidence" also gives

    - `floors` and `floor_errors` (band,) [mag]: relative errors to be added in quadrature to those
      of the fluxes;
    - `covariance` (2 band, 2 band) of ln(offset) and floor^2 [mag^2], in this order;
    - `scatter` (2 band, 2 band), the part of it that comes from the finite number of draws;
    - `ess_per_draw`, the effective number of draws per draw of the median star under the new
      settings. Where it is near 0.3 the search stopped because the draws of this fit say nothing
      of settings farther away: the stars should be fitted again, as `brutax.zeropoints.fit` does.

    They are None for "resampling".
    """

    bands: tuple[str, ...]
    offsets: np.ndarray
    errors: np.ndarray
    n_stars: np.ndarray
    floors: np.ndarray | None = None
    floor_errors: np.ndarray | None = None
    covariance: np.ndarray | None = None
    scatter: np.ndarray | None = None
    ess_per_draw: float | None = None

    @property
    def scatter_errors(self) -> np.ndarray:
        """The part of the errors of ln(offset) from the finite number of draws, 0 if unknown."""
        if self.scatter is None:
            return np.zeros(len(self.bands))
        return np.sqrt(np.diag(self.scatter)[: len(self.bands)])

    def save(self, path: str | Path) -> Path:
        """Writes the offsets as a text file that `brutax.data.load_offsets` reads."""
        return save_offsets(path, self.bands, self.offsets)
