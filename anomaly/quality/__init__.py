"""Thresholds, intervals, paired tests and an audit log that a quality engineer can sign."""
