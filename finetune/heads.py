"""The head: standardise the features, then one linear map."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from finetune.tasks import Task


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
