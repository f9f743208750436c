"""What the benchmarks share: where the data are, what ran them, and where results go."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
PS = tuple(f"PS_{x}" for x in "grizy")
TMASS = ("2MASS_J", "2MASS_H", "2MASS_Ks")
ORION = "observed/Orion_l204.7_b-19.2.h5"
ORION_DATASET = "photometry/pixel 0-0"


def parser(doc: str, *, peer: bool = False) -> argparse.ArgumentParser:
    """Arguments that every benchmark has: the data, and the peer's Python if it needs one."""
    out = argparse.ArgumentParser(description=doc.strip().splitlines()[0])
    default = os.environ.get("BRUTAX_SHARED_DATA")
    out.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)  # see `in_own_process`
    out.add_argument(
        "--shared",
        type=Path,
        default=Path(default) if default else Path(__file__).resolve().parents[2] / "shared/data",
        help="folder of grids and catalogues (default: BRUTAX_SHARED_DATA or ../shared/data)",
    )
    if peer:
        out.add_argument(
            "--peer-python",
            default=os.environ.get("BRUTAX_PEER_PYTHON"),
            help="a Python that has astro-brutus (default: BRUTAX_PEER_PYTHON)",
        )
    return out


def parse(given: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads the command line and checks that data and peer are where they should be."""
    args = given.parse_args()
    if not args.case and not args.shared.is_dir():
        given.error(f"--shared {args.shared} is not a folder")
    if "peer_python" in args and not args.peer_python:
        given.error("--peer-python or BRUTAX_PEER_PYTHON: the Python that has brutus installed")
    return args


def cpu() -> str:
    """The processor's name and the number of its cores that this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    count = len(os.sched_getaffinity(0))
    return f"{name}, {count} core{'s' if count > 1 else ''}"


def device() -> str:
    """What JAX computes on."""
    import jax

    kind = jax.devices()[0]
    return cpu() if kind.platform == "cpu" else f"{kind.device_kind}; host {cpu()}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter."""
    out = {"python": platform.python_version()}
    for name in ("brutax", "jax", "jaxlib", "equinox", "numpy", "h5py"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "absent"
    return out


def peak_rss_mb() -> float:
    """The most memory this process has held [MB]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def in_own_process(script: str, case: Mapping[str, Any], **environment: str) -> dict[str, Any]:
    """What a script says of a case (`answer`) in a process of its own: so is its memory."""
    done = subprocess.run(
        [sys.executable, script, "--case", json.dumps(plain(case))],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{Path(script).name} failed with {dict(case)}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(values: Mapping[str, Any]) -> None:
    """Prints the results of a case for the process that asked."""
    print(json.dumps(plain(values)))


def known(name: str) -> dict[str, Any]:
    """The record of an earlier run, empty if there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def plain(value: Any) -> Any:
    """A value as JSON holds it, numbers with six digits."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.name if isinstance(value, Path) else value  # folders differ between machines


def write(
    name: str,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    ran: Sequence[str] | None = None,
) -> Path:
    """Writes results/<name>.json with everything needed to know what was measured.

    Where only the parts `ran` of the results are new, each part keeps its own machine and day.
    """
    RESULTS.mkdir(exist_ok=True)
    now = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device()}
    parts = {}
    if ran is not None:
        old = known(name)
        parts = {k: {x: old[x] for x in now} for k in old.get("results", {})}
        parts |= old.get("parts", {})
        parts = {k: now if k in ran else parts.get(k, now) for k in results}
    record = {
        "benchmark": name,
        **now,
        **({"parts": parts} if parts else {}),
        "versions": versions(),
        "settings": plain(settings),
        "results": plain(results),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path.relative_to(RESULTS.parent)}")
    return path


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints columns, numbers with four digits."""
    text = [[x if isinstance(x, str) else f"{x:.4g}" for x in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    for row in text:
        print(
            "  ".join(x.rjust(w) if i else x.ljust(w) for i, (x, w) in enumerate(zip(row, widths)))
        )


def save_figure(figure: Any, name: str) -> None:
    """Saves a figure as results/<name>.png."""
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    print(f"wrote {RESULTS.name}/{name}.png")
