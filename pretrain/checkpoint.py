"""Checkpoints of a run: written aside and renamed when whole, the last two kept, each with weights that need no DeepSpeed.

    RUN/checkpoints/step-00000100/deepspeed/...          what DeepSpeed resumes from (a part a process)
                                  weights.safetensors    all weights in float32, names as in MaskedAutoencoder
                                  config.json            schema of its streams; the run's config; step, position in the stream

A checkpoint is whole once it bears its name: before that it is ``.writing``, and a folder to be removed becomes ``.old``.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from configs import UserError, plain
from pretrain.config import RunConfig
from pretrain.processes import Processes
from pretrain.schema import SCHEMA, check_schema

KEPT = 2
TAG = "deepspeed"
FIXED = ("model", "mask", "weights", "batch", "seed", "zero_stage")  # what a run that goes on must have as it began


def whole_checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name))


def newest(run: Path) -> Path | None:
    """The newest finished checkpoint of a run."""
    return next(reversed(whole_checkpoints(run)), None)


def newest_for_all(run: Path, processes: Processes) -> Path | None:
    """The newest finished checkpoint as the first process sees it: on a network file system others may see it later."""
    own = newest(run) if processes.first else None
    step = int(processes.total(torch.tensor([0 if own is None else 1 + int(own.name.removeprefix("step-"))])))
    return run / "checkpoints" / f"step-{step - 1:08d}" if step else None


def save(engine: Any, config: RunConfig, processes: Processes, state: dict[str, Any]) -> Path:
    """Writes a checkpoint; every process calls it. ``state``: JSON values, among them ``step``. Returns its folder."""
    run = config.out / "checkpoints"
    folder, aside = run / f"step-{state['step']:08d}", run / ".writing"
    if processes.first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    processes.wait()
    universal = {
        "universal_checkpoint_info": {"universal_checkpoint_version": 0.2}
    }  # lets ds_to_universal read ZeRO 1 and 2
    engine.save_checkpoint(str(aside), tag=TAG, client_state={**state, **universal}, save_latest=False)
    processes.wait()
    if processes.first:
        save_file(consolidated(engine.module), aside / "weights.safetensors")
        about = {"schema": SCHEMA, "state": state, "config": plain(config)}
        (aside / "config.json").write_text(json.dumps(about, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        shutil.rmtree(run / ".old", ignore_errors=True)  # where a process was killed in the line below
        for old in whole_checkpoints(config.out)[:-KEPT]:
            shutil.rmtree(old.rename(run / ".old"))
    processes.wait()
    return folder


def read(folder: Path) -> dict[str, Any]:
    """A checkpoint's "state" and "config". Raises UserError where its model would misread streams as they are told now."""
    saved = json.loads((folder / "config.json").read_text())
    check_schema(saved.get("schema", 1), saved["config"]["model"], folder / "config.json")  # the first ones named none
    return saved


def load(engine: Any, config: RunConfig, folder: Path) -> dict[str, Any]:
    """Restores weights, optimizer and schedule; returns the state that was saved. Raises UserError where they do not fit."""
    saved = read(folder)
    ours = json.loads(json.dumps(plain(config)))
    for name in FIXED:
        if saved["config"][name] != ours[name]:
            theirs, own = _first_difference(name, saved["config"][name], ours[name])
            raise UserError(
                f"{folder}: this run has {theirs}, you ask for {own}: take another --out, or the run's own settings"
            )
    parts = len(list((folder / TAG).glob("zero_pp_rank_*_optim_states.pt")))
    if parts and parts != torch.distributed.get_world_size():
        raise UserError(f"{folder}: written by {parts} processes: go on with {parts}")
    try:
        with _safe_loading(engine):
            path, _ = engine.load_checkpoint(str(folder), tag=TAG)
    except UnpicklingError as error:
        raise UserError(f"{folder}: holds what no checkpoint holds: {str(error).splitlines()[0]}") from None
    if path is None:
        raise UserError(f"{folder}: DeepSpeed finds no checkpoint there")
    return saved["state"]


def _first_difference(name: str, theirs: Any, ours: Any) -> tuple[str, str]:
    """The first setting that differs, as "name value" of both."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            if theirs.get(key) != ours.get(key):
                return _first_difference(f"{name}.{key}", theirs.get(key), ours.get(key))
    return f"{name} {theirs}", f"{ours}"


@contextlib.contextmanager
def _safe_loading(engine: Any) -> Generator[None]:
    """DeepSpeed unpickles whatever a checkpoint holds; this lets it build tensors and its own few classes only."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    def load(path: str, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=True)

    engine.checkpoint_engine.load = load
    with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
        yield


def consolidated(module: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers of a module as contiguous tensors on the CPU."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
