"""The matrix of test_bad_input.py: each kind of bad input, how it is made, and what has to come of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.data_prep.bad_media import (
    Sound,
    bomb,
    cut,
    film,
    flipped,
    good,
    hanging,
    noise,
    png,
    repacked,
    text,
    two_sizes,
    wrong_duration,
)
from tests.data_prep.media import write_media

Write = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """A recording of the matrix. What is not given is not looked at.

    ``rows``: what the manifest says besides the path. ``video``, ``audio``: seconds that have to come out, 0 = none.
    ``line``: words of its line in failures.csv, None = it has none.
    """

    file: str
    write: Write | None
    video: float = 4.0
    audio: float = 0.0
    line: str | None = None
    size: tuple[int, int] = (64, 48)
    grey: bool = True
    """whether each picture has the grey level of its time"""
    loud: tuple[float, float] = (0.3, 0.6)
    """between what the loudest sample lies"""
    rows: tuple[dict[str, Any], ...] = field(default=({},))


def nothing(file: str, write: Write | None, line: str, *rows: dict[str, Any]) -> Kind:
    """A kind of which nothing can be built."""
    return Kind(file, write, 0.0, 0.0, line, rows=rows or ({},))


def named(file: str) -> Kind:
    """A good file with a difficult name."""
    return Kind(file, film)


def playlist(path: Path) -> Path:
    """A list of films on a machine that must never be asked; test_bad_input.py listens there."""
    port = os.environ["KINESIC_TEST_PORT"]
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:4", "#EXTINF:4,", f"http://127.0.0.1:{port}/a.ts", "#EXT-X-ENDLIST", ""]
    return text(path, "\n".join(lines))


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is at most 108 bytes long
        server.bind(path.name)
        os.chdir(here)


def unreadable(path: Path) -> None:
    film(path).chmod(0)


def turned(degrees: int) -> Write:
    return lambda path: write_media(path, 4.0, audio=0, rotation=degrees)


def with_sounds(*sounds: Sound) -> Write:
    return lambda path: film(path, sounds=sounds)


def only_sound(**settings: Any) -> Write:
    return lambda path: film(path, (), sounds=(Sound(**settings),))


def pixels(codec: str, form: str, size: tuple[int, int] = (64, 48)) -> Write:
    return lambda path: film(path, size=size, codec=codec, pixels=form)


def every(rate: float, seconds: float = 4.0) -> Write:
    return lambda path: film(path, [k / rate for k in range(round(seconds * rate))])


UNEVEN = [0, 0.1, 0.15, 0.2, 0.9, 1.0, 1.7, 2.0, 2.4, 3.2, 3.3, 3.4, 3.9]
TWICE = ({"start": 0, "end": 2}, {"start": 1, "end": 3})

KINDS: dict[str, Kind] = {
    # copies and recordings that ended too early
    "truncated mkv": Kind("a.mkv", lambda p: cut(p, 0.6, sounds=(Sound(),)), -1, -1, "before its header says"),
    "truncated mp4": Kind(
        "b.mp4", lambda p: cut(p, 0.8, file_options={"movflags": "faststart"}), -1, line="before its header says"
    ),
    "no moov": nothing("c.mp4", lambda p: cut(p, 0.5), "not a media file"),
    "zero bytes": nothing("d.mp4", Path.touch, "the file is empty"),
    "nothing but zeros": nothing("e.mp4", lambda p: p.write_bytes(bytes(50_000)), "not a media file"),
    "noise": nothing("f.mkv", noise, "not a media file"),
    "text named mp4": nothing("g.mp4", lambda p: text(p, "Minutes of the meeting\n"), "not a media file"),
    "subtitles": nothing(
        "h.mp4", lambda p: text(p, "1\n00:00:00,000 --> 00:00:04,000\nHello.\n\n"), "neither picture nor sound"
    ),
    "a still picture": nothing("i.mp4", lambda p: p.write_bytes(png(16, 16, b"")), "neither picture nor sound"),
    "bits flipped": Kind("af.mkv", flipped, -1, line="pictures that are damaged", grey=False),
    "one second": Kind("j.mp4", every(10, 1.0), 1.0),
    "half a second": nothing("k.mp4", every(10, 0.5), "no clip of 1 s or more"),
    # pictures
    "video only": Kind("l.mp4", film),
    "one key frame and nothing after": Kind("m.mkv", lambda p: repacked(p, lambda n: n == 0), 0.1, 4.0),
    "no key frame at the start": Kind("n.mkv", lambda p: repacked(p, lambda n: n > 0), -1, 4.0, grey=False),
    "frames left out": Kind("o.mkv", lambda p: repacked(p, lambda n: n < 20 or n > 29), 4.0, 4.0, grey=False),
    "variable frame rate": Kind("p.mkv", lambda p: film(p, UNEVEN)),
    "1 frame a second": Kind("q.mp4", every(1), 3.1),  # its last one lasts 0.1 s, the file says
    "240 frames a second": Kind("r.mp4", every(240)),
    "turned by 90": Kind("s.mp4", turned(90), size=(48, 64)),
    "turned by 180": Kind("t.mp4", turned(180), grey=False),
    "odd sizes": Kind("u.mkv", pixels("ffv1", "yuv420p", (65, 49)), size=(64, 48)),
    "16x16": Kind("v.mp4", pixels("libx264", "yuv420p", (16, 16)), size=(48, 48)),
    "10 bits": Kind("w.mp4", pixels("libx264", "yuv420p10le")),
    "4:4:4": Kind("x.mp4", pixels("libx264", "yuv444p")),
    "transparent": Kind("y.mov", pixels("qtrle", "argb")),
    "no colours": Kind("z.mp4", pixels("libx264", "gray")),
    "pixels twice as wide": Kind("aa.mp4", lambda p: film(p, aspect=Fraction(2)), size=(128, 48)),
    "another size from 2 s on": Kind("ab.ts", two_sizes),
    "VP9": Kind("ac.webm", pixels("libvpx-vp9", "yuv420p")),
    # AVI knows no presentation times; the decoder's two frames of delay are missing at its start
    "B-frames in AVI": Kind("ag.avi", lambda p: write_media(p, 4.0, audio=0), 3.8, grey=False),
    "Windows Media": Kind("ad.wmv", pixels("wmv2", "yuv420p")),
    "too large to decode": Kind("ae.mov", bomb, 4.0, line="Cannot allocate memory", grey=False),
    # sound
    "audio only": Kind("ba.wav", only_sound(), 0.0, 4.0),
    "surround": Kind("bb.mkv", only_sound(layout="5.1"), 0.0, 4.0, loud=(0.1, 1)),
    "8 kHz": Kind("bc.wav", only_sound(rate=8000, codec="pcm_mulaw"), 0.0, 4.0),
    "96 kHz": Kind("bd.wav", only_sound(rate=96000), 0.0, 4.0),
    "silent": Kind("be.wav", only_sound(peak=0.0), 0.0, 4.0, loud=(0, 0)),
    "clipping": Kind("bf.wav", only_sound(peak=9.0), 0.0, 4.0, loud=(0.99, 1)),
    "two sounds": Kind("bg.mkv", with_sounds(Sound(), Sound(peak=0.1)), 4.0, 4.0),
    "sound shorter than pictures": Kind("bh.mkv", with_sounds(Sound(seconds=1.5)), 4.0, 1.5),
    # time
    "header says 40 s": Kind("ca.mp4", lambda p: wrong_duration(p, 40), 4.0, 4.0),
    "header says 1 s": Kind("cb.mp4", lambda p: wrong_duration(p, 1), 4.0, 4.0),
    "time stamps leap by five hours": Kind(
        "cc.mkv", lambda p: repacked(p, lambda n: True, lambda n: 18000.0 * (n > 19)), 2.0, 4.0, "leap", grey=False
    ),
    # names
    "spaces": named("a film of us.mp4"),
    "dots": named("2024.03.01.cam.1.mp4"),
    "quotes": named('"it\'s".mp4'),
    "unicode": named("Grüße_日本_🎬.mp4"),
    "newline": named("two\nlines.mp4"),
    "comma and semicolon": named("a,b;c.mp4"),
    "like an option": named("-i.mp4"),
    "like a protocol": named("concat:a|b.mp4"),
    "like a pattern": named("frame%03d.mp4"),
    "the longest": named(f"{'n' * 251}.mp4"),
    # things that are no file
    "a folder": nothing("da.mp4", Path.mkdir, "a folder, not a file"),
    "a broken link": nothing("db.mp4", lambda p: p.symlink_to("nowhere.mp4"), "a broken link"),
    "a link to itself": nothing("dc.mp4", lambda p: p.symlink_to(p.name), "no such file (Too many levels"),
    "a link to a good file": Kind("dd.mp4", lambda p: p.symlink_to("l.mp4")),
    "a pipe": nothing("de.mp4", os.mkfifo, "a pipe or a device"),
    "a socket": nothing("df.mp4", a_socket, "a pipe or a device"),
    "not there": nothing("dg.mp4", None, "no such file"),
    "a name too long": nothing(f"{'n' * 300}.mp4", None, "no such file (File name too long)"),
    "unreadable": nothing("di.mp4", unreadable, "may not be read"),
    "a list of films elsewhere": nothing("dj.mp4", playlist, "not a media file"),
    "what waits for ever": nothing("dk.mp4", hanging, "nothing came from it for 6 s"),
    # rows of the manifest
    "the same path again": Kind("l.mp4", None),
    "the same path, two windows": Kind("l.mp4", None, 3.0, rows=({"start": 0, "end": 1}, {"start": 2, "end": 4})),
    "the same row again": Kind("l.mp4", None, rows=({}, {})),
    "the same path with two offsets": nothing("l.mp4", None, "a second file for view", {"offset": 0}, {"offset": 1}),
    "overlapping windows": nothing("l.mp4", None, "windows 0-2 and 1-3 overlap", *TWICE),
    "start after end": nothing("l.mp4", None, "start 3, end 2", {"start": 3, "end": 2}),
    "start after the film": nothing("l.mp4", None, "it ends at 4.00 s", {"start": 100}),
    "end after the film": Kind("l.mp4", None, rows=({"end": 100},)),
    "a time that is no number": nothing("l.mp4", None, "start is '1:30'", {"start": "1:30"}),
    "a seat outside the picture": nothing("l.mp4", None, "is not understood", {"participants": "a@0,0,2,2"}),
    "two splits": nothing("l.mp4", None, "in several splits", {"split": "train"}, {"split": "test", "start": 1}),
    "no path": nothing("", None, "a row without a path"),
}
GOOD = {f"good {number}": Kind("good.mkv", good if not number else None, 4.0, 3.99) for number in range(4)}
