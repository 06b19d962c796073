"""Makes tensorflow.tfrecord and tensorflow.json: what TensorFlow itself writes and reads.

Run by hand, in a virtual environment with `pip install tensorflow-cpu==2.21.0`, from this folder:

    python make_tensorflow_golden.py [BRIDGE_SAMPLE_TFRECORD]

The tests never import TensorFlow; they compare with these files.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent


def feature(value):
    if isinstance(value, list):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
    if np.issubdtype(value.dtype, np.floating):
        return tf.train.Feature(float_list=tf.train.FloatList(value=value.reshape(-1)))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value.reshape(-1).astype(np.int64)))


def parsed(record):
    values = {}
    for key, item in tf.train.Example.FromString(record).features.feature.items():
        if item.WhichOneof("kind") == "bytes_list":
            values[key] = [base64.b64encode(value).decode() for value in item.bytes_list.value]
        elif item.WhichOneof("kind") == "float_list":
            values[key] = [float(value).hex() for value in item.float_list.value]
        else:
            values[key] = list(item.int64_list.value)
    return values


def main(sample: str | None) -> None:
    generator = np.random.default_rng(0)
    path = HERE / "tensorflow.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for length in (3, 1):
            pixels = generator.integers(0, 256, (length, 8, 12, 3), dtype=np.uint8)
            features = {
                "steps/observation/image": [tf.io.encode_jpeg(picture).numpy() for picture in pixels],
                "steps/language_instruction": ["pick up the apple", "hebe den Würfel", ""][:length],
                "steps/action": generator.normal(size=(length, 7)).astype(np.float32),
                "steps/is_first": np.arange(length) == 0,
                "steps/count": np.array([-1, 300, 2**40])[:length],
            }
            features["steps/language_instruction"] = [text.encode() for text in features["steps/language_instruction"]]
            example = tf.train.Example(
                features=tf.train.Features(feature={key: feature(value) for key, value in features.items()})
            )
            writer.write(example.SerializeToString())
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    pictures = tf.train.Example.FromString(records[0]).features.feature["steps/observation/image"].bytes_list.value
    golden = {
        "tensorflow": tf.__version__,
        "records": [parsed(record) for record in records],
        "pixels": [tf.io.decode_jpeg(p, dct_method="INTEGER_ACCURATE").numpy().tolist() for p in pictures],
    }
    if sample:
        digests: dict[str, "hashlib._Hash"] = {}
        for record in tf.data.TFRecordDataset(sample):
            for key, item in tf.train.Example.FromString(record.numpy()).features.feature.items():
                digest = digests.setdefault(key, hashlib.sha256())
                if item.WhichOneof("kind") == "float_list":
                    digest.update(np.array(item.float_list.value, "<f4").tobytes())
                elif item.WhichOneof("kind") == "int64_list":
                    digest.update(np.array(item.int64_list.value, "<i8").tobytes())
                else:
                    digest.update(b"".join(item.bytes_list.value))
        golden["bridge_sample_train"] = {key: digest.hexdigest() for key, digest in sorted(digests.items())}
    (HERE / "tensorflow.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2] or [None])
