"""``kinesic pretrain run``: the training loop, on DeepSpeed, on one process or many, from the start or from a checkpoint.

    shards -> stream.batches -> MaskedAutoencoder -> one loss a modality -> DeepSpeed -> checkpoints, metrics, pictures

The loss of a modality is the sum over all processes divided by the count over all processes: how clips are dealt out
changes nothing. ``weights`` multiply the parts of it that kinds of masking have; what is logged is without them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from configs import UserError, write_run_record
from pretrain import checkpoint
from pretrain.config import OptimizerConfig, RunConfig, loss_names
from pretrain.objective import Batch, MaskedAutoencoder
from pretrain.pictures import draw_losses, draw_reconstructions
from pretrain.processes import Processes, StopRequest, only_run_in, start_processes
from pretrain.release import load_encoder
from pretrain.stream import Clips, batches, mask_seed
from pretrain.teacher import Teacher
from pretrain.tracking import Tracker, say
from pretrain.weights import initialise, initialise_decoder

RUN_ME_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: stopped by a signal, checkpoint written


def run(config: RunConfig) -> int:
    """Trains until ``config.steps``; returns 0, or 75 after a signal (the same command goes on). Raises UserError."""
    if finished(config):
        print(f"{config.out}: finished at step {config.steps}; nothing to do")
        return 0
    first = os.environ.get("RANK", "0") == "0"
    with only_run_in(config.out) if first else contextlib.nullcontext():
        processes = start_processes()
        try:
            with StopRequest() as stop:
                return _train(config, processes, stop)
        except UserError:
            if first:  # one line is enough: the others fail alike
                raise
            return 2


def finished(config: RunConfig) -> bool:
    """Whether the run's folder holds this many steps, done."""
    marker = config.out / "finished"
    return marker.is_file() and int(marker.read_text()) >= config.steps


def _train(config: RunConfig, processes: Processes, stop: StopRequest) -> int:
    clips = Clips(config.data, config.model.modalities)
    model = _build(config)
    resumed = checkpoint.newest_for_all(config.out, processes)
    if resumed is None:
        if processes.first:
            say(f"{len(clips)} clips; measuring the streams' mean and deviation")
        model.fit_statistics(clips.spread(config.data.statistics_clips))
    engine = start_engine(config, model, processes)
    state: dict[str, Any] = {"step": 0, "clips": clips.digest()}
    if resumed is not None:
        state = checkpoint.load(engine, config, resumed)
        if state["clips"] != clips.digest():
            raise UserError(f"{config.data.shards}: not the clips that {config.out} was trained on: take another --out")
    stream = batches(config, clips, model.collate, processes.rank, processes.count, state["step"])
    tracker = None
    if processes.first:
        _describe(config, clips)
        say(f"from step {state['step']} of {config.steps} on {processes.count} x {processes.device.type}")
        if model.teacher is not None:
            size = model.teacher.gigabytes(clips.seconds(), config.model)
            say(f"the teacher's features are kept in {model.teacher.folder}: up to {size:.2g} GB a view")
        before, after = config.model.context_seconds
        say(f"a token reads up to {before:g} s before and {after:g} s after its chunk ({config.model.layers} layers)")
        tracker = Tracker(config, state["step"])
    stopped = True
    try:
        stopped = _loop(config, processes, engine, stream, clips, state, tracker, stop)
    finally:
        if tracker is not None:
            tracker.close(finished=not stopped)
    if stopped:
        return RUN_ME_AGAIN
    if processes.first:
        draw_losses(config.out)
        _write(config.out / "finished", str(config.steps))
    processes.wait()
    return 0


def _build(config: RunConfig) -> MaskedAutoencoder:
    teacher, path = None, config.mask.teacher
    if path is not None:
        teacher = Teacher(load_encoder(path), config.model, config.out / "teacher", path)
    torch.manual_seed(config.seed)  # a teacher is drawn before it is read
    model = MaskedAutoencoder(config.model, config.mask, teacher)
    model.encoder.trunk.checkpointing = config.checkpointing
    if config.init is not None:
        initialise(model, load_encoder(config.init), config.init)
        initialise_decoder(model, config.init)
    return model


def _describe(config: RunConfig, clips: Clips) -> None:
    """What a release will say of this run: settings, versions, what the clips are and how they were prepared."""
    import yaml

    write_run_record(config.out, config, config.seed)
    prepared = config.data.shards / "config.yaml"
    settings = yaml.safe_load(prepared.read_text()) if prepared.is_file() else {}
    _write(config.out / "data.json", json.dumps({"summary": clips.summary(), "preprocessing": settings}, indent=1))


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text)
    temporary.replace(file)


