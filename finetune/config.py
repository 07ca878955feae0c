"""The settings of finetune's commands, as plain dataclasses.

Nothing heavy is imported here: ``kinesic finetune run --help`` reads this file and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pretrain.config import MaskConfig

Device = Literal["auto", "cpu", "cuda"]


@dataclass
class AdapterConfig:
    """A bottleneck beside the MLP of every block (AdaptFormer, arXiv 2205.13535)."""

    width: int | None = None
    """hidden width; empty = a twelfth of the encoder's width (64 at ViT-B), about 1.4 per cent of the backbone"""
    scale: float = 0.1
    """factor on what the adapter adds, as in the paper"""
    temporal: bool = False
    """a depth-wise convolution over three steps in time within the bottleneck (ST-Adapter, arXiv 2206.13559)"""

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"adapter.width: {self.width} is less than 1")


@dataclass
class PromptConfig:
    """Learned tokens that blocks read beside their own (VPT, arXiv 2203.12119)."""

    count: int = 20
    """prompts a block; 50 are about 0.5 per cent of ViT-B"""
    depth: Literal["deep", "shallow"] = "deep"
    """deep: new prompts in every block; shallow: one set, put in before the first"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"prompt.count: {self.count} is less than 1")


@dataclass
class PrefixConfig:
    """Learned keys and values in every block (prefix tuning, arXiv 2101.00190)."""

    count: int = 20
    """pairs of key and value a block; 20 are 0.4 per cent of ViT-B"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"prefix.count: {self.count} is less than 1")


@dataclass
class CrossConfig:
    """Low-rank cross-attention towards other streams (after CM3T, WACV 2025); without ``layers`` in the last half of the blocks."""

    rank: int = 64
    """width of queries, keys and values; 64 in six blocks are 1.4 per cent of ViT-B"""
    streams: tuple[str, ...] | None = None
    """streams that are read, as in [pose]; empty = all that the encoder reads"""

    def __post_init__(self) -> None:
        if self.rank < 16 or self.rank % 16:
            raise ValueError(f"cross.rank: {self.rank} is no multiple of 16 (a head is 16 wide)")


@dataclass
class LoraConfig:
    """Low-rank updates of the projections of queries and values (LoRA, arXiv 2106.09685), by peft."""

    rank: int = 8
    """rank of an update; 8 is 0.34 per cent of ViT-B"""
    alpha: float = 16.0
    """the update is scaled by alpha / rank"""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank: {self.rank} is less than 1")


@dataclass
class FullConfig:
    """Every weight of the encoder; the released files stay as they are, and a whole encoder is saved."""

    lr: float = 1e-4
    """peak learning rate of the last block; the head's comes from ``training.lr``"""
    layer_decay: float = 0.75
    """factor on it from each block to the one below (as VideoMAE is fine-tuned, arXiv 2203.12602, appendix)"""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"full.layer_decay: {self.layer_decay} is not in (0, 1]")
        if self.lr <= 0:
            raise ValueError(f"full.lr: {self.lr} is not greater than 0")


Method = Literal["linear", "attentive", "adapter", "prompt", "prefix", "cross", "lora", "full"]
MethodSettings = AdapterConfig | PromptConfig | PrefixConfig | CrossConfig | LoraConfig | FullConfig
SETTINGS: dict[str, type[MethodSettings]] = {
    "adapter": AdapterConfig,
    "prompt": PromptConfig,
    "prefix": PrefixConfig,
    "cross": CrossConfig,
    "lora": LoraConfig,
    "full": FullConfig,
}


@dataclass
class SwinConfig:
    """What a file of Video Swin weights does not tell of how video is read; other encoders tell it themselves."""

    frames: int = 32
    """frames that are read at once; longer video is read in pieces"""
    frame_rate: float = 15.0
    """frames a second; Kinetics' checkpoints take every second frame of 30 a second"""
    side: int = 224
    """shorter side of the picture, in pixels"""

    def __post_init__(self) -> None:
        if self.frames < 2 or self.frames % 2:
            raise ValueError(f"swin.frames: {self.frames} is no even number from 2 on")
        if self.side < 32 or self.side % 4:
            raise ValueError(f"swin.side: {self.side} is no multiple of 4 from 32 on")
        if self.frame_rate <= 0:
            raise ValueError(f"swin.frame_rate: {self.frame_rate} is not greater than 0")


