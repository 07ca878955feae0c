"""Settings of pretraining, as typed dataclasses. Nothing heavy is imported here: ``--help`` reads this file."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Pooling = Literal["mean", "attention"]
KINDS = ("random", "stream", "partner", "future")  # of masking, see masking.py
# numbers a cell of what data_prep finds of people, see stream_vectors.py
FEATURES = {"face": 478 * 3 + 52 + 9, "pose": 33 * 4 + 33 * 3, "hands": 2 * (21 * 3 + 1)}


@dataclass
class StreamConfig:
    """A stream as the model sees it: a vector every ``cell_seconds``, and a token for every ``cells_per_token`` of them."""

    features: int
    """numbers a cell"""
    cell_seconds: float
    """seconds from one vector to the next"""
    cells_per_token: int
    """vectors that one token holds"""

    @property
    def token_seconds(self) -> float:
        return self.cell_seconds * self.cells_per_token


def default_streams() -> dict[str, StreamConfig]:
    """Audio (64 mel bins, 10 ms), face (478 points, 52 blendshapes, head turn and place) and pose (33 points), 0.5 s a token."""
    return {
        "audio": StreamConfig(features=64, cell_seconds=0.01, cells_per_token=50),
        "face": StreamConfig(features=FEATURES["face"], cell_seconds=0.125, cells_per_token=4),
        "pose": StreamConfig(features=FEATURES["pose"], cell_seconds=0.125, cells_per_token=4),
    }


@dataclass
class ModelConfig:
    """Sizes of the encoder and of the light decoder. The defaults are VideoMAE ViT-S."""

    dim: int = 384
    """width of the trunk"""
    layers: int = 12
    """blocks of the trunk"""
    heads: int = 6
    """attention heads of the trunk"""
    mlp_dim: int = 1536
    """hidden width of the trunk's MLPs"""
    decoder_dim: int = 192
    """width of the decoder"""
    decoder_layers: int = 4
    """blocks of the decoder"""
    decoder_heads: int = 3
    """attention heads of the decoder"""
    image_height: int = 224
    """height of the picture, in pixels; the shorter of height and width is what views are scaled to"""
    image_width: int = 224
    """width of the picture, in pixels"""
    patch: int = 16
    """side of a video token, in pixels"""
    tubelet: int = 2
    """frames of a video token"""
    segment_frames: int = 16
    """consecutive frames of a segment: what a VideoMAE encoder reads at once"""
    table: tuple[int, int, int] | None = None
    """video tokens (time, height, width) that the position table was made for, where they are others than a segment's own:
    VideoMAE's at 224 x 224 is [8, 14, 14], and is interpolated for other pictures and segments"""
    frame_rate: float = 12.5
    """frames a second that the encoder takes from a view; faster video is thinned to it"""
    streams: dict[str, StreamConfig] = field(default_factory=default_streams)
    """the streams beside video; a recording may lack any of them. hands, where data_prep was asked for them: {features: 128,
    cell_seconds: 0.125, cells_per_token: 4}"""
    chunk_seconds: float = 2.0
    """the time grid: tokens of a stream attend among themselves within one chunk"""
    reach_chunks: int = 1
    """how many chunks before and after its own a token reads through the gated branch"""
    pool_seconds: float = 0.5
    """what is read through the gated branch is averaged over this many seconds"""
    causal: bool = False
    """read chunks before and with one's own alone, none after it"""
    pooling: Pooling = "mean"
    """attention: a learned weighting over these seconds, which starts as the mean"""
    upper_layers: int = 0
    """how many of the last blocks run on fewer tokens, upper_rate of one place put together"""
    upper_rate: int = 1
    """how many steps in time become one token there"""
    layer_norm_eps: float = 1e-6
    """epsilon of the layer norms (original VideoMAE 1e-6, Hugging Face 1e-12)"""
    final_norm: bool = True
    """a layer norm after the last block (off in VideoMAE checkpoints that average the tokens)"""
    qv_bias: bool = True
    """biases on queries and values, as VideoMAE has them"""

    def __post_init__(self) -> None:
        for width, heads, name in (
            (self.dim, self.heads, "heads"),
            (self.decoder_dim, self.decoder_heads, "decoder_heads"),
        ):
            if width % heads or (width // heads) % 2:
                raise ValueError(f"{name}: {heads} does not divide the width {width} into heads of even size")
        for side in ("image_height", "image_width"):
            if getattr(self, side) % self.patch:
                raise ValueError(f"{side}: {getattr(self, side)} is no multiple of patch ({self.patch})")
        if self.segment_frames % self.tubelet:
            raise ValueError(f"segment_frames: {self.segment_frames} is no multiple of tubelet ({self.tubelet})")
        if not 0 <= self.upper_layers <= self.layers or self.upper_rate < 1:
            raise ValueError(
                f"upper_layers: {self.upper_layers} of {self.layers} layers at upper_rate {self.upper_rate}"
            )
        if (self.upper_layers > 0) != (self.upper_rate > 1):
            raise ValueError("upper_layers and upper_rate: set both (say 4 and 2) or neither (0 and 1)")
        for name, stream in self.streams.items():
            tokens = self.chunk_seconds / stream.token_seconds
            if round(tokens) < 1 or abs(tokens - round(tokens)) > 1e-6:
                raise ValueError(
                    f"chunk_seconds: {self.chunk_seconds} is no multiple of a token of {name} ({stream.token_seconds:g} s)"
                )
            if stream.features != FEATURES.get(name, stream.features):
                raise ValueError(
                    f"streams.{name}.features: {stream.features}, but a cell of {name} has {FEATURES[name]} numbers"
                )
        if "video" in self.streams:
            raise ValueError("streams: 'video' is always there and is not listed")

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities in the order of the packed tokens: video first."""
        return ("video", *self.streams)

    @property
    def context_seconds(self) -> tuple[float, float]:
        """How many seconds before and after its chunk reach a token through all layers: the receptive field."""
        reach = self.layers * self.reach_chunks * self.chunk_seconds
        return reach, 0.0 if self.causal else reach

    @property
    def base(self) -> tuple[int, int, int]:
        """Video tokens along (time, height, width) that the position table was made for."""
        return self.grid if self.table is None else (self.table[0], self.table[1], self.table[2])

    @property
    def grid(self) -> tuple[int, int, int]:
        """Video tokens of one segment along (time, height, width)."""
        return (
            self.segment_frames // self.tubelet,
            self.image_height // self.patch,
            self.image_width // self.patch,
        )


@dataclass
class MaskConfig:
    """What is hidden from the encoder and what the decoder rebuilds."""

    video: float = 0.9
    """share of the places of a segment that is hidden, through all of its time (tube masking)"""
    streams: float = 0.5
    """share of the tokens of a stream that is hidden"""
    span_seconds: float = 1.0
    """streams are hidden in spans of this length"""
    decoded: float = 1.0
    """share of the hidden video tokens that is rebuilt (dual masking of VideoMAE V2 where below 1); of streams, which have a
    hundredth of the tokens, all are"""
    pixel_floor: float = 1e-6
    """added to the deviation that a tubelet's pixels (0 to 1) are divided by: VideoMAE's 1e-6 makes the codec's noise on a
    plain wall a target as large as a face; 0.05 leaves it small"""
    target: Literal["pixels", "motion", "teacher"] = "pixels"
    """what is rebuilt. pixels: tubelets by their own mean and deviation, streams as they are; motion: both minus their mean over
    the clip, tubelets weighted by how much moves in them; teacher: of tubelets the features of a frozen encoder, streams as they
    are"""
    teacher: Path | None = None
    """the frozen encoder of that target: a release or any VideoMAE that --init takes, with this model's patch, tubelet and grid"""
    kinds: dict[str, float] = field(default_factory=lambda: {"random": 1.0})
    """how often a clip is masked in which way: random (tubes and spans), stream (one of them hidden whole), partner (one person
    for some seconds), future (what a person does next, from the past alone)"""
    dirichlet: float | None = None
    """concentration of the Dirichlet distribution that deals the visible tokens out to a clip's streams (video keeps its share);
    small: mostly of one stream, large: equal numbers; absent: the same share of each"""
    partner_seconds: tuple[float, float] = (1.0, 4.0)
    """shortest and longest time that a partner is hidden"""
    partner_margin: float = 0.2
    """of a person's box, added on each side of it before its pixels are hidden"""
    future_seconds: tuple[float, float] = (0.5, 3.0)
    """shortest and longest time that is foretold"""

    def __post_init__(self) -> None:
        for name in ("video", "streams"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"mask.{name}: {getattr(self, name)} is not between 0 and 1")
        if not 0 < self.decoded <= 1:
            raise ValueError(f"mask.decoded: {self.decoded} is not in (0, 1]")
        for name in ("partner_seconds", "future_seconds"):
            shortest, longest = getattr(self, name)
            if not 0 < shortest <= longest < math.inf:
                raise ValueError(f"mask.{name}: {[shortest, longest]} is no shortest and longest time above 0")
        if not 0 <= self.partner_margin < math.inf:
            raise ValueError(f"mask.partner_margin: {self.partner_margin} is less than 0")
        if self.dirichlet is not None and not 0 < self.dirichlet < math.inf:
            raise ValueError(f"mask.dirichlet: {self.dirichlet} is not above 0")
        if self.target == "teacher" and self.teacher is None:
            raise ValueError("mask.target: teacher needs mask.teacher, a release or a VideoMAE")
        if self.target != "teacher" and self.teacher is not None:
            raise ValueError(
                f"mask.teacher: nothing asks it with mask.target {self.target}; set mask.target to teacher"
            )
        self._check_kinds()

    def _check_kinds(self) -> None:
        for name, weight in self.kinds.items():
            if name not in KINDS:
                near = difflib.get_close_matches(name, KINDS, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KINDS)}"
                raise ValueError(f"mask.kinds: no kind {name!r}; {hint}")
            if not 0 <= weight < math.inf:
                raise ValueError(f"mask.kinds: the weight of {name}, {weight}, is not 0 or more")
        if not sum(self.kinds.values()):
            raise ValueError("mask.kinds: no kind has a weight above 0")

    @property
    def used_kinds(self) -> tuple[str, ...]:
        """The kinds that clips may get: random always, for what the others leave and clips that cannot carry them."""
        return tuple(kind for kind in KINDS if kind == "random" or self.kinds.get(kind, 0) > 0)


