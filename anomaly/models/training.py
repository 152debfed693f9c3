"""The loop that trains every network: one-cycle AdamW that can be stopped at any step and goes on from it.

All chance in step `i` comes from a generator seeded by (seed, stage, i), so a resumed run draws what the
uninterrupted one would have drawn, and ends in the same weights.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly import distributed
from anomaly.errors import ConfigError

SAVE_EVERY = 15.0
"""Seconds between two checkpoints: what a kill costs at most."""


class Progress(Protocol):
    """Where a long job says how far it is; the command line draws it, MLflow logs it.

    `step` is called between two steps, and may raise KeyboardInterrupt: nothing is then half done.
    """

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None: ...


class Silent:
    """Says nothing."""

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        """Nothing."""


class Together:
    """Tells `progress`; where that wants to stop in any process of a fit, all stop behind the same step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        stop = False
        try:
            self._progress.step(stage, done, total, loss)
        except KeyboardInterrupt:
            stop = True
        if distributed.any_of(stop):
            raise KeyboardInterrupt


@dataclass
class Checkpoints:
    """Half-trained networks in `folder`, one safetensors file a stage; without a folder nothing is kept."""

    folder: Path | None = None
    _saved: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        return self.folder is not None and time.monotonic() - self._saved >= SAVE_EVERY

    def save(
        self, stage: str, step: int, losses: list[float], module: nn.Module, optimizer: torch.optim.AdamW
    ) -> None:
        """Write weights, optimizer state and losses after `step` steps; the file is replaced as a whole."""
        self._saved = time.monotonic()
        if self.folder is None:
            return
        tensors = {f"module.{key}": value.contiguous() for key, value in module.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value.contiguous() for key, value in state.items()}
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        path = self.folder / f"{stage}.safetensors"
        fresh = path.with_suffix(".new")
        save_file(tensors, fresh, {"step": str(step)})
        os.replace(fresh, path)

    def load(self, stage: str, module: nn.Module, optimizer: torch.optim.AdamW) -> tuple[int, list[float]]:
        """(steps done, their losses), having filled `module` and `optimizer`; (0, []) where none is kept."""
        kept = distributed.from_first(lambda: self._kept(stage))
        if kept is None:
            return 0, []
        step, tensors = kept
        module.load_state_dict(
            {key[7:]: value for key, value in tensors.items() if key.startswith("module.")}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return step, tensors["losses"].tolist()

    def _kept(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """(steps done, tensors) of the checkpoint; None where there is none, or a torn one."""
        path = self.folder / f"{stage}.safetensors" if self.folder else None
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                step = int(file.metadata()["step"])
                return step, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError):
            return None


def train(
    module: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    *,
    stage: str,
    steps: int,
    learning_rate: float,
    seed: int,
    checkpoints: Checkpoints,
    progress: Progress,
) -> list[float]:
    """Minimise `loss_of(generator)`, a scalar, over the parameters of `module`; the loss of every step.

    Matrix products run in bfloat16 where the processor has it; parameters stay float32.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    done, losses = checkpoints.load(stage, module, optimizer)
    distributed.same(module)
    module.train()
    while done < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * one_cycle(done / steps)
        generator = torch.Generator().manual_seed(step_seed(seed, stage, done))
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            loss = loss_of(generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        distributed.sum_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise ConfigError(
                f"training {stage} diverged: its loss is no number after {done + 1} steps; lower its "
                "learning rate"
            )
        done += 1
        if checkpoints.due() or done == steps:
            checkpoints.save(stage, done, losses, module, optimizer)
        try:
            progress.step(stage, done, steps, losses[-1])
        except KeyboardInterrupt:
            checkpoints.save(stage, done, losses, module, optimizer)
            raise
    module.eval()
    return losses


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware, and so faster than float32."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def one_cycle(position: float) -> float:
    """Share of the full learning rate at `position` in [0, 1): a tenth of the way up, then a cosine down."""
    if position < 0.1:
        return 0.1 + 9 * position
    return 0.5 * (1 + math.cos(math.pi * (position - 0.1) / 0.9))


def step_seed(seed: int, stage: str, step: int) -> int:
    """A seed of its own for every step of every stage."""
    return zlib.crc32(f"{seed}/{stage}/{step}".encode())
