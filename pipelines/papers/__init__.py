"""The experiments of the papers that the method rests on, small enough for one CPU core."""