def loss_names(model: ModelConfig, mask: MaskConfig) -> tuple[str, ...]:
    """All losses that are told: one a modality and, where there are several kinds of masking, "<kind>/<modality>"."""
    kinds = mask.used_kinds if len(mask.used_kinds) > 1 else ()
    return (*model.modalities, *(f"{kind}/{name}" for kind in kinds for name in model.modalities))


@dataclass
class DataConfig:
    """Which clips are read, and how."""

    shards: Path
    """folder that `kinesic data_prep build` wrote"""
    splits: list[str] | None = None
    """only clips of these splits; all where absent"""
    shuffle_shards: int = 16
    """this many shards are mixed at a time: more is a better shuffle, fewer keeps the reading together"""
    workers: int = 2
    """processes that read and decode, for each training process; 0 = the training process itself"""
    cache: bool = False
    """keep decoded clips in memory (workers: 0 only): for small data that is seen many times"""
    statistics_clips: int = 64
    """clips from which mean and deviation of the streams are measured before the first step"""

    def __post_init__(self) -> None:
        if self.cache and self.workers:
            raise ValueError(f"data.cache needs data.workers 0, not {self.workers}: workers would each keep all clips")
        if self.workers < 0 or self.shuffle_shards < 1 or self.statistics_clips < 1:
            raise ValueError("data: workers must be 0 or more, shuffle_shards and statistics_clips 1 or more")


