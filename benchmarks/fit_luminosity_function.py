"""Fits the smooth form of the PS1 luminosity function that `brutax.priors` evaluates.

    python benchmarks/fit_luminosity_function.py path/to/PSMrLF_lnprior.dat

The table (421 rows, M_r from -1 to 20, natural log of stars per pc^3 per mag; G. Green, after the
Parsec models) is distributed with brutus under the MIT licence. A cubic spline with few knots
is fitted by least squares; knots are added one at a time where the error is largest, until the
rms error below M_r = 16 is less than 2e-3. Prints the constants of brutax/priors/luminosity.py.
"""

import sys

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares


def design(knots: np.ndarray, mr: np.ndarray) -> np.ndarray:
    """The spline at `mr` as a linear function of (values at the knots, two end slopes)."""
    n = len(knots)
    columns = []
    for k in range(n + 2):
        unit = np.eye(n + 2)[k]
        spline = CubicSpline(knots, unit[:n], bc_type=((1, unit[n]), (1, unit[n + 1])))
        columns.append(spline(mr))
    return np.stack(columns, axis=-1)


def solve(knots: np.ndarray, mr: np.ndarray, ln_lf: np.ndarray) -> np.ndarray:
    """Least squares with the end slopes, and nearly the end values, fixed to the table's."""
    n = len(knots)
    slopes = np.diff(ln_lf)[[0, -1]] / np.diff(mr)[[0, -1]]
    matrix = design(knots, mr)
    # per-point weights: the tail beyond 16 falls by 190 nats and needs only to be followed
    weight = np.where(mr < 16, 1.0, 0.05)
    weight[[0, -1]] = 100.0
    target = ln_lf - matrix[:, n:] @ slopes
    values = np.linalg.lstsq(matrix[:, :n] * weight[:, None], target * weight, rcond=None)[0]
    return np.concatenate([values, slopes])


def errors(knots: np.ndarray, mr: np.ndarray, ln_lf: np.ndarray) -> np.ndarray:
    return design(knots, mr) @ solve(knots, mr, ln_lf) - ln_lf


def score(error: np.ndarray, mr: np.ndarray) -> np.ndarray:
    return np.where(mr < 16, error / 2e-3, error / 2e-2)


def add_knot(knots: np.ndarray, mr: np.ndarray, ln_lf: np.ndarray) -> np.ndarray:
    """Splits the interval with the largest sum of squared errors at its middle."""
    squares = score(errors(knots, mr, ln_lf), mr) ** 2
    sums = np.histogram(mr, bins=knots, weights=squares)[0]
    sums = np.where(np.diff(knots) > 0.15, sums, 0.0)
    worst = int(np.argmax(sums))
    return np.sort(np.append(knots, 0.5 * (knots[worst] + knots[worst + 1])))


def polish(knots: np.ndarray, mr: np.ndarray, ln_lf: np.ndarray) -> np.ndarray:
    """Moves the inner knots to lower the error."""

    def place(log_gaps: np.ndarray) -> np.ndarray:
        gaps = np.exp(log_gaps - np.max(log_gaps))
        return mr[0] + (mr[-1] - mr[0]) * np.append(0.0, np.cumsum(gaps) / np.sum(gaps))

    def residual(log_gaps: np.ndarray) -> np.ndarray:
        return score(errors(place(log_gaps), mr, ln_lf), mr)

    fit = least_squares(residual, np.log(np.diff(knots)), max_nfev=25)
    return np.round(place(fit.x), 3)


def main(path: str) -> None:
    mr, ln_lf = np.loadtxt(path, unpack=True)
    knots = np.linspace(mr[0], mr[-1], 20)
    while True:
        knots = add_knot(knots, mr, ln_lf)
        best = polish(knots, mr, ln_lf) if len(knots) % 2 == 0 and len(knots) > 28 else knots
        error = errors(best, mr, ln_lf)
        rms, tail = np.std(error[mr < 16]), np.max(np.abs(error[mr >= 16]))
        print(f"# {len(best)} knots: rms {rms:.5f} below 16, largest {tail:.4f} beyond")
        if len(knots) % 2 == 0:
            knots = best
        if rms < 1.5e-3 and tail < 0.1:
            break
    solution = solve(best, mr, ln_lf)
    np.set_printoptions(linewidth=95, threshold=1000)
    print("KNOTS", np.array2string(best, separator=", "))
    print("VALUES", np.array2string(np.round(solution[:-2], 4), separator=", "))
    print("SLOPES", np.round(solution[-2:], 4).tolist())


if __name__ == "__main__":
    main(sys.argv[1])
