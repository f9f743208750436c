"""Times brutus' likelihood of clouds, in the Python that has it: see dust.py.

    python _peer_dust.py INPUT.npz

Prints JSON: seconds per call (the best of several) and the value.
"""

import json
import sys
import time

import numpy as np
from brutus.analysis import los_clouds_loglike_samples

given = np.load(sys.argv[1])
theta, dist, red = given["theta"], given["dist"], given["red"]
times = []
for _ in range(30):
    start = time.perf_counter()
    for _ in range(10):
        value = los_clouds_loglike_samples(theta, dist, red, Ndraws=dist.shape[1])
    times.append((time.perf_counter() - start) / 10)
print(json.dumps({"seconds": min(times), "value": float(value)}))
