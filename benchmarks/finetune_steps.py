"""What a step of each method costs beside full fine-tuning: the part of benchmarks/finetune.py that measures time and memory.

A step is the forward pass, the loss of a head, the backward pass and AdamW, on clips in memory: reading and decoding are left
out. Of a method that trains a head alone it is one step over kept features (linear) or kept tokens (attentive) of the same
clips. Weights are random where they are no release's: the time does not depend on them.
"""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import resource
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

import numpy as np
import torch

from finetune import methods, training
from finetune.config import RunConfig
from finetune.features import POOLED, Rows, encode, encode_rows, matrix_of
from finetune.heads import AttentiveHead, Head
from finetune.steps import Steps, steps_of
from finetune.tasks import Task
from pretrain.clips import Clip
from pretrain.encoder import Encoder
from pretrain.streaming import give_back

CLASSES = ("a", "b", "c", "d")
WARM = 1  # steps of each method that are not counted
FULL = "full"  # the variant that the others are compared with


class Side:
    """A method while it is measured: its own small weights in an encoder whose frozen weights are shared, a head, AdamW."""

    def __init__(self, encoder: Encoder, clips: Sequence[Clip], streams: Sequence[str], config: RunConfig):
        shared = {} if config.method == "full" else {id(weight): weight for weight in encoder.parameters()}
        self.encoder = copy.deepcopy(encoder, shared)
        self.clips, self.streams, self.config = clips, streams, config
        self.task = Task("classification", CLASSES)
        self.targets = torch.arange(len(clips)) % len(CLASSES)
        self.rows = Rows.of_clips(len(clips))
        self.modalities = torch.tensor([encoder.modalities.index(name) for name in streams])
        head = Head(len(streams) * (POOLED * encoder.config.dim + 1), len(CLASSES))
        self.head = AttentiveHead.of(head, len(streams)) if config.method == "attentive" else head
        self.kept = self._kept() if config.method in {"linear", "attentive"} else None
        methods.install(self.encoder, methods.settings_of(config), config.layers, seed=0)
        self.weights = [*methods.small_weights(self.encoder).values(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(training.rates(self.encoder, self.head, config), weight_decay=0.01)

    def step(self) -> float:
        """One step: the CPU seconds that it takes."""
        began = time.process_time()
        training.update(self.task.loss(self._outputs(), self.targets), self.optimizer, self.weights)
        return time.process_time() - began

    def _outputs(self) -> torch.Tensor:
        if isinstance(self.kept, Steps):
            assert isinstance(self.head, AttentiveHead)
            return self.head.of_steps(self.kept.of_clips(torch.arange(len(self.clips))), self.rows)
        if self.kept is not None:
            return self.head(self.kept)
        return self.head.of_tokens(encode(self.encoder, list(self.clips), self.streams), self.rows, self.modalities)

    @torch.no_grad()
    def _kept(self) -> torch.Tensor | Steps:
        """Features [clip, feature], or steps, of the frozen encoder."""
        if self.config.method == "attentive":
            return steps_of(encode(self.encoder, list(self.clips), self.streams), self.modalities).half()
        values, present = encode_rows(self.encoder, list(self.clips), self.rows, self.streams)
        return matrix_of(values[:, self.modalities], present[:, self.modalities])


def memory(
    encoder: Encoder, clips: Sequence[Clip], streams: Sequence[str], variants: Mapping[str, RunConfig]
) -> dict[str, int]:
    """Bytes by which two steps of each variant raise the peak memory of a process that holds encoder and clips.

    Each in a forked process of its own. Pages that were used before are given back first: what lands in them would not count.
    """
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports a lot, which is no method's memory
    if any(config.method == "lora" for config in variants.values()):
        importlib.import_module("peft")
    fork = multiprocessing.get_context("fork")
    give_back()
    found = {}
    for name, config in variants.items():
        here, there = fork.Pipe(duplex=False)
        child = fork.Process(target=_peak, args=(there, encoder, clips, streams, config))
        child.start()
        there.close()
        found[name] = here.recv()
        child.join()
    return found


def _peak(answer: Connection, encoder: Encoder, clips: Sequence[Clip], streams: Sequence[str], config: RunConfig):
    def peak() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak()
    side = Side(encoder, clips, streams, config)
    for _ in range(2):  # AdamW's own state is there from the end of the first on
        side.step()
    answer.send(peak() - before)


def seconds(
    encoder: Encoder, clips: Sequence[Clip], streams: Sequence[str], variants: Mapping[str, RunConfig], rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of so many steps of each variant, which take turns, step by step."""
    sides = {name: Side(encoder, clips, streams, config) for name, config in variants.items()}
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(WARM + rounds):
        for name, side in sides.items():
            taken[name].append(side.step())
    return {name: some[WARM:] for name, some in taken.items()}


def ratios(taken: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float, float]]:
    """Of each variant the step time as a share of ``FULL``'s in the same turn: median, least, most."""
    full = np.array(taken[FULL])
    shares = {name: np.array(some) / full for name, some in taken.items()}
    return {name: (float(np.median(s)), float(s.min()), float(s.max())) for name, s in shares.items()}
