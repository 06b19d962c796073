"""Bit for bit what TensorFlow reads, from files that TensorFlow made (golden/make_tensorflow_golden.py)."""

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.example import Spans, parse_example
from data_pipelines.index.shard_reader import read_range
from data_pipelines.index.sidecar import open_index
from data_pipelines.index.tfrecord import read_records
from data_pipelines.transforms.decode import Decode

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "tensorflow.json").read_text())


def strings(data: bytes, spans: Spans) -> list[bytes]:
    return [data[o : o + n] for o, n in zip(*spans)]


def test_records_that_tensorflow_wrote_parse_to_what_it_reads(golden):
    records = list(read_records(GOLDEN / "tensorflow.tfrecord"))
    assert len(records) == len(golden["records"]) == 2
    for record, expected in zip(records, golden["records"]):
        values = parse_example(record.data)
        assert values.keys() == expected.keys()
        for key, value in values.items():
            if isinstance(value, Spans):
                assert [base64.b64encode(item).decode() for item in strings(record.data, value)] == expected[key]
            elif value.dtype == np.float32:
                assert [float(number).hex() for number in value] == expected[key]
            else:
                assert value.tolist() == expected[key]


def test_jpegs_decode_to_tensorflows_accurate_pixels(golden):
    record = next(read_records(GOLDEN / "tensorflow.tfrecord"))
    pictures = strings(record.data, parse_example(record.data)["steps/observation/image"])
    for picture, expected in zip(pictures, golden["pixels"], strict=True):
        np.testing.assert_array_equal(Decode()(picture, np.zeros((0,))), np.array(expected, np.uint8))


def test_index_of_the_real_sample_reads_what_tensorflow_reads(golden, shared_data, tmp_path):
    index = open_index(read_directory(shared_data / "bridge_dataset" / "1.0.0"), "train", tmp_path)
    compared = 0
    for key, expected in golden["bridge_sample_train"].items():
        if key in index.tree["left_out"]:
            continue
        kind = index.tree["features"][key]["kind"]
        column = index.column(key, kind)
        if kind == "number":
            data = column.astype("<f4" if column.dtype == np.float32 else "<i8").tobytes()
        elif kind == "text":
            data = b"".join(index.texts[place].encode(errors="surrogateescape") for place in column)
        else:
            data = b"".join(read_range(index.shards[0], int(o), int(n)) for o, n in column)
        assert hashlib.sha256(data).hexdigest() == expected, key
        compared += 1
    assert compared == len(golden["bridge_sample_train"]) - 1  # all but the language embedding
