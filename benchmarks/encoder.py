"""The encoder beside its peers, in one run on one machine: `python -m benchmarks.encoder [PART ...]`.

- step: a whole training step of ViT-S on 16 x 224 x 224 at mask 0.9, beside transformers' VideoMAEForPreTraining (SDPA);
- long: 256 and 1,024 frames, beside the same trunk with full attention over the same tokens;
- frame: what a frame costs at 64 and 1,024 frames, and the memory of streaming them;
- mixed: clips of mixed lengths and missing streams, packed, beside the same padded to the longest;
- parts: where the time of a step goes, and its share of the machine's matrix peak.

Each measurement is a process of its own (its peak memory is its own); the two sides of a row take turns. Weights are drawn at
random, pixels and sounds are noise: the time does not depend on them.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.decode import video
from benchmarks.gpu import generated_clips
from pretrain.attention import Blocks
from pretrain.clips import Clip, View, read_frames
from pretrain.config import MaskConfig, ModelConfig
from pretrain.encoder import Encoder
from pretrain.masking import hidden_tokens
from pretrain.objective import MaskedAutoencoder
from pretrain.pooling import plan
from pretrain.streaming import StreamingEncoder
from pretrain.tokens import tokenize

BATCH = 4  # clips of 16 frames
OPEN = 0.1  # a gate that has learnt
VIT_S = ModelConfig(streams={})
# glibc gives blocks above this size back when they are freed; left to itself it keeps holes between those that stay
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(10 * 2**20)}
ATTENTION_ON_CPU = {  # PyTorch's counter knows the same of CUDA alone, and takes these for free
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}
PARTS = ("step", "long", "frame", "mixed", "parts")
Work = Callable[[], Any]


def noise(frames: int) -> Clip:
    """A clip of one view of this many frames at the encoder's rate and size."""
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 224, 224, 3), dtype=np.uint8)
    seconds = frames / VIT_S.frame_rate
    return Clip("a", "a", 0.0, seconds, [], {"main": View(pixels, frame_rate=VIT_S.frame_rate)}, {}, {})


def open_gates(encoder: Encoder, gate: float = OPEN) -> Encoder:
    """All gates set to one value, in place: closed ones are not read where no gradient is wanted."""
    for reading in encoder.trunk.readings():
        for value in reading.gates.values():
            nn.init.constant_(value, gate)
    return encoder


def training_step(loss: Callable[[], Tensor], model: nn.Module) -> Work:
    """Forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def our_step(decoded: float) -> Work:
    model = MaskedAutoencoder(VIT_S, MaskConfig(decoded=decoded))
    batch = model.collate([noise(16)] * BATCH, range(BATCH))
    return training_step(lambda: model(batch)["video"] / batch.counts["video"], model)


def peer_step() -> Work:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
        decoder_hidden_size=192,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=768,
        use_mean_pooling=False,
    )
    model = VideoMAEForPreTraining(config).train()
    assert model.config._attn_implementation == "sdpa"
    pixels = torch.randn(BATCH, 16, 3, 224, 224)
    rng = np.random.default_rng(0)
    hidden = np.ones((BATCH, 8, 196), bool)
    for row in hidden:
        row[:, rng.choice(196, 20, replace=False)] = False  # as many as ours
    mask = torch.from_numpy(hidden.reshape(BATCH, -1))
    return training_step(lambda: model(pixels, bool_masked_pos=mask).loss, model)


def trunk_work(frames: int, mask: float, full: bool, layers: int = 12) -> Work:
    """The trunk over a clip's visible tokens: forward and backward where some are masked, forward alone where none is.

    full: every token attends to all.
    """
    config = ModelConfig(streams={}, layers=layers)
    encoder = open_gates(Encoder(config))
    tokens = tokenize(noise(frames), 0, config, ["video"])["video"]
    if mask:
        hidden = hidden_tokens("video", tokens, config, MaskConfig(video=mask), np.random.default_rng(0))
        tokens = tokens.take(np.flatnonzero(~hidden))
    layout = plan({"video": tokens}, config)
    if full:
        layout.own, layout.sources = Blocks(np.array([len(tokens)])), {}

    def work() -> None:
        with torch.set_grad_enabled(bool(mask)):
            out = encoder.trunk(encoder.embed({"video": tokens}), layout)
            if mask:
                encoder.zero_grad(set_to_none=True)
                out.square().mean().backward()

    return work


def streaming_work(frames: int) -> Work:
    """A clip fed in pieces of 16 frames."""
    encoder = open_gates(Encoder(VIT_S)).eval()
    seconds = 16 / VIT_S.frame_rate

    def work() -> None:
        streaming = StreamingEncoder(encoder)
        for number in range(frames // 16):
            piece = noise(16)
            piece.start, piece.end = number * seconds, (number + 1) * seconds
            for _ in streaming.feed(piece):
                pass
        for _ in streaming.finish():
            pass

    return work


def mixed_clips(padded: bool) -> list[Clip]:
    """Eight clips of 2 to 16 s, every other one without sound; padded: all as long as the longest, with everything."""
    config = ModelConfig(image_height=112, image_width=112)
    lengths = np.random.default_rng(0).uniform(2, 16, 8)
    clips = []
    for number, seconds in enumerate(lengths):
        clip = generated_clips(config, 1, float(lengths.max() if padded else seconds))[0]
        if number % 2 and not padded:
            clip.views["main"].audio = None
        clips.append(clip)
    return clips


def mixed_batch(padded: bool) -> tuple[MaskedAutoencoder, Any]:
    config = ModelConfig(image_height=112, image_width=112)
    model = MaskedAutoencoder(config, MaskConfig())
    return model, model.collate(mixed_clips(padded), range(8))


def mixed_work(padded: bool) -> Work:
    model, batch = mixed_batch(padded)
    return training_step(lambda: torch.stack([loss / 1000 for loss in model(batch).values()]).sum(), model)


def part_work(part: str) -> Work:
    """One part of ``our_step``, forward and backward."""
    model = MaskedAutoencoder(VIT_S, MaskConfig())
    clips = [noise(16)] * BATCH
    if part == "tokenize":
        return lambda: model.collate(clips, range(BATCH))
    batch = model.collate(clips, range(BATCH))
    embedded = model.encoder.embed(batch.visible).detach()
    if part == "trunk":
        return lambda: model.encoder.trunk(embedded, batch.encoder_layout).sum().backward()
    encoded = torch.randn_like(embedded).requires_grad_()
    rest = (batch.visible_rows, batch.both, batch.queries, batch.decoder_layout)
    if part == "decoder":
        return lambda: model.decoder(encoded, *rest)["video"].sum().backward()
    if part == "loss":
        predicted = torch.randn(batch.counts["video"], 1536, requires_grad=True)
        return lambda: torch.square(predicted - model.targets("video", batch)[0]).mean(1).sum().backward()
    assert part == "optimizer"
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return optimizer.step


def reading_work() -> Work:
    """What a loader worker does of video: 10 s at 25 Hz, 256 x 456, out of a shard's bytes to a masked clip of 224 pixels."""
    model, data = MaskedAutoencoder(ModelConfig(streams={}), MaskConfig(decoded=0.5)), video(256, 456, 25, 10)

    def work() -> None:
        clip = Clip("a", "a", 0.0, 10.0, [], {"main": View(read_frames(data), frame_rate=25.0)}, {}, {})
        model.collate([clip], [0])

    return work


