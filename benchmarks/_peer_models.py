"""Runs brutus on the files that benchmarks/models.py made; needs only brutus and its stack."""

import json
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")
ask = json.load(open(sys.argv[1]))
out = {}

from brutus.core import EEPTracks, GridGenerator, Isochrone, StarEvolTrack, StarGrid, StellarPop  # noqa: E402
from brutus.data import load_models  # noqa: E402

bands, files = ask["bands"], ask["files"]
tracks = EEPTracks(files["tracks"], verbose=False, use_cache=False)
out["tracks"] = tracks.get_predictions(np.array(ask["labels"]))
isochrone = Isochrone(files["isochrones"], verbose=False)
eep = np.array(ask["eep"])
out["isochrone"] = isochrone.get_predictions(eep=eep, **ask["age"])
pop = StellarPop(isochrone, filters=bands, nnfile=files["networks"], verbose=False)
smf = np.array(ask["smf"])
table = pop.get_seds_smf_grid(smf, eep=eep, mini_bound=0.1, **ask["age"])
out["population"] = np.stack([sed for sed, _, _ in table])
times = []
for _ in range(3):
    start = time.perf_counter()
    pop.get_seds_smf_grid(smf, eep=eep, mini_bound=0.1, **ask["age"])
    times.append(time.perf_counter() - start)
out["population_seconds"] = np.array(min(times))
star = StarEvolTrack(tracks, filters=bands, nnfile=files["networks"], verbose=False)
out["pairs"] = np.stack([star.get_seds(**one)[0] for one in ask["pairs"]])
start = time.perf_counter()
generator = GridGenerator(tracks, filters=bands, nnfile=files["networks"], verbose=False)
generator.make_grid(
    output_file=ask["grid_out"], verbose=False, **{k: np.array(v) for k, v in ask["nodes"].items()}
)
out["grid_seconds"] = np.array(time.perf_counter() - start)
out["grid_models"] = np.array(np.sum(generator.grid_sel))
models, labels, mask = load_models(
    ask["grid_in"], filters=bands, include_binaries=True, verbose=False
)
grid = StarGrid(models, labels, verbose=False)
out["read_models"] = np.array(models)
points = ask["points"]
out["grid_seds"] = np.stack([grid.get_seds(**one)[0] for one in points])
np.savez(ask["result"], **out)
