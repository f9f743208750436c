"""Files that later processes use again: compiled programs and the tiles of grids.

Nothing is exported: `programs` compiles and keeps, `files` reads and writes.
"""
