"""Two models on the same labelled photos."""
