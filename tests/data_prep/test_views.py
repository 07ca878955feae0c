"""Reading a view clip by clip: no further than the clip that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep import views
from data_prep.clips import Window
from data_prep.config import BuildConfig
from data_prep.decode import Event, probe
from data_prep.manifest import Source, View
from tests.data_prep.media import write_media


@pytest.mark.parametrize("media", [{"audio": 0}, {"video": False}], ids=["silent", "sound alone"])
def test_a_view_is_read_as_far_as_the_clip(
    media: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_media(tmp_path / "a.mkv", 20.0, **media)
    read, seen = views.read, []

    def noting(*arguments: Any) -> Iterator[Event]:
        for event in read(*arguments):
            seen.append(event.time)
            yield event

    monkeypatch.setattr(views, "read", noting)
    source = Source(path, path.name, None)
    planned = views.PlannedView(View("main", (source,), ()), (views.PlannedFile(source, probe(path), 0.0),))
    clips = [Window(start, start + 2.0) for start in range(0, 20, 2)]
    config = BuildConfig(tmp_path, tmp_path / "out", landmarks="none", short_side=48, fps=10.0)
    reader = views.ViewReader(planned, clips, config, None)
    assert reader.parts(0)[0].part.members
    assert max(seen) < 4
    assert reader.parts(4)[0].part.members
    assert max(seen) < 12
