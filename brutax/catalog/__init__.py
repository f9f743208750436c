"""Stars in, posteriors out: tables of many formats, and the store of results."""

from brutax.catalog.catalogue import Catalog as Catalog
from brutax.catalog.catalogue import CatalogError as CatalogError
from brutax.catalog.catalogue import make_catalog as make_catalog
from brutax.catalog.columns import resolve_bands as resolve_bands
from brutax.catalog.read import read_stars as read_stars
from brutax.catalog.result import FitResult as FitResult
from brutax.catalog.result import flag_names as flag_names
from brutax.catalog.result import load as load
from brutax.catalog.store import PosteriorStore as PosteriorStore
from brutax.catalog.store import StoreError as StoreError
from brutax.utils.durable import digest as digest
