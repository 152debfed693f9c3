"""From what a quality engineer asks to a version of the policy, with the evidence for it."""
