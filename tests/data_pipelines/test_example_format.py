"""Our reading and writing of tf.train.Example against protobuf's own, from a descriptor made here."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from data_pipelines.index.example import Spans, build_example, parse_example, unpack_varints


@pytest.fixture(scope="module")
def example_class():
    """tensorflow/core/example/{feature,example}.proto, by hand."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        entry = file.message_type.add(name=name)
        for number, (key, kind, label, type_name) in enumerate(fields, start=1):
            entry.field.add(name=key, number=number, type=kind, label=label, type_name=type_name)
        return entry

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", ("value", field.TYPE_BYTES, many, None))
    message("FloatList", ("value", field.TYPE_FLOAT, many, None))
    message("Int64List", ("value", field.TYPE_INT64, many, None))
    message(
        "Feature",
        ("bytes_list", field.TYPE_MESSAGE, one, ".t.BytesList"),
        ("float_list", field.TYPE_MESSAGE, one, ".t.FloatList"),
        ("int64_list", field.TYPE_MESSAGE, one, ".t.Int64List"),
    )
    features = message("Features", ("feature", field.TYPE_MESSAGE, many, ".t.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, label=one, type_name=".t.Feature")
    message("Example", ("features", field.TYPE_MESSAGE, one, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def plain(data: bytes):
    """Our parse as lists."""
    return {
        key: [data[o : o + n] for o, n in zip(*value)] if isinstance(value, Spans) else value.tolist()
        for key, value in parse_example(data).items()
    }


def independent(example) -> dict[str, list]:
    values = {}
    for key, feature in example.features.feature.items():
        kind = next(name for name in ("bytes_list", "float_list", "int64_list") if feature.HasField(name))
        values[key] = list(getattr(feature, kind).value)
    return values


FEATURES = {
    "pictures": [b"", b"\x00\xff", b"x" * 300],
    "numbers": np.array([0.0, -1.5, 3e38, 1e-38], np.float32),
    "integers": np.array([0, 1, 127, 128, -1, 2**62, -(2**63)], np.int64),
    "flags": np.array([True, False, True]),
    "grüße": np.zeros(0, np.float32),
}


def test_protobuf_reads_what_we_write(example_class):
    theirs = independent(example_class.FromString(build_example(FEATURES)))
    assert theirs == {key: value if isinstance(value, list) else value.tolist() for key, value in FEATURES.items()}


def test_we_read_what_protobuf_writes(example_class):
    written = example_class.FromString(build_example(FEATURES)).SerializeToString()
    assert plain(written) == independent(example_class.FromString(written))


def test_every_record_of_the_real_sample_equals_protobufs_parse(example_class, shared_data):
    from data_pipelines.index.tfrecord import read_records

    path = shared_data / "bridge_dataset" / "1.0.0" / "bridge_dataset-train.tfrecord-00000-of-00001"
    for record in read_records(path):
        assert plain(record.data) == independent(example_class.FromString(record.data))


def test_unpacked_lists_are_read():
    """The format allows one tag a number; TensorFlow packs."""
    integers = bytes([0x1A, 4, 0x08, 1, 0x08, 5])
    floats = bytes([0x12, 5, 0x0D]) + np.float32(2.5).tobytes()
    for feature, expected in ((integers, [1, 5]), (floats, [2.5])):
        entry = bytes([0x0A, 1]) + b"k" + bytes([0x12, len(feature)]) + feature
        features = bytes([0x0A, len(entry)]) + entry
        assert plain(bytes([0x0A, len(features)]) + features) == {"k": expected}


@pytest.mark.parametrize("data", [b"\xff" * 40, b"\x0a\x7f\x00", build_example(FEATURES)[:-7], b"\x0b\x00"])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"not a tf.train.Example"):
        parse_example(data)


def test_varints_of_more_than_ten_bytes_are_refused():
    with pytest.raises(ValueError, match="10 bytes"):
        unpack_varints(np.array([0x80] * 10 + [1], np.uint8))
