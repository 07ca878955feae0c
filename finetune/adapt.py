"""``kinesic finetune adapt``: unlabelled recordings of a new room or camera -> adapters for a frozen encoder.

    encoder + adapters + decoder -> pretraining's masked objective, on one process -> OUT (adapted.py says what is in it)

The order of the clips and the masks follow from the seed, so that a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs import UserError, plain, write_run_record
from finetune.adapted import CONFIG, adapters, install, read_adapted, save_adapted
from finetune.config import AdaptConfig
from finetune.data import chosen_streams, open_encoder, open_shards
from finetune.features import weights_digest
from pretrain.config import DataConfig, MaskConfig, OptimizerConfig, RunConfig, loss_names
from pretrain.encoder import Encoder
from pretrain.engine import RUN_ME_AGAIN, rate_at, shares
from pretrain.objective import MaskedAutoencoder
from pretrain.pictures import draw_losses
from pretrain.processes import StopRequest, only_run_in
from pretrain.stream import Clips, batches
from pretrain.tracking import Metrics, Progress
from pretrain.trained import load_autoencoder
from pretrain.weights import initialise_decoder, is_videomae

CHECKPOINT = "checkpoint.pt"
ALONE, WARMUP = 3, 10  # one step of so many: a new decoder learns alone; the rate rises
STATISTICS_CLIPS = 64  # from which mean and deviation of streams are measured that a release did not bring along
DECODER_LR = 1e-3  # of a new decoder: pretraining's
BETAS = (0.9, 0.95)  # AdamW's, as in pretraining
FIXED = (
    *("encoder", "data", "decoder", "splits", "streams", "adapter", "mask"),
    *("steps", "batch", "lr", "weight_decay", "seed"),
)


def adapt(config: AdaptConfig) -> int:
    """Trains until ``config.steps``; returns 0, or 75 after a signal (the same command goes on). Raises UserError."""
    encoder = open_encoder(config.encoder, config.device).requires_grad_(False)
    if not isinstance(encoder, Encoder):
        raise UserError(
            f"--encoder {config.encoder}: a Video Swin has no masked objective; take a release or a VideoMAE"
        )
    streams = chosen_streams(encoder, config.streams)
    digest = weights_digest(encoder)
    with only_run_in(config.out), StopRequest() as stop:
        if _finished(config, digest):
            print(f"{config.out}: finished at step {config.steps}; nothing to do")
            return 0
        shards, _ = open_shards(config.data, config.encoder, encoder, config.out / "shards")
        clips = Clips(DataConfig(shards, config.splits, workers=config.workers), streams)
        model, fresh = with_decoder(encoder, config)
        model.fit_statistics(clips.spread(STATISTICS_CLIPS))
        install(encoder, config.adapter, config.seed)
        small = list(adapters(encoder).values())
        about = {name: getattr(config, name) for name in FIXED} | {
            "encoder_sha256": digest,
            "clips": len(clips),
            "clips_sha256": clips.digest(),
        }
        print(f"{len(clips)} clips; adapters: {told(encoder)}")
        write_run_record(config.out, config, config.seed)
        run = Adaptation(config, model, small, clips, plain(about), fresh)
        if not run.train(lambda: stop.received):
            print(f"stopped by a signal; {config.out / CHECKPOINT} written; run the same command to go on")
            return RUN_ME_AGAIN
        draw_losses(config.out)
        save_adapted(config.out, encoder, about)
        (config.out / CHECKPOINT).unlink()
    print(f"{config.out}: give it to --adapted, beside --encoder {config.encoder}")
    return 0


def told(encoder: Encoder) -> str:
    """How many weights the adapters have, and their share of the backbone: without the gated branch, as methods.count has it."""
    own = [w.numel() for n, w in encoder.trunk.named_parameters() if ".reading." not in n and ".adapted." not in n]
    count = sum(weight.numel() for weight in adapters(encoder).values())
    return f"{count:,} weights, {100 * count / sum(own):.2f} % of the backbone"


def _finished(config: AdaptConfig, digest: str) -> bool:
    """Whether the folder holds what this run would make. Raises UserError where it holds something else."""
    if not (config.out / CONFIG).is_file():
        return False
    about = read_adapted(config.out)
    wanted = {"encoder_sha256": digest, **{name: plain(getattr(config, name)) for name in FIXED}}
    _check_same(config.out, about, json.loads(json.dumps(wanted)))
    return True


def _check_same(place: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises UserError, naming the first setting in which a run that is there differs from the one that is asked for."""
    for name, value in wanted.items():
        if saved.get(name, value) != value:
            raise UserError(f"{place}: made with {name} {saved.get(name)}, you ask for {value}: take another --out")


