"""Processes that are killed in the middle of a fit, by every method, and started again."""

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _posteriors import same

from brutax import infer

METHODS = {
    "nuts": dict(num_warmup=300, num_samples=1000, num_chains=4, chunk=1),
    "ensemble": dict(num_warmup=300, num_samples=1000, chunk=1),
    "nested": dict(num_live=300, num_delete=2, chunk=1),
    "map": dict(num_steps=400, chunk=1),
    "mle": dict(num_steps=400, chunk=1),
    "dynesty": dict(nlive=200),
    "nautilus": dict(n_live=500, n_eff=20_000),
    "emcee": dict(nsteps=2000, chunk=1),
    "pocomc": dict(n_effective=500, n_total=20_000),  # a stand-in, see test_infer_hosts
}
CODE = """
import sys, types
sys.path.insert(0, {tests!r})
from _posteriors import gaussian_problem, infer
if {method!r} == "pocomc":
    from test_infer_hosts import StandInSampler
    sys.modules["pocomc"] = types.ModuleType("pocomc")
    sys.modules["pocomc"].Sampler = StandInSampler
post = infer.fit(gaussian_problem(), {method!r}, key=1, checkpoint={path!r},
                 save_every={every!r}, **{options!r})
post.save({out!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_processes_go_on_bit_for_bit(method, tmp_path):
    """SIGKILL, then SIGTERM, then to the end; beside a run that nobody disturbed."""
    if method in ("dynesty", "nautilus", "emcee") and not importlib.util.find_spec(method):
        pytest.skip(f"{method} is not installed")

    def start(path, every):
        code = CODE.format(
            tests=str(Path(__file__).parent),
            method=method,
            path=str(path),
            options=METHODS[method],
            every=every,
            out=str(path) + ".out",
        )
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    path, whole = tmp_path / "killed.h5", tmp_path / "whole.h5"
    for number in (signal.SIGKILL, signal.SIGTERM):
        process, seen = start(path, 0.0), path.stat().st_mtime_ns if path.exists() else 0
        while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == seen):
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(number)
        text = process.communicate()[1]
        assert process.returncode != 0, text
        assert number == signal.SIGKILL or "run the same call again" in text
    for name in (path, whole):
        process = start(name, 60.0)
        text = process.communicate()[1]
        assert process.returncode == 0, text
    same(infer.Posterior.load(f"{whole}.out"), infer.Posterior.load(f"{path}.out"))
