"""A fitted model appraised as an instrument, by the decisions that `inspect` takes.

pod      the size from which defects are found
gauge    whether photos of one part are judged alike, and right
compare  which of two models is better, and whether that is more than chance
"""
