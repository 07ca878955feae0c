"""``kinesic finetune merge``: a release whose weights hold what ``lora`` or ``full`` has learnt, and the head that reads it.

OUT         a release (or, of a VideoMAE, a Hugging Face folder) like the one that was tuned: nothing is installed to load it
OUT-head    the head, tied to OUT
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from configs import UserError
from finetune.config import MergeConfig, SwinConfig
from finetune.data import open_encoder
from finetune.features import weights_digest
from finetune.methods import lora
from finetune.swin_encoder import SwinEncoder
from finetune.tuned import load_tuned, read_about
from pretrain.encoder import Encoder
from pretrain.export import export_videomae
from pretrain.release import check
from pretrain.release_files import CARD, CONFIG, HUB_CARD, SUMS, WEIGHTS, check_files, write_sums
from pretrain.schema import SCHEMA


def merge(config: MergeConfig) -> None:
    """Writes ``config.out`` and its head. Raises UserError for a method that cannot be merged, or where OUT exists."""
    head = config.out.with_name(f"{config.out.name}-head")
    for path in (config.out, head):
        if path.exists():
            raise UserError(f"{path}: exists; a release is never changed, take another name")
    about = read_about(config.tuned)
    if about["added"] or about["adapted"]:
        what = "streams that the release does not know" if about["added"] else f"the adapters of {about['adapted']}"
        raise UserError(f"{config.tuned}: was trained with {what}, for which a release has no place")
    if about["method"] not in {"lora", "full"}:
        raise UserError(f"{config.tuned}: method {about['method']} leaves nothing to merge: lora and full alone do")
    encoder = open_encoder(config.encoder, "cpu", SwinConfig(**about["swin"]))
    if isinstance(encoder, SwinEncoder):
        raise UserError(f"{config.encoder}: a Video Swin; only releases and VideoMAE are written")
    load_tuned(config.tuned, encoder)
    lora.merge(encoder)
    encoder.requires_grad_(False)
    if (config.encoder / SUMS).is_file():
        write_release(encoder, config.encoder, config.out, about)
    else:
        export_videomae(encoder, config.out)
    aside = head.with_name(f".{head.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    shutil.copyfile(config.tuned / "head.safetensors", aside / "head.safetensors")
    of_head = {
        "method": "linear",
        "layers": None,
        "encoder": str(config.out.absolute()),
        "encoder_sha256": weights_digest(encoder),
    }
    (aside / "config.json").write_text(json.dumps(about | of_head, indent=1))
    aside.rename(head)
    print(f"{config.out}: {about['method']} of {config.tuned} merged; its head is {head}")


def write_release(encoder: Encoder, source: Path, out: Path, tuned: dict[str, Any]) -> None:
    """A copy of a release with other weights, of which its config and cards tell."""
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    names = check_files(source)
    for name in names:
        shutil.copyfile(source / name, aside / name)
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    save_file(weights, aside / WEIGHTS, {"kinesic": f"schema {SCHEMA}"})
    (aside / WEIGHTS).chmod((aside / CONFIG).stat().st_mode)  # safetensors lets the owner alone read what it writes
    about = json.loads((aside / CONFIG).read_text())
    about["merged"] = {name: tuned[name] for name in ("method", "target", "task", "encoder_sha256")}
    (aside / CONFIG).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    for name in {CARD, HUB_CARD} & set(names):
        with (aside / name).open("a", encoding="utf-8") as card:
            card.write(
                f"\n## Tuned\n\nThese weights are those of the encoder above after {tuned['method']} on labels of "
                f"`{tuned['target']}` ({tuned['task']}), merged. Figures above are of the encoder before.\n"
            )
    write_sums(aside, names)
    check(aside)  # a release that cannot be loaded must not come to exist
    aside.rename(out)
