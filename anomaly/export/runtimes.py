"""Runtimes that judge working photos with an exported graph, one class each behind one method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anomaly.errors import BundleError, ConfigError
from anomaly.maps import Map

Floats = NDArray[np.float32]
Photos = NDArray[np.uint8]

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Format of an export -> the library that runs it."""
INSTALL = "install it with: pip install 'anomaly[runtime]'"


class Graph(Protocol):
    """An exported graph, loaded."""

    def run(self, photos: Photos) -> tuple[Floats, Map]:
        """(B, H, W, 3) uint8 working photos -> scores (B,), maps (B, h, w). Safe to call from threads."""
        ...


def load_graph(runtime: str, path: Path, threads: int) -> Graph:
    """The graph in the file `path`, run on `threads` cores a call. Raises ConfigError, BundleError."""
    try:
        return OnnxRuntime(path, threads) if runtime == "onnxruntime" else OpenVino(path, threads)
    except ImportError:
        raise ConfigError(f"{runtime} is not installed: {INSTALL}") from None
    except Exception as error:  # both libraries raise types of their own
        reason = str(error).strip().partition("\n")[0]
        raise BundleError(f"{path} cannot be loaded by {runtime} ({reason}): export it again") from None


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, photos: Photos) -> tuple[Floats, Map]:
        scores, maps = self._session.run(None, {"photos": photos})
        return scores, maps


class OpenVino:
    """OpenVINO on the CPU, in float32 whatever the processor would like better."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._model = core.compile_model(core.read_model(path), "CPU", settings)

    def run(self, photos: Photos) -> tuple[Floats, Map]:
        request = self._model.create_infer_request()
        request.infer({"photos": photos})
        return request.get_output_tensor(0).data.copy(), request.get_output_tensor(1).data.copy()
