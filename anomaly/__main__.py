"""`python -m anomaly` is the command line."""

from anomaly.cli import main

main()