def peak_work() -> Work:
    """One large matrix product, 2 * 2048^3 FLOP."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return lambda: a @ b


WORKS: dict[str, Callable[[], Work]] = {
    "step ours": functools.partial(our_step, 1.0),
    "step ours, half decoded": functools.partial(our_step, 0.5),
    "step peer": peer_step,
    **{
        f"{frames} frames, mask {mask}, {'full' if full else 'ours'}": functools.partial(trunk_work, frames, mask, full)
        for frames in (64, 256, 1024)
        for mask in (0.9, 0.0)
        for full in (False, True)
    },
    "1024 frames, mask 0.0, full, one layer": functools.partial(trunk_work, 1024, 0.0, True, 1),
    "1024 frames, mask 0.0, ours, one layer": functools.partial(trunk_work, 1024, 0.0, False, 1),
    **{f"streaming {frames}": functools.partial(streaming_work, frames) for frames in (64, 1024)},
    "mixed packed": functools.partial(mixed_work, False),
    "mixed padded": functools.partial(mixed_work, True),
    **{
        f"part {part}": functools.partial(part_work, part)
        for part in ("tokenize", "trunk", "decoder", "loss", "optimizer")
    },
    "peak": peak_work,
    "reading": reading_work,
}


def measure_here(name: str, runs: int, flops: bool) -> dict[str, Any]:
    """Seconds of each run after a first one that does not count, peak memory (bytes), and FLOPs of matrix products."""
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work = WORKS[name]()
    if flops:
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
            work()
        return {"flops": counter.get_total_flops()}
    seconds = []
    for _ in range(runs + (runs > 1)):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds[runs > 1 :], "memory": 1024 * peak, "model": 1024 * (peak - before)}


def measure(
    name: str, runs: int, flops: bool = False, threads: int | None = None, settings: dict[str, str] | None = None
) -> dict[str, Any]:
    """``measure_here`` in a process of its own, on all cores or so many; settings: of its environment."""
    command = [sys.executable, "-m", "benchmarks.encoder", "--one", name, "--runs", str(runs)]
    command += ["--flops"] if flops else []
    env = os.environ | (settings or {})
    env |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def beside(names: list[str], runs: int) -> dict[str, list[float]]:
    """Seconds by name: runs + 1 processes a name, which take turns; the first run of each is not counted."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(max(runs // 3, 1)):
        for name in names:
            found[name] += measure(name, min(runs, 3))["seconds"]
    return found


