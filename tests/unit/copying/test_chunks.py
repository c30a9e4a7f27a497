"""Chunks are shared out among streams, each to one."""

from __future__ import annotations

import pytest

from include.cutover.copying.chunks import ALL_CHUNKS, Share
from include.cutover.target.checkpoints import Chunk

CHUNKS = [Chunk("t", number, None, None, 1) for number in range(7)]


def test_every_chunk_belongs_to_one_stream() -> None:
    shares = [[chunk.number for chunk in CHUNKS if chunk in Share(stream, 3)] for stream in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert all(chunk in ALL_CHUNKS for chunk in CHUNKS)


@pytest.mark.parametrize(("stream", "streams"), [(2, 2), (-1, 2), (0, 0)])
def test_a_stream_that_does_not_exist_is_refused(stream: int, streams: int) -> None:
    with pytest.raises(ValueError, match=f"stream {stream} of {streams}"):
        Share(stream, streams)