def start_engine(config: RunConfig, model: MaskedAutoencoder, processes: Processes) -> Any:
    """The DeepSpeed engine of a model: AdamW, schedule, ZeRO."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # plain gloo: nothing to compile at first use
    optimizer = config.optimizer
    settings = {
        "train_micro_batch_size_per_gpu": config.batch // (processes.count * config.accumulate),
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": optimizer.clip,
        "zero_optimization": {"stage": config.zero_stage},
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": optimizer.lr, "betas": list(optimizer.betas), "torch_adam": True, "fused": True},
        },
        "steps_per_print": 10**9,
    }

    def schedule(own: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(own, lambda step: rate_at(step, optimizer, config.steps))

    groups: Any = model.parameter_groups(optimizer)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, lr_scheduler=schedule, config=settings)
    return engine


def rate_at(step: int, optimizer: OptimizerConfig, steps: int) -> float:
    """Share of the highest learning rate: a line up to it, then half a cosine to zero."""
    if step < optimizer.warmup_steps:
        return (step + 1) / optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / max(steps - optimizer.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1)))


def _loop(
    config: RunConfig,
    processes: Processes,
    engine: Any,
    stream: Iterator[Batch],
    clips: Clips,
    state: dict[str, Any],
    tracker: Tracker | None,
    stop: StopRequest,
) -> bool:
    """Steps until all are done (False) or a signal came (True); a checkpoint is written in either case."""
    while state["step"] < config.steps:
        began = time.perf_counter()
        rate = engine.get_lr()[0]
        losses, about, asked = train_step(config, processes, engine, stream, stop)
        about["lr"] = rate
        state["step"] += 1
        step = state["step"]
        last = step == config.steps
        about["seconds"] = time.perf_counter() - began
        gates = None
        if last or step % config.log_every == 0:
            gates = {name: float(gate) for name, gate in engine.module.encoder.trunk.gates().items()}
        if tracker is not None:
            tracker.step(step, losses, gates, about)
            if last or (config.picture_every and step % config.picture_every == 0):
                shown = clips.spread(4)
                draw_reconstructions(
                    engine.module, shown, [mask_seed(config.seed, c.key, -1) for c in shown], config.out
                )
        if last or asked or step % config.checkpoint_every == 0:
            folder = checkpoint.save(engine, config, processes, state)
            if asked and not last:
                if processes.first:
                    say(f"stopped by a signal; {folder} written; run the same command to go on")
                return True
    return False


def train_step(
    config: RunConfig, processes: Processes, engine: Any, stream: Iterator[Batch], stop: StopRequest
) -> tuple[dict[str, float], dict[str, Any], bool]:
    """One optimizer step over all processes.

    Returns the losses (of loss_names) whose targets were there, facts about the step, and whether any process was asked to stop.
    """
    told = loss_names(config.model, config.mask)  # the same on all processes, whatever their clips have
    passes = [next(stream) for _ in range(config.accumulate)]
    keys = [key for batch in passes for key in batch.keys]
    counted = [sum(batch.counts.get(name, 0) for batch in passes) for name in told]
    sums = processes.total(torch.tensor([int(stop.received), len(keys), _digest(keys), *counted]))
    asked, clips, digest, *numbers = sums.tolist()
    counts = dict(zip(told, numbers, strict=True))
    # DeepSpeed divides by the passes and takes the mean over the processes; the loss is a mean over all targets of all
    scale = {name: share * processes.count * config.accumulate for name, share in shares(config, counts).items()}
    errors = torch.zeros(len(told), dtype=torch.float64, device=processes.device)
    for batch in passes:
        found = engine(batch.to(processes.device))
        engine.backward(torch.stack([found[name] * share for name, share in scale.items()]).sum())
        engine.step()
        errors += torch.stack([found[name].detach().double() for name in told])
    errors = processes.total(errors)
    losses = {name: float(e) / counts[name] for name, e in zip(told, errors, strict=True) if counts[name]}
    if not all(math.isfinite(loss) for loss in losses.values()):
        raise UserError(
            f"the loss is no longer finite ({losses}): lower optimizer.lr and go on from the last checkpoint"
        )
    return losses, {"clips": clips, "keys": f"{digest & (2**64 - 1):016x}"}, asked > 0


def shares(config: RunConfig, counts: dict[str, int]) -> dict[str, float]:
    """What the sums of errors are multiplied by and added up to the loss: by modality or, where there are several kinds of
    masking, by "<kind>/<modality>".

    All targets of a modality are divided by their number together, so that a kind weighs by how many targets it has, times its
    weight. counts: targets of each of ``loss_names``, over all processes and passes.
    """
    kinds = [name for name in counts if "/" in name]
    return {name: config.weight_of(name) / max(counts[name.split("/")[-1]], 1) for name in kinds or counts}


def _digest(keys: list[str]) -> int:
    """A number for a set of keys, in whatever order and on whatever processes: sums of these wrap around alike."""
    total = sum(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") for key in keys)
    return (total + 2**63) % 2**64 - 2**63
