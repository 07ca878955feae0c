"""When somebody speaks on a channel: Silero VAD, listened to clip by clip with what it remembers.

The weights are the safetensors file in the wheel silero-vad, the layers those of its ``tinygrad_model.py``; all windows of a
clip go through them at once, which takes a tenth of the time of its TorchScript model, and nothing is unpickled. The step
from probabilities to intervals is the wheel's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from silero_vad import get_speech_timestamps_from_probs
from torch import Tensor, nn

from data_prep.clips import SAMPLE_RATE

WINDOW, CONTEXT = 512, 64  # samples of one step of the model, and of the step before that it sees again
STEP = WINDOW / SAMPLE_RATE
AT_ONCE = 1024  # windows that go through the model together: 33 s
APART = 0.01  # seconds between two clips' sound from which on it is no longer one sound

State = tuple[Tensor, Tensor]


class SileroVad(nn.Module):
    """Probability [window] of speech in each window [window, CONTEXT + WINDOW] of one sound at 16 kHz."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, windows: Tensor, state: State | None) -> tuple[Tensor, State]:
        padded = nn.functional.pad(windows, (0, CONTEXT), mode="reflect")
        real, imaginary = self.stft_conv(padded[:, None]).chunk(2, dim=1)
        x = (real**2 + imaginary**2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()
        steps, state = self.lstm(x[:, :, 0], state)
        return self.final_conv(steps.relu()[:, :, None]).sigmoid()[:, 0, 0], state


@cache
def _model() -> SileroVad:
    model = SileroVad().eval()
    weights = load_file(str(resources.files("silero_vad.data") / "silero_vad_16k.safetensors"))
    # an LSTM cell that is stepped through by hand there is a layer of one LSTM here
    names = {name: f"{name.replace('lstm_cell', 'lstm')}_l0" if "lstm" in name else name for name in weights}
    model.load_state_dict({names[name]: tensor for name, tensor in weights.items()})
    return model


class Interval(NamedTuple):
    """Speech from ``start`` to ``end`` (seconds on the recording's clock), as sure as the mean of its probabilities."""

    start: float
    end: float
    probability: float


@dataclass
class _Run:
    """Sound without a gap: when it starts, and of each window, clip by clip, how probable speech is and its power."""

    start: float
    probabilities: list[NDArray[np.float32]] = field(default_factory=lambda: [np.empty(0, np.float32)])
    powers: list[NDArray[np.float32]] = field(default_factory=lambda: [np.empty(0, np.float32)])


class Listener:
    """Listens to one channel of a recording from its beginning to its end."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._next = -np.inf  # when the sound goes on that was heard so far
        self._rest = np.empty(0, np.float32)  # after the last whole window
        self._context = np.zeros(CONTEXT, np.float32)
        self._state: State | None = None

    def hear(self, time: float, sound: NDArray[np.float32]) -> None:
        """Takes sound [sample] in -1 to 1 at 16 kHz that begins at ``time`` (seconds, growing)."""
        if abs(time - self._next) > APART:
            self._runs.append(_Run(time))
            self._rest, self._context, self._state = self._rest[:0], np.zeros(CONTEXT, np.float32), None
        self._next = time + len(sound) / SAMPLE_RATE
        sound = np.concatenate([self._rest, sound])
        while len(sound) >= WINDOW:
            count = min(len(sound) // WINDOW, AT_ONCE)
            self._listen(sound[: count * WINDOW])
            sound = sound[count * WINDOW :]
        self._rest = sound

    @torch.inference_mode()
    def _listen(self, sound: NDArray[np.float32]) -> None:
        with_context = np.concatenate([self._context, sound])
        windows = np.lib.stride_tricks.sliding_window_view(with_context, CONTEXT + WINDOW)[::WINDOW]
        probabilities, self._state = _model()(torch.from_numpy(windows.copy()), self._state)
        self._context = sound[-CONTEXT:]
        self._runs[-1].probabilities.append(probabilities.numpy())
        self._runs[-1].powers.append((sound.reshape(-1, WINDOW) ** 2).mean(axis=1))

    def settle(self) -> list[Interval]:
        """All has been heard: when somebody speaks."""
        for run in self._runs:
            run.probabilities, run.powers = [np.concatenate(run.probabilities)], [np.concatenate(run.powers)]
        return [interval for run in self._runs for interval in _intervals(run)]

    def power(self, start: float, end: float) -> float:
        """Mean power of the sound between two times, when all has been heard; 0 where there is none."""
        parts = []
        for run in self._runs:
            first, last = (max(0, round((time - run.start) / STEP)) for time in (start, end))
            parts.append(run.powers[0][first:last])
        powers = np.concatenate([*parts, np.empty(0, np.float32)])
        return float(powers.mean()) if len(powers) else 0.0

    def envelope(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loudness (log of power) at times (seconds, growing)."""
        return np.log(np.array([self.power(time - STEP, time + STEP) for time in times]) + 1e-10)


def _intervals(run: _Run) -> Iterator[Interval]:
    probabilities = run.probabilities[0]
    for part in get_speech_timestamps_from_probs(probabilities.tolist(), sampling_rate=SAMPLE_RATE):
        first, last = part["start"] // WINDOW, max(part["end"] // WINDOW, part["start"] // WINDOW + 1)
        start, end = (run.start + part[side] / SAMPLE_RATE for side in ("start", "end"))
        yield Interval(start, end, float(probabilities[first:last].mean()))
