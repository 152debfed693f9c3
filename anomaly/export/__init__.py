"""The detector outside torch: one graph from working photo to score and map, written, verified, and run."""
