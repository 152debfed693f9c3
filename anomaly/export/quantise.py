"""An exported graph whose backbone computes in 8-bit integers.

The ranges of values are those that photos show (static quantisation; Jacob et al., CVPR 2018), weights have
one scale a channel. The branches measure small differences between features: they stay in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anomaly.detector import Photo

KINDS = ("Conv", "Clip", "Relu", "Add")


def quantise(path: Path, photos: Sequence[Photo]) -> None:
    """Put 8-bit convolutions into the backbone of the ONNX graph at `path`, with the ranges that working
    `photos` show. Raises ImportError without onnx and onnxruntime."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    nodes = onnx.load(prepared).graph.node
    quantize_static(
        prepared,
        path,
        _Reader(photos),
        op_types_to_quantize=list(KINDS),
        nodes_to_quantize=[node.name for node in nodes if node.op_type in KINDS and "backbone" in node.name],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


class _Reader:
    """Hands the photos out one by one, as onnxruntime asks for them."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self._photos = iter(photos)

    def get_next(self) -> dict[str, Photo] | None:
        photo = next(self._photos, None)
        return None if photo is None else {"photos": np.ascontiguousarray(photo[None])}
