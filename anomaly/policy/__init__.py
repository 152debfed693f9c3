"""What makes decisions of scores: thresholds, region rules, and their versions beside the model."""
