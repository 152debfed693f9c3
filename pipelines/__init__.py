"""Questions asked of the package end to end; each is a module to run with `python -m pipelines.<name>`."""