@dataclass
class TrainingConfig:
    """How all methods but ``linear`` are trained."""

    epochs: int = 10
    """passes over the training part, at most"""
    lr: float = 1e-3
    """peak learning rate of AdamW; rises over the first tenth of the steps, falls along a cosine"""
    weight_decay: float = 0.01
    """weight decay of AdamW"""
    patience: int = 3
    """passes without a better validation loss after which training ends"""
    validation: float = 0.2
    """share of the training groups that is held out for early stopping, where the data name no ``val`` split"""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.patience < 1:
            raise ValueError("training.epochs and training.patience must be 1 or more")
        if not 0 < self.validation < 1:
            raise ValueError(f"training.validation: {self.validation} is not between 0 and 1")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError("training.lr must be greater than 0, training.weight_decay 0 or more")


@dataclass
class RunConfig:
    """Release + labels -> trained head (and adapter), predictions, report. The encoder itself stays as it is."""

    encoder: Path
    """a release, a Hugging Face VideoMAE folder, or a file of VideoMAE, VideoMAE V2 or Video Swin weights (.pth, .safetensors)"""
    data: Path
    """shards; or videos: a folder, one file or a manifest, prepared as the release asks and kept under OUT/shards"""
    labels: Path
    """table (CSV or Parquet): recording, optionally participant, start, end (seconds), then one column a target; or a text export
    of ELAN (tab-delimited) or BORIS (events)"""
    target: str
    """the column of the labels to predict; several, a,b,c, of 0 and 1 are a multi-label task; of an ELAN export a tier, of a
    BORIS export a behaviour"""
    out: Path
    """folder for weights, predictions, metrics and report"""
    adapted: Path | None = None
    """folder of `kinesic finetune adapt`: its adapters are put into the encoder before anything else"""
    add_stream: Path | None = None
    """YAML file that declares streams which the encoder does not know, and where their data are (docs/finetune.md)"""
    method: Method = "adapter"
    """what is trained: linear, attentive: a head on the frozen encoder's tokens; adapter, prompt, prefix, cross, lora: small
    weights in its blocks as well; full: all of its weights"""
    layers: int | None = None
    """small weights in so many of the last blocks, the others run without gradients; empty = in all (cross: in half)"""
    task: Literal["classification", "multi-label", "ordinal", "regression"] | None = None
    """empty = from the target's values: fractions, or more than 10 different numbers, are a regression; ordinal: levels,
    numbers in order"""
    positive: str | None = None
    """of two classes the one that sensitivity, specificity and auroc are about; empty = the last in order (yes, True, 1)"""
    window_seconds: float | None = None
    """predict for every window of so many seconds of a clip (engagement, who speaks, turn ends), which the encoder reads whole;
    empty = for the clip"""
    streams: tuple[str, ...] | None = None
    """streams that the encoder reads, as in [video,audio]; empty = all it knows"""
    group_by: Literal["participant", "recording", "file"] | None = None
    """what must not stand on both sides of a split; empty = participant, where the labels name them"""
    setting: str = "setting"
    """column of the labels, or x.<name> of the manifest, that says in which setting (room, camera) a recording was made"""
    train_setting: str | None = None
    """train in this setting alone; needs test_setting"""
    test_setting: str | None = None
    """report in this setting, trained in the others, or in train_setting; empty = settings are not looked at"""
    folds: int | Literal["each"] = 5
    """folds of the cross-validation, where the data name no train and test splits; each = leave one participant (group) out"""
    seeds: int = 3
    """repetitions, each with other folds and other initial weights"""
    class_weights: Literal["balanced"] | None = None
    """balanced: classes count the same in every method's loss, however rare"""
    threshold: Literal["half", "youden"] = "half"
    """two classes: probability from which the positive one is said; youden = where sensitivity + specificity is highest on
    held-out thirds of the training part, which are fitted for it"""
    baselines: bool = True
    """print what simpler predictors reach: mean, metadata, mean picture, motion, raw streams, hand-made features"""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """method adapter"""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """method prompt"""
    swin: SwinConfig = field(default_factory=SwinConfig)
    """how a Video Swin reads video"""
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    """method prefix"""
    cross: CrossConfig = field(default_factory=CrossConfig)
    """method cross"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """method lora"""
    full: FullConfig = field(default_factory=FullConfig)
    """method full"""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """how all methods but linear are trained"""
    batch_size: int = 16
    """clips that go through the encoder at once"""
    workers: int = 1
    """processes that read and decode clips; 0 = none beside this one"""
    clips_gb: float = 2.0
    """GB of memory for decoded clips, which all methods but linear and attentive ask for again every epoch; 0 = decode again"""
    device: Device = "auto"
    """auto = the GPU where there is one"""
    tracking_uri: str | None = None
    """MLflow store or server to log to as well, as in sqlite:///mlflow.db; empty = none"""

    def __post_init__(self) -> None:
        if self.folds != "each" and self.folds < 2:
            raise ValueError(f"folds: {self.folds} is less than 2")
        if self.window_seconds is not None and self.window_seconds <= 0:
            raise ValueError(f"window_seconds: {self.window_seconds} is not more than 0")
        if self.seeds < 1 or self.batch_size < 1 or self.workers < 0 or self.clips_gb < 0:
            raise ValueError("seeds and batch_size must be 1 or more, workers and clips_gb 0 or more")
        if self.train_setting is not None and self.test_setting in {None, self.train_setting}:
            raise ValueError("train_setting: give test_setting, another one, as well")
        shallow = self.method == "prompt" and self.prompt.depth == "shallow"
        if self.layers is not None and (self.method in {"linear", "attentive", "full"} or shallow):
            what = (
                "shallow prompts enter before the first block"
                if shallow
                else f"method {self.method} puts nothing into blocks"
            )
            raise ValueError(f"layers: {what}; leave it empty")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers: {self.layers} is less than 1")