def spread(values: list[float]) -> str:
    """median (least to most)"""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def ratio(slow: list[float], fast: list[float]) -> str:
    """How many times faster: of the medians, and of the worst and best pairs."""
    mid = statistics.median(slow) / statistics.median(fast)
    return f"{mid:.2f} ({min(slow) / max(fast):.2f} to {max(slow) / min(fast):.2f})"


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def step(runs: int) -> None:
    names = ["step ours", "step ours, half decoded", "step peer"]
    seconds = beside(names, runs)
    flops = {name: measure(name, 1, flops=True)["flops"] for name in names}
    row("step of 4 clips", "seconds", "times the peer's speed", "ratio in FLOPs", "peak memory, MB")
    row(*["---"] * 5)
    for name in names:
        memory = measure(name, 2)["memory"] / 1e6
        faster = ratio(seconds["step peer"], seconds[name])
        row(name, spread(seconds[name]), faster, f"{flops['step peer'] / flops[name]:.2f}", f"{memory:.0f}")


def long(runs: int) -> None:
    row("trunk", "seconds", "full attention, seconds", "times faster", "ratio in FLOPs")
    row(*["---"] * 5)
    for frames, mask in ((256, 0.9), (1024, 0.9), (256, 0.0)):
        pair = [f"{frames} frames, mask {mask}, {kind}" for kind in ("ours", "full")]
        seconds = beside(pair, runs)
        flops = [measure(name, 1, flops=True)["flops"] for name in pair]
        ours, full = (seconds[name] for name in pair)
        row(
            f"{frames} frames, mask {mask}", spread(ours), spread(full), ratio(full, ours), f"{flops[1] / flops[0]:.1f}"
        )
    pair = [f"1024 frames, mask 0.0, {kind}, one layer" for kind in ("ours", "full")]
    seconds = {pair[0]: beside(pair[:1], runs)[pair[0]], pair[1]: measure(pair[1], 1)["seconds"]}
    ours, full = (seconds[name] for name in pair)
    # by hand: the counter would run it once more. Of a token: 24 dim^2 for the linear maps, 4 dim for each key
    tokens, dim = 1024 // 2 * 196, 384
    flops_full = tokens * (24 * dim**2 + 4 * dim * tokens)
    flops_ours = measure(pair[0], 1, flops=True)["flops"]
    row(
        "1024 frames, mask 0, one layer of 12",
        spread(ours),
        spread(full),
        ratio(full, ours),
        f"{flops_full / flops_ours:.1f}",
    )


def frame(runs: int) -> None:
    row(
        "frames",
        "trunk at mask 0, ms a frame",
        "streaming, ms a frame",
        "streaming, peak MB",
        "with glibc told, peak MB",
    )
    row(*["---"] * 5)
    for frames in (64, 1024):
        whole = measure(f"{frames} frames, mask 0.0, ours", max(runs // 2, 1))["seconds"]
        streamed = measure(f"streaming {frames}", 2)
        each = [[1000 * s / frames for s in seconds] for seconds in (whole, streamed["seconds"])]
        told = measure(f"streaming {frames}", 1, settings=RETURN_MEMORY)
        row(frames, *map(spread, each), *(f"{one['memory'] / 1e6:.0f}" for one in (streamed, told)))


def mixed(runs: int) -> None:
    seconds = beside(["mixed packed", "mixed padded"], runs)
    tokens = [sum(map(len, mixed_batch(padded)[1].both.values())) for padded in (False, True)]
    row("8 clips of 2 to 16 s", "tokens", "seconds a step")
    row(*["---"] * 3)
    for name, count in zip(seconds, tokens, strict=True):
        row(name, count, spread(seconds[name]))
    faster = ratio(seconds["mixed padded"], seconds["mixed packed"])
    row("padded / packed", f"{tokens[1] / tokens[0]:.2f}", faster)


def parts(runs: int) -> None:
    names = [name for name in WORKS if name.startswith("part ")]
    seconds = {name: measure(name, runs)["seconds"] for name in [*names, "step ours", "peak"]}
    row("part of a step of 4 clips, forward and backward", "seconds")
    row(*["---"] * 2)
    for name in [*names, "step ours"]:
        row(name.removeprefix("part "), spread(seconds[name]))
    flops = measure("step ours", 1, flops=True)["flops"]
    peak = 2 * 2048**3 / min(seconds["peak"])
    share = flops / statistics.median(seconds["step ours"]) / peak
    row(f"matrix peak {peak / 1e9:.0f} GFLOP/s; share of it in a step", f"{share:.2f}")
    reading = [1 / seconds for seconds in measure("reading", runs, threads=1)["seconds"]]
    row("clips of 10 s, 256 x 456 at 25 Hz, read, decoded and masked by one core, a second", spread(reading))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], default=[], help="all where none is named")
    parser.add_argument("--runs", type=int, default=6, help="of each side of a row")
    parser.add_argument("--one", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--flops", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_here(arguments.one, arguments.runs, arguments.flops)))
        return
    print(f"{time.strftime('%Y-%m-%d')}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, float32\n")
    measured = {"step": step, "long": long, "frame": frame, "mixed": mixed, "parts": parts}
    for name in arguments.part or PARTS:
        measured[name](arguments.runs)
        print(flush=True)


if __name__ == "__main__":
    main()
