"""Predicted visibility against real defects: the sets, the cells, and what follows from them."""
