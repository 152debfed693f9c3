"""Which setting of the dials sees most and stays steady: a grid of short fits, each probed."""
