"""How fast photos are judged, beside the backbone alone, the machine's limit, and anomalib."""

QUICK = (
    "tracking.enabled=false", "contrastive.steps=2", "contrastive.views=2", "contrastive.patches=64",
    "contrastive.backbone_steps=2", "scorers.reconstruction.steps=2", "picture_steps=1",
    "data.any_angle=false",
)  # fmt: skip
"""Settings of a fit of few training steps: speed does not depend on them. An untrained backbone cannot tell
a product at any angle."""
