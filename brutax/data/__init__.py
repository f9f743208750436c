"""Files of models: grids, photometric offsets and the names of bands."""

from brutax.data._layouts import GridError as GridError
from brutax.data._layouts import GridNotFoundError as GridNotFoundError
from brutax.data.download import fetch as fetch
from brutax.data.download import fetch_dustmaps as fetch_dustmaps
from brutax.data.download import fetch_grids as fetch_grids
from brutax.data.download import fetch_isos as fetch_isos
from brutax.data.download import fetch_nns as fetch_nns
from brutax.data.download import fetch_offsets as fetch_offsets
from brutax.data.download import fetch_tracks as fetch_tracks
from brutax.data.download import find_file as find_file
from brutax.data.download import find_nn_file as find_nn_file
from brutax.data.filters import FILTERS as FILTERS
from brutax.data.filters import band_system as band_system
from brutax.data.gridfile import GridData as GridData
from brutax.data.gridfile import grid_hash as grid_hash
from brutax.data.gridfile import read_grid as read_grid
from brutax.data.gridfile import write_grid as write_grid
from brutax.data.loader import load_models as load_models
from brutax.data.loader import load_offsets as load_offsets
from brutax.data.loader import save_offsets as save_offsets
