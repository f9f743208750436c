"""What is kept for later processes: compiled programs and the tiles of grids."""
