"""Runtimes that run exported graphs, one class each behind one method."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anomaly.errors import BundleError, ConfigError

Floats = NDArray[np.float32]
Photos = NDArray[np.uint8]

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Format of an export -> the library that runs it."""
FULL = "float32"
"""The precision that the model was fitted and calibrated in."""
PRECISIONS = {"onnx": (FULL, "int8"), "openvino": (FULL, "bfloat16", "int8")}
INSTALL = "install it with: pip install 'anomaly[runtime]'"


def runtime_name(graph: str, precision: str) -> str:
    """What `inspect --runtime` calls a format in a precision: openvino, openvino-int8."""
    return RUNTIMES[graph] + ("" if precision == FULL else f"-{precision}")


VARIANTS = {
    runtime_name(graph, precision): (graph, precision)
    for graph, precisions in PRECISIONS.items()
    for precision in precisions
}
"""Name of a runtime -> format and precision of its export."""


class Graph(Protocol):
    """An exported graph, loaded."""

    def run(self, photos: Photos) -> list[Floats]:
        """(B, H, W, 3) uint8 working photos -> the outputs of the graph. Safe to call from threads."""
        ...


def load_graph(runtime: str, path: Path, threads: int, calls: int = 1) -> Graph:
    """The graph in the file `path` for one of VARIANTS, run on `threads` cores a call, `calls` at a time.

    Raises ConfigError, BundleError.
    """
    library, _, precision = runtime.partition("-")
    try:
        if library == "onnxruntime":
            return OnnxRuntime(path, threads)
        return OpenVino(path, threads, calls, "bf16" if precision == "bfloat16" else "f32")
    except ImportError:
        raise ConfigError(f"{library} is not installed: {INSTALL}") from None
    except Exception as error:  # both libraries raise types of their own
        reason = str(error).strip().partition("\n")[0]
        raise BundleError(f"{path} cannot be loaded by {library} ({reason}): export it again") from None


class OnnxRuntime:
    """ONNX Runtime on the CPU; each call works in the thread that makes it."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, photos: Photos) -> list[Floats]:
        outputs: list[Floats] = self._session.run(None, {"photos": photos})
        return outputs


class OpenVino:
    """OpenVINO on the CPU, in the precision that is asked for whatever the processor would like better.

    It works in threads of its own: as many streams as there are calls at a time, or they would queue.
    """

    def __init__(self, path: Path, threads: int, calls: int, precision: str) -> None:
        import openvino

        core = openvino.Core()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads * calls,
            "NUM_STREAMS": calls,
        }
        self._model = core.compile_model(core.read_model(path), "CPU", settings)
        self._own = threading.local()

    def run(self, photos: Photos) -> list[Floats]:
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        request = self._own.request
        request.infer({"photos": photos})
        return [request.get_output_tensor(index).data.copy() for index in range(len(self._model.outputs))]
