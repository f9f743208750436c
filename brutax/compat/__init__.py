"""Scripts written for other packages run: brutus in `compat.brutus`, socca in `compat.socca`."""
