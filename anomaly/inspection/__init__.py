"""Photos -> verdicts as a stream: read ahead, score, decide, write in the order of the input."""
