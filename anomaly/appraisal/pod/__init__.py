"""Probability of detection: curves from trials; trials from real masks or from drawn defects."""