@dataclass
class MergeConfig:
    """What ``lora`` or ``full`` learnt -> a release of its own."""

    tuned: Path
    """the --out of a kinesic finetune run"""
    encoder: Path
    """the encoder that it was trained on"""
    out: Path
    """folder of the new release; its head is written beside it, as OUT-head"""


@dataclass
class ExtractConfig:
    """Videos -> a table of features with time stamps."""

    encoder: Path
    """a release, a Hugging Face VideoMAE folder, or a file of VideoMAE, VideoMAE V2 or Video Swin weights (.pth, .safetensors)"""
    video: Path
    """a video, a folder of videos, a manifest, or shards"""
    out: Path
    """Parquet file to write: recording, time, end, view, person (empty = the scene), stream, feature"""
    adapted: Path | None = None
    """folder of `kinesic finetune adapt`: its adapters are put into the encoder before anything else"""
    seconds: float | None = None
    """a row for every so many seconds of a clip, from its start; empty = a row a clip"""
    streams: tuple[str, ...] | None = None
    """streams that the encoder reads, as in [video,audio]; empty = all it knows"""
    swin: SwinConfig = field(default_factory=SwinConfig)
    """how a Video Swin reads video"""
    batch_size: int = 8
    """clips that go through the encoder at once"""
    workers: int = 1
    """processes that read and decode clips; 0 = none beside this one"""
    device: Device = "auto"
    """auto = the GPU where there is one"""

    def __post_init__(self) -> None:
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"seconds: {self.seconds:g} is not greater than 0")
        _check_table(self.out, (".parquet",), self.batch_size, self.workers)


