"""Times brutus' likelihood of a cluster, for benchmarks/cluster.py; needs only brutus."""

import json
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")
ask = json.load(open(sys.argv[1]))

from brutus.analysis.populations import isochrone_population_loglike  # noqa: E402
from brutus.core import Isochrone, StellarPop  # noqa: E402

isochrone = Isochrone(ask["files"]["isochrones"], verbose=False)
pop = StellarPop(isochrone, filters=ask["bands"], nnfile=ask["files"]["networks"], verbose=False)
seconds = {}
for count, path in ask["stars"].items():
    with np.load(path) as file:
        flux, err, plx, plx_err = (file[x] for x in ("flux", "err", "plx", "plx_err"))
    times = []
    for _ in range(ask["repeats"] + 1):
        start = time.perf_counter()
        isochrone_population_loglike(
            np.array(ask["theta"]),
            pop,
            flux,
            err,
            parallax=plx,
            parallax_err=plx_err,
            smf_grid=np.array(ask["smf"]),
            eep_grid=np.array(ask["eep"]),
        )
        times.append(time.perf_counter() - start)
    seconds[count] = times[1:]
json.dump(seconds, open(ask["result"], "w"))
