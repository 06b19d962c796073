"""Walking a shard holds a part of it, however large it is."""

from pathlib import Path

import pytest

from data_pipelines.index.tfrecord import RELEASED_BYTES, read_records, write_records


def resident_bytes(path: Path) -> int:
    """Of a mapped file, in this process."""
    is_here, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            is_here = line.endswith(str(path))
        elif is_here and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("record_bytes", [1 << 20, 20_000_003])
def test_pages_of_records_that_were_read_are_let_go_of(tmp_path, record_bytes):
    path, data = tmp_path / "shard", bytes(record_bytes)
    number = 4 * RELEASED_BYTES // record_bytes
    with path.open("wb") as stream:
        write_records(stream, [data] * number)
    step, held = max(number // 8, 1), []
    for place, record in enumerate(read_records(path)):
        assert record.data == data
        if place % step == step - 1:  # smaps takes a second in a process of many maps
            held.append(resident_bytes(path))
    assert place + 1 == number
    assert 0 < max(held) <= RELEASED_BYTES + 2 * record_bytes
