"""Gauge study: repeated photos of the same parts."""
