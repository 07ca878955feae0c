"""A row of the literature, as `finetune score` shows it beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rival:
    """One published figure: whose, of which metric (a key of the protocol's ``score``), where it was read, what it may be compared
    with. spread: standard deviation over seeds, where it is told. split: the part of the data that it is about, "" = not told."""

    name: str
    metric: str
    value: float
    source: str
    compare: str
    spread: float | None = None
    split: str = ""
