"""The file in which clips wait: what was put comes out, and nothing of it is left behind."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from data_prep.spill import Spill


def test_what_was_put_comes_out_in_any_order_and_leaves_no_file(tmp_path: Path) -> None:
    with closing(Spill(tmp_path)) as spill:
        spill.put(0, "a.mp4", b"first" * 1000)
        spill.put(1, "a.mp4", b"")
        assert spill.get(1) == {"a.mp4": b""}
        spill.put(0, "b.flac", b"second")
        assert list(spill.get(0).items()) == [("a.mp4", b"first" * 1000), ("b.flac", b"second")]
        assert spill.get(2) == {}
        assert not list(tmp_path.iterdir())  # it has no name: a killed process leaves nothing either