@dataclass
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine to zero, by step."""

    lr: float = 1e-3
    """highest learning rate"""
    gate_lr: float = 1e-2
    """highest learning rate of the gates, which start at zero and have a handful of values each"""
    trunk: Literal["full", "low_lr", "frozen"] = "full"
    """how the trunk and the video embedding learn: as the rest, at a tenth of the rate, or not at all (they stay as --init
    has them); streams, gated branches and decoder always learn"""
    weight_decay: float = 0.05
    """on matrices; biases, norms and gates have none"""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's, as VideoMAE has them"""
    warmup_steps: int = 1000
    """steps from zero to the highest learning rate"""
    clip: float = 1.0
    """largest norm of the gradient; 0 = no clipping"""


@dataclass
class RunConfig:
    """Pretraining: shards -> checkpoints. The same command goes on where a run was stopped."""

    out: Path
    """folder of the run: checkpoints, metrics, pictures; run again into it to go on"""
    data: DataConfig
    """the clips"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """sizes of the model"""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """what is hidden and rebuilt"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """learning rates"""
    weights: dict[str, float] = field(default_factory=dict)
    """what the error of a hidden token is multiplied by: weights of its modality (face), of the kind of masking (partner) and of
    both (partner/face), one times the other; 1 where not named"""
    init: Path | None = None
    """what to start from: a release, a Hugging Face VideoMAE folder, or a .pth of VideoMAE or VideoMAE V2"""
    steps: int = 100_000
    """optimizer steps in all"""
    batch: int = 256
    """clips of one step, over all processes and accumulation steps: results do not depend on the number of processes"""
    accumulate: int = 1
    """forward passes that make up one step: more need less memory"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (autocast), weights and optimizer in float32"""
    zero_stage: Literal[0, 1, 2] = 1
    """what DeepSpeed's ZeRO splits over the processes: 0 nothing, 1 the optimizer's state, 2 gradients as well"""
    checkpointing: bool = False
    """keep no activations inside the encoder's blocks but compute them again: less memory, a third more time"""
    seed: int = 0
    """of weights, order of the clips and masks"""
    checkpoint_every: int = 1000
    """steps; the last two checkpoints are kept"""
    picture_every: int = 0
    """steps between reconstructions.png; 0 = only at the end"""
    log_every: int = 10
    """steps between entries in MLflow; metrics.csv has every step"""
    tracking_uri: str | None = None
    """MLflow server or store; else one sqlite file in the run's folder"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        if self.optimizer.trunk == "frozen" and self.init is None:
            raise ValueError("optimizer.trunk: frozen without init: a trunk drawn at random would stay random")
        self._check_weights()

    def _check_weights(self) -> None:
        losses = loss_names(self.model, self.mask)
        known = list(dict.fromkeys(name for loss in losses for name in (*loss.split("/"), loss)))
        for name, weight in self.weights.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"there are {', '.join(n for n in known if '/' not in n)}"
                )
                if name.split("/")[0] in set(KINDS) - set(self.mask.used_kinds):  # no clip would ever get this kind
                    hint = f"mask.kinds has {', '.join(self.mask.kinds)}"
                raise ValueError(f"weights: no modality or kind of masking {name!r} in this run; {hint}")
            if not 0 <= weight < math.inf:
                raise ValueError(f"weights: the weight of {name}, {weight}, is not 0 or more")

    def weight_of(self, loss: str) -> float:
        """The weight of a target in one of ``loss_names``: those of its kind, its modality and of both, multiplied."""
        return math.prod(self.weights.get(name, 1.0) for name in dict.fromkeys((*loss.split("/"), loss)))


@dataclass
class ReleaseConfig:
    """A checkpoint of a run -> a folder for collaborators; or whether such a folder is one."""

    run: Path | None = None
    """folder of a `kinesic pretrain run`; its newest checkpoint is taken"""
    out: Path | None = None
    """folder to write; it must not exist"""
    license: str = "unknown"
    """of the weights, for the model card: as model hubs name it (cc-by-nc-4.0, apache-2.0) or a name of your own (lab-only-1.0)"""
    check: Path | None = None
    """verify this release instead, offline: sums, paths, pickles, schema, card, weights; exit code 0 where all is well, else 2"""

    def __post_init__(self) -> None:
        if self.check is None and (self.run is None or self.out is None):
            raise ValueError("release: give RUN and OUT, or --check RELEASE")
        if self.check is not None and (self.run is not None or self.license != "unknown"):
            raise ValueError("check: stands alone, it writes nothing: give --check RELEASE, or RUN and OUT")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(f"license: {self.license!r}: small letters, digits and . + - only, as in cc-by-nc-4.0")


@dataclass
class ExportConfig:
    """An encoder -> a folder that transformers' VideoMAEModel reads."""

    encoder: Path
    """a release, the folder of a run (its decoder comes along), or any VideoMAE that load_encoder reads"""
    out: Path
    """folder to write; it must not exist"""