def with_decoder(encoder: Encoder, config: AdaptConfig) -> tuple[MaskedAutoencoder, bool]:
    """An encoder with a decoder, and whether that one is drawn anew and has to learn. Raises UserError for one of other sizes.

    A decoder that was trained with the encoder is kept as it is: what the encoder says of the new setting must be what the
    decoder understood in the old one.
    """
    theirs = None if config.decoder is None else load_autoencoder(config.decoder)
    mask = config.mask or (MaskConfig() if theirs is None else theirs.mask)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = MaskedAutoencoder(encoder.config, mask)
    model.encoder = encoder
    drawn = model.decoder.from_encoder.weight.clone()
    if theirs is not None:
        if theirs.mask.target != mask.target:
            raise UserError(f"--decoder {config.decoder}: it rebuilds {theirs.mask.target}; set mask.target to that")
        try:
            model.decoder.load_state_dict(theirs.decoder.state_dict())
        except RuntimeError:
            raise UserError(f"--decoder {config.decoder}: its decoder does not fit {config.encoder}") from None
    elif is_videomae(config.encoder):
        initialise_decoder(model, config.encoder)
    fresh = torch.equal(drawn, model.decoder.from_encoder.weight)
    if fresh:
        print(
            "the decoder is drawn anew and learns, alone at first: --decoder RUN takes the one of the pretraining run"
        )
    return model.to(encoder.device), fresh


@dataclass
class Adaptation:
    """One run: ``small`` of the encoder's weights learn, with a ``fresh`` decoder; everything else stays.

    about: what a checkpoint must agree with to be gone on from.
    """

    config: AdaptConfig
    model: MaskedAutoencoder
    small: Sequence[nn.Parameter]
    clips: Clips
    about: dict[str, Any]
    fresh: bool

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        learning = [self.small, list(self.model.decoder.parameters()) if self.fresh else []]
        for weight in itertools.chain(*learning):
            weight.requires_grad_(True)
        rates = (self.config.lr, DECODER_LR)
        both = zip(learning, rates, strict=True)
        groups = [self._group(weights, rate, matrices) for weights, rate in both for matrices in (True, False)]
        data = DataConfig(self.clips.folder, workers=self.config.workers)
        self.run = RunConfig(self.config.out, data, batch=self.config.batch, seed=self.config.seed)
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS)
        late, early = self._rate(self.config.steps // ALONE if self.fresh else 0), self._rate(0)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, [late, late, early, early])

    def _group(self, weights: Sequence[nn.Parameter], rate: float, matrices: bool) -> dict[str, Any]:
        some = [weight for weight in weights if (weight.ndim > 1) == matrices]
        return {"params": some, "lr": rate, "weight_decay": self.config.weight_decay if matrices else 0.0}

    def _rate(self, wait: int) -> Callable[[int], float]:
        """Factor on the rate by step: none at first, up over a tenth of what is left, down along a cosine."""
        left = self.config.steps - wait
        shape = OptimizerConfig(warmup_steps=max(left // WARMUP, 1))
        return lambda step: 0.0 if step < wait else rate_at(step - wait, shape, left)

    def train(self, asked_to_stop: Callable[[], bool]) -> bool:
        """Steps until all are done (True), or until somebody asks (False); a checkpoint is written in either case."""
        config, out = self.config, self.config.out
        names = loss_names(self.model.config, self.model.mask)
        first = self._resume()
        stream = batches(self.run, self.clips, self.model.collate, 0, 1, first)
        metrics = Metrics(out / "metrics.csv", ["step", *(f"loss_{name}" for name in names)], first)
        progress = Progress(config.steps, first, "adapting")
        try:
            for step in range(first + 1, config.steps + 1):
                began = time.perf_counter()
                losses = self._step(next(stream), names)
                metrics.write({"step": step, **{f"loss_{name}": loss for name, loss in losses.items()}})
                shown = {name: loss for name, loss in losses.items() if "/" not in name}
                progress.step(step, shown, config.batch / (time.perf_counter() - began))
                stop = asked_to_stop()
                if stop or step == config.steps or step % config.checkpoint_every == 0:
                    self._save(step)
                if stop and step < config.steps:
                    return False
        finally:
            progress.stop()
            metrics.close()
        return True

    def _step(self, batch: Any, names: Sequence[str]) -> dict[str, float]:
        """One optimizer step; the losses whose targets were there."""
        found = self.model(batch.to(self.model.encoder.device))
        counts = {name: batch.counts.get(name, 0) for name in names}
        scale = shares(self.run, counts)
        self.optimizer.zero_grad()
        torch.stack([found[name] * share for name, share in scale.items()]).sum().backward()
        for group in (self.small, self.model.decoder.parameters()):
            nn.utils.clip_grad_norm_(group, 1.0)
        self.optimizer.step()
        self.scheduler.step()
        losses = {name: float(found[name].detach()) / counts[name] for name in names if counts[name]}
        if not all(map(torch.isfinite, map(torch.tensor, losses.values()))):
            raise UserError(f"the loss is no longer finite ({losses}): lower --lr and take another --out")
        return losses

    def _weights(self) -> dict[str, torch.Tensor]:
        """Everything that learns, by name."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def _save(self, step: int) -> None:
        saved = {
            "step": step,
            "about": self.about,
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.config.out / f".{CHECKPOINT}.tmp"
        torch.save(saved, temporary)
        temporary.replace(self.config.out / CHECKPOINT)

    def _resume(self) -> int:
        """The step that a checkpoint was written at, 0 where there is none. Raises UserError for one of another run."""
        file = self.config.out / CHECKPOINT
        if not file.is_file():
            return 0
        saved = torch.load(file, map_location=self.model.encoder.device, weights_only=True)
        _check_same(file, saved["about"], self.about)
        own = self._weights()
        for name, value in saved["weights"].items():
            own[name].copy_(value)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.last_epoch = saved["step"]
        return saved["step"]
