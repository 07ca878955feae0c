"""Does it run, and how fast, on one CUDA GPU? ``python -m benchmarks.gpu`` (under 5 minutes; without a GPU: exit code 2)

1. Packed attention on xformers against PyTorch's scaled_dot_product_attention, output and gradients.
2. Twenty steps of pretraining a ViT-B on generated clips: DeepSpeed, ZeRO-1, bf16, losses that fall.
3. Clips a second, and the share of what the GPU reaches on one large matrix product.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from pretrain.attention import Blocks, packed_attention
from pretrain.clips import Clip, View
from pretrain.config import DataConfig, MaskConfig, ModelConfig, OptimizerConfig, RunConfig
from pretrain.engine import start_engine, train_step
from pretrain.objective import MaskedAutoencoder
from pretrain.processes import StopRequest, start_processes

VIT_B = ModelConfig(
    dim=768, layers=12, heads=12, mlp_dim=3072, decoder_dim=384, decoder_layers=4, decoder_heads=6, frame_rate=8.0
)
# largest difference / largest value against float32 on the CPU; bfloat16 has 8 bits
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def attention_error(device: str, dtype: torch.dtype, heads: int = 12, head_dim: int = 64) -> float:
    """Largest difference / largest value of output and gradients on ``device`` against float32 on the CPU.

    Blocks of 16 lengths, some queries and keys in no block, fewer keys than queries, keys of unequal weight: all that the
    model asks of the kernel.
    """
    rng = np.random.default_rng(0)
    queries, keys = rng.integers(1, 400, 16), rng.integers(1, 200, 16)
    mine, theirs = (np.sort(rng.choice(int(n.sum()) + 50, int(n.sum()), replace=False)) for n in (queries, keys))
    weight = torch.from_numpy(np.log(rng.integers(1, 5, int(keys.sum()) + 50)))
    shapes = [(int(n.sum()) + 50, heads, head_dim) for n in (queries, keys, keys)]
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(*shape, generator=generator).to(dtype).float() for shape in (*shapes, shapes[0])]
    results = []
    for where, kind in (("cpu", torch.float32), (device, dtype)):
        blocks = Blocks(queries, keys, mine, theirs, weighted=True).to(where)
        query, key, value = (tensor.to(where, kind).requires_grad_() for tensor in values[:3])
        out = packed_attention(query, key, value, blocks, weight.to(where))
        gradients = torch.autograd.grad(out, (query, key, value), values[3].to(where, kind))
        results.append([x.detach().float().cpu() for x in (out, *gradients)])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True))


def generated_clips(model: ModelConfig, count: int, seconds: float = 8.0) -> list[Clip]:
    """Clips with moving gradients and noise for sound, one view, ``model``'s own picture size and frame rate."""
    rng = np.random.default_rng(0)
    frames = int(seconds * model.frame_rate)
    time_axis, row, column = np.ogrid[:frames, : model.image_height, : model.image_width]
    clips = []
    for number in range(count):
        waves = [np.sin((row * (c + 1) + column * (number % 7 + 1) + 9 * time_axis) / 25) for c in range(3)]
        view = View(
            frames=(128 + 100 * np.stack(waves, -1)).astype(np.uint8),
            frame_rate=model.frame_rate,
            audio=rng.normal(0, 0.1, (1, int(16000 * seconds))).astype(np.float32),
            audio_rate=16000,
        )
        clips.append(Clip(str(number), str(number), 0.0, seconds, [], {"main": view}, {}, {}))
    return clips


@dataclass
class Speed:
    """What pretraining steps cost: seconds of the median step, clips and matrix-product FLOPs of each; the losses by step."""

    seconds: float
    clips: int
    flops: float
    losses: list[dict[str, float]]


def measure_steps(model: ModelConfig, batch: int, steps: int = 20) -> Speed:
    """Trains on the same ``batch`` generated clips again and again, on this process's device (a GPU, else the CPU)."""
    processes = start_processes()
    try:
        data = DataConfig(shards=Path(tempfile.gettempdir()))  # the clips are generated: nothing is read from there
        config = RunConfig(
            Path(tempfile.gettempdir()),
            data,
            model,
            MaskConfig(),
            OptimizerConfig(lr=3e-4, warmup_steps=5),
            steps=steps,
            batch=batch,
            precision="bf16",
            zero_stage=1,
        )
        clips = generated_clips(model, batch)
        autoencoder = MaskedAutoencoder(model, config.mask)
        autoencoder.fit_statistics(clips)
        with FlopCounterMode(display=False) as counter:  # of one clip, on the CPU, whose kernels the counter knows
            torch.stack(list(autoencoder(autoencoder.collate(clips[:1], [0])).values())).sum().backward()
        autoencoder.zero_grad(set_to_none=True)
        collated = autoencoder.collate(clips, range(batch)).to(processes.device)
        engine = start_engine(config, autoencoder, processes)
        stream, stop = itertools.repeat(collated), StopRequest()
        seconds, losses = [], []
        for _ in range(steps):
            began = time.perf_counter()
            losses.append(train_step(config, processes, engine, stream, stop)[0])  # its sums wait for the device
            seconds.append(time.perf_counter() - began)
        return Speed(statistics.median(seconds[steps // 2 :]), batch, batch * counter.get_total_flops(), losses)
    finally:
        dist.destroy_process_group()


def matmul_peak(size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of one large bfloat16 matrix product on the GPU, the best of some."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA GPU here: nothing was measured", file=sys.stderr)
        return 2
    import deepspeed
    import xformers

    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 2**30
    versions = f"torch {torch.__version__}, xformers {xformers.__version__}, deepspeed {deepspeed.__version__}"
    print(f"{time.strftime('%Y-%m-%d')}, {name} ({memory:.0f} GiB), {versions}")
    right = True
    for dtype, tolerance in TOLERANCE.items():
        error = attention_error("cuda", dtype)
        right &= error <= tolerance
        print(
            f"packed attention, {dtype}: xformers - SDPA is {error:.1e} of the largest value (allowed {tolerance:.0e})"
        )
    batch = 32 if memory > 60 else 8
    speed = measure_steps(VIT_B, batch)
    first, last = (sum(losses.values()) for losses in (speed.losses[0], speed.losses[-1]))
    right &= last < first
    print(f"20 steps of a ViT-B, ZeRO-1, bf16, {batch} clips of 8 s at 224x224: loss {first:.3f} -> {last:.3f}")
    peak = matmul_peak()
    share = speed.flops / speed.seconds / peak
    print(
        f"{speed.clips / speed.seconds:.1f} clips/s; {speed.flops / speed.seconds / 1e12:.1f} TFLOP/s in matrix products, "
        f"{100 * share:.0f} % of the {peak / 1e12:.0f} TFLOP/s of one 8192 x 8192 product "
        f"(memory: {torch.cuda.max_memory_allocated() / 2**30:.0f} GiB)"
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
