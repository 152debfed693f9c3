"""What an encoder keeps and what it has lost, measured, with a reading in words for each number."""
