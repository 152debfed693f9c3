"""What a model sees and what it is blind to, measured with probes on held-out normal photos."""
