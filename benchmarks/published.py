"""Does pretraining that starts from weights of VideoMAE's layout stay finite on real clips, and does its loss fall?

    python -m benchmarks.published --shards OUT --out FOLDER [--recipe small] [--steps 500] [--batch 2]

The weights are a transformers ``VideoMAEForPreTraining`` of the recipe's size, encoder and decoder, whose parameters are ALL drawn
anew at the scale of trained ones, biases and norms included: published ones are out of reach of a package registry, and what a
library draws by default (zero biases, norms of one, small matrices) is no test of numbers. The run is ``pretrain run --init`` with
the recipe, in batches that a CPU can carry. Writes table.md and the run's own loss.png; what is done is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import configs
from benchmarks import runs
from pretrain.__main__ import COMMANDS
from pretrain.config import ModelConfig, RunConfig

AVERAGED = 20  # steps at either end


def main(words: list[str] | None = None) -> None:
    """Reads the arguments, trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="shards of real recordings")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, run and table.md")
    parser.add_argument("--recipe", default="small", help="of `pretrain run` (default: small)")
    parser.add_argument("--steps", type=int, default=500, help="(default: 500)")
    parser.add_argument("--batch", type=int, default=2, help="clips of a step, instead of the recipe's (default: 2)")
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    typed = ["--config", args.recipe, "--data.shards", str(args.shards), "--out", str(args.out / "run")]
    recipe: RunConfig = configs.parse("pretrain", "run", COMMANDS["run"], typed)
    weights = args.out / "videomae"
    if not weights.is_dir():
        draw_weights(recipe.model, weights)
    more = ["--batch", str(args.batch), "--accumulate", "1", "--data.workers", "0", "--init", str(weights)]
    config = runs.train(args.recipe, args.shards, args.out / "run", args.steps, *more)
    text = as_markdown(config)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


def draw_weights(model: ModelConfig, folder: Path) -> None:
    """A Hugging Face folder of a VideoMAE of this size with every parameter drawn at trained-like scale."""
    import torch
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    published = VideoMAEForPreTraining(
        VideoMAEConfig(
            hidden_size=model.dim,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            intermediate_size=model.mlp_dim,
            image_size=[model.image_height, model.image_width],
            decoder_hidden_size=model.decoder_dim,
            decoder_num_hidden_layers=model.decoder_layers,
            decoder_num_attention_heads=model.decoder_heads,
            decoder_intermediate_size=4 * model.decoder_dim,
            layer_norm_eps=model.layer_norm_eps,
            use_mean_pooling=False,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in published.named_parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))
    published.save_pretrained(folder.with_name(f".{folder.name}.tmp"))
    folder.with_name(f".{folder.name}.tmp").rename(folder)


def as_markdown(config: RunConfig) -> str:
    """Means of the first and the last losses of each modality."""
    names = config.model.modalities
    losses, seconds = runs.losses(config.out, names), runs.seconds(config.out)
    ends = [np.nanmean(part, 0) for part in (losses[:AVERAGED], losses[-AVERAGED:])]
    lines = [
        f"{config.batch} clips a step, {config.precision}, {len(losses)} steps in {seconds.sum() / 60:.0f} minutes; a loss that "
        f"is not finite would have ended the run; the largest of all was {np.nanmax(losses):.2f}.",
        "",
        *runs.header(names),
        *(
            f"| mean of the {which} {AVERAGED} steps | {' | '.join(f'{loss:.3f}' for loss in end)} |"
            for which, end in zip(("first", "last"), ends, strict=True)
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