@dataclass
class PredictConfig:
    """A tuned model + videos -> a table of predictions with time stamps, and pictures of them."""

    tuned: Path
    """the --out of a kinesic finetune run"""
    video: Path
    """a video, a folder of videos, a manifest, or shards"""
    out: Path
    """.parquet or .csv to write: recording, start, end, person and participant (empty = the scene), prediction, p(CLASS)"""
    encoder: Path | None = None
    """the encoder that it was trained on, where it lies elsewhere by now; empty = where it lay then"""
    adapted: Path | None = None
    """the folder of `kinesic finetune adapt` that it was trained with, likewise"""
    add_stream: Path | None = None
    """YAML file of the streams that it was trained with, and where their data are for these videos"""
    pictures: int = 10
    """how many recordings, at most, get a picture of the predictions over time, in a folder beside OUT; 0 = none"""
    batch_size: int = 8
    """clips that go through the encoder at once"""
    workers: int = 1
    """processes that read and decode clips; 0 = none beside this one"""
    device: Device = "auto"
    """auto = the GPU where there is one"""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise ValueError(f"pictures: {self.pictures} is less than 0")
        _check_table(self.out, (".parquet", ".csv"), self.batch_size, self.workers)


def _check_table(out: Path, suffixes: tuple[str, ...], batch_size: int, workers: int) -> None:
    if out.suffix not in suffixes:
        raise ValueError(f"out: {out} should end in {' or '.join(suffixes)}")
    if batch_size < 1 or workers < 0:
        raise ValueError("batch_size must be 1 or more, workers 0 or more")


@dataclass
class CompareConfig:
    """Several runs of ``finetune run`` -> one table, and a picture of what accuracy costs."""

    runs: list[Path]
    """folders that finetune run wrote; their targets and test examples must be the same"""
    out: Path = Path("compare")
    """folder for compare.html and compare.csv"""


@dataclass
class AdaptConfig:
    """Unlabelled recordings of a new setting -> small weights that fit the frozen encoder to it, by the masked objective."""

    encoder: Path
    """a release, a Hugging Face VideoMAE folder, or a .pth of VideoMAE or VideoMAE V2"""
    data: Path
    """unlabelled recordings: shards; or videos (a folder, one file, a manifest), prepared as the release asks under OUT/shards"""
    out: Path
    """folder for the adapters and the loss curve; run again into it to go on where a run was stopped"""
    decoder: Path | None = None
    """folder of the pretraining run that the release is of: its decoder is taken as it is; empty = a published VideoMAE's own, else
    one drawn anew, which learns, for the first third of the steps alone"""
    splits: list[str] | None = None
    """only recordings of these splits; empty = all"""
    streams: tuple[str, ...] | None = None
    """streams that are hidden and rebuilt, as in [video,audio]; empty = all that the encoder knows"""
    adapter: AdapterConfig = field(default_factory=lambda: AdapterConfig(scale=1.0))
    """the bottleneck beside every MLP"""
    mask: MaskConfig | None = None
    """what is hidden and rebuilt; empty = as in the run of --decoder, else pretraining's defaults"""
    steps: int = 1000
    """optimizer steps in all"""
    batch: int = 16
    """clips of one step"""
    lr: float = 5e-3
    """peak learning rate of AdamW; rises over a tenth of the steps, falls along a cosine"""
    weight_decay: float = 0.05
    """weight decay of AdamW, on matrices"""
    checkpoint_every: int = 100
    """steps after which the run could go on, if it were stopped"""
    seed: int = 0
    """of the first weights, the order of the clips and the masks"""
    workers: int = 1
    """processes that read and decode clips; 0 = none beside this one"""
    device: Device = "auto"
    """auto = the GPU where there is one"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        if self.lr <= 0 or self.weight_decay < 0 or self.workers < 0:
            raise ValueError("lr must be greater than 0, weight_decay and workers 0 or more")
        if self.adapter.temporal:
            raise ValueError("adapter.temporal: for labels alone; these adapters read one token at a time")
        if self.mask is not None and self.mask.target == "teacher":
            raise ValueError("mask.target: teacher is for pretraining; adapt rebuilds pixels or motion")
