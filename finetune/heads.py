"""Heads: what is said of an encoded clip, or of one person in it.

``Head``: standardised statistics of all tokens, then one linear map. ``AttentiveHead``: the same statistics under learned weights.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from finetune.features import Rows, matrix_of, members, pool
from finetune.steps import Steps, steps_of
from finetune.tasks import Task
from pretrain.encoder import Encoded


class Head(nn.Module):
    """features [example, feature] -> outputs [example, output]: logits, or the standardised target.

    The statistics of features and target are the training fold's and are saved with the weights.
    """

    mean: Tensor
    scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_scale", torch.ones(()))
        self.linear = nn.Linear(features, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear((features - self.mean) / self.scale)

    def of_tokens(self, encoded: Encoded, rows: Rows, modalities: Tensor) -> Tensor:
        """Outputs [row, output]; modalities: the encoder's numbers of the streams that are read, int [stream]."""
        clip, person, window = rows.on(self.mean.device)
        values, present = pool(encoded, clip, person, int(modalities.max()) + 1, window)
        return self(matrix_of(values[:, modalities], present[:, modalities]))

    def standardise_targets(self, targets: np.ndarray) -> np.ndarray:
        """Regression targets [example] as the loss sees them; class numbers stay what they are (mean 0, scale 1)."""
        return (targets - self.target_mean.item()) / self.target_scale.item()

    def predictions(self, outputs: Tensor, task: Task) -> np.ndarray:
        """outputs [example, output] -> probabilities [example, class], or values in the target's unit [example, 1]."""
        if task.classes:
            return task.probabilities(outputs).double().cpu().numpy()
        return (outputs * self.target_scale + self.target_mean).double().cpu().numpy()

    @torch.inference_mode()
    def predict(self, features: np.ndarray, task: Task) -> np.ndarray:
        """features [example, feature] -> as ``predictions``."""
        return self.predictions(self(torch.from_numpy(features).to(self.mean)), task)


class AttentiveHead(Head):
    """The statistics of ``features.pool`` in which steps count by a learned query a stream, then one linear map.

    A softmax a stream over times, views and people (the attentive probe of V-JEPA, arXiv 2404.08471, without projections and MLP:
    with a query that does not depend on the input, keys of its own are no more than another query). Queries start at zero,
    where the head is the linear one that it was made from.
    """

    middle: Tensor
    width: Tensor

    def __init__(self, features: int, outputs: int, streams: int):
        super().__init__(features, outputs)
        size = (features // streams - 1) // 3  # mean, deviation and deviation over time of as many numbers, and a flag
        self.query = nn.Parameter(torch.zeros(streams, size))
        self.register_buffer("middle", torch.zeros(streams, size))
        self.register_buffer("width", torch.ones(streams, size))

    @classmethod
    def of(cls, head: Head, streams: int) -> AttentiveHead:
        """Begins as a linear head; what the queries see is standardised by its statistics."""
        outputs, features = head.linear.weight.shape
        made = cls(features, outputs, streams)
        made.load_state_dict(head.state_dict(), strict=False)
        of_stream = rearrange(
            head.mean[:-streams], "(stream what number) -> what stream number", stream=streams, what=3
        )
        made.middle.copy_(of_stream[0])
        made.width.copy_(torch.where(of_stream[1] > 1e-3, of_stream[1], 1.0))  # a constant says nothing
        return made

    def of_tokens(self, encoded: Encoded, rows: Rows, modalities: Tensor) -> Tensor:
        return self.of_steps(steps_of(encoded, modalities), rows)

    def of_steps(self, steps: Steps, rows: Rows) -> Tensor:
        """Outputs [row, output]"""
        streams = len(self.query)
        weight = self.weights(steps, rows)
        weight = rearrange(weight, "row stream step -> (row stream) step")
        mean, spread, moved = (weight @ part.float() for part in (steps.mean, steps.spread, steps.moved))
        spread = spread + weight @ steps.mean.float().square() - mean.square()
        there = weight.sum(1, keepdim=True) > 0
        parts = [mean, *(variance.clamp(min=1e-8).sqrt() * there for variance in (spread, moved))]
        values = rearrange(torch.cat(parts, 1), "(row stream) number -> row stream number", stream=streams)
        return self(matrix_of(values, rearrange(there, "(row stream) 1 -> row stream", stream=streams)))

    def weights(self, steps: Steps, rows: Rows) -> Tensor:
        """How much each step counts for each row, [row, stream, step]: sums to 1, or is 0 where a row lacks the stream."""
        standardised = (steps.mean.float() - self.middle[steps.modality]) / self.width[steps.modality]
        score = (standardised * self.query[steps.modality]).sum(1) + steps.count.log()
        of_stream = steps.modality == torch.arange(len(self.query), device=score.device)[:, None]  # stream step
        member = members(steps, *rows.on(score.device))[:, None] & of_stream
        lowest = torch.finfo(score.dtype).min
        return (
            torch.where(member, score, lowest).softmax(-1) * member
        )  # a stream that is not there: all lowest, all alike
