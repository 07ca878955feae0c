"""``kinesic finetune extract``: videos -> features with time stamps, in constant memory, as one Parquet table.

A row is one clip, view and stream, for the scene (video, sound) or for one person (face, pose): ``feature`` is the mean
of the encoder's tokens there. ``numpy.stack(table["feature"])`` is a matrix.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.progress import track

from configs import UserError
from finetune.config import ExtractConfig
from finetune.data import chosen_streams, open_encoder, open_shards
from finetune.features import batches, readable
from finetune.labels import SCENE
from pretrain.clips import Clip
from pretrain.encoder import Encoder

SCHEMA = pa.schema(
    [
        ("recording", pa.string()),
        ("time", pa.float64()),  # start of the clip, in seconds on the recording's clock
        ("end", pa.float64()),
        ("view", pa.string()),  # empty = the stream belongs to no view
        ("person", pa.int64()),  # empty = the scene
        ("stream", pa.string()),
        ("feature", pa.list_(pa.float32())),
    ]
)
_EMPTY = pd.DataFrame({name: pd.Series(dtype="Int64" if name == "person" else None) for name in SCHEMA.names})
SCHEMA = pa.Table.from_pandas(_EMPTY, SCHEMA, preserve_index=False).schema  # tells pandas that person is a whole number


def extract(config: ExtractConfig) -> int:
    """Writes ``config.out``; 3 where a clip could not be read. Raises UserError."""
    encoder = open_encoder(config.encoder, config.device, config.swin)
    streams = chosen_streams(encoder, config.streams)
    prepared = config.out.with_name(f"{config.out.name}.shards")
    shards, index = open_shards(config.video, config.encoder, encoder, prepared)
    temporary = config.out.with_name(f".{config.out.name}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    rows = read = 0
    total = -(-len(index) // config.batch_size)
    with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        clips = batches(shards, index, streams, config.batch_size, config.workers)
        for batch in track(clips, "features", total=total):
            kept = [clip for clip in batch if clip is not None and readable(clip, streams)]
            read += len(kept)
            if kept:
                frame = clip_features(encoder, kept, streams)
                rows += len(frame)
                writer.write_table(pa.Table.from_pandas(frame, SCHEMA, preserve_index=False))
    if not rows:
        temporary.unlink()
        raise UserError(f"{config.video}: no clip holds {' or '.join(streams)}; nothing was written")
    temporary.replace(config.out)
    shutil.rmtree(prepared, ignore_errors=True)
    prepared.with_name(f"{prepared.name}.manifest.csv").unlink(missing_ok=True)
    print(f"{config.out}: {rows} rows of {encoder.config.dim} features from {read} clips")
    if read < len(index):
        print(f"{len(index) - read} clips hold none of {', '.join(streams)} or cannot be read", file=sys.stderr)
    return 0 if read == len(index) else 3


@torch.inference_mode()
def clip_features(encoder: Encoder, clips: Sequence[Clip], streams: Sequence[str]) -> pd.DataFrame:
    """Mean of the tokens of every (clip, stream, view, person) as rows of SCHEMA's columns."""
    encoded = encoder.encode_clips(list(clips), streams)
    what = torch.stack([encoded.clip, encoded.modality, encoded.view, encoded.person], 1)
    kinds, kind_of_token = torch.unique(what, dim=0, return_inverse=True)
    sums = torch.zeros(len(kinds), encoded.tokens.shape[1], device=what.device)
    sums.index_add_(0, kind_of_token, encoded.tokens.float())
    means = sums / torch.bincount(kind_of_token)[:, None]
    clip, modality, view, person = kinds.cpu().numpy().T
    names = [list(c.views) for c in clips]
    return pd.DataFrame(
        {
            "recording": [clips[c].recording for c in clip],
            "time": [clips[c].start for c in clip],
            "end": [clips[c].end for c in clip],
            "view": [names[c][v] if v >= 0 else None for c, v in zip(clip, view, strict=True)],
            "person": pd.array(np.where(person == SCENE, None, person), dtype="Int64"),
            "stream": [encoder.modalities[m] for m in modality],
            "feature": list(means.cpu().numpy()),
        }
    )
