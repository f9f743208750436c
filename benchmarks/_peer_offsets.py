"""Runs brutus' photometric_offsets on a sample from benchmarks/offsets.py; needs only brutus."""

import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")
from brutus.analysis import PhotometricOffsetsConfig, photometric_offsets  # noqa: E402

with np.load(sys.argv[1]) as file:
    sample = {name: file[name] for name in file.files}
config = PhotometricOffsetsConfig(random_seed=int(sys.argv[3]))
times = []
for _ in range(int(sys.argv[4])):
    start = time.perf_counter()
    found = photometric_offsets(**sample, verbose=False, config=config)
    times.append(time.perf_counter() - start)
np.savez(sys.argv[2], found=np.array(found), seconds=np.array(times))
