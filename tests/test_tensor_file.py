"""safetensors files: what we write the library reads, and files made to mislead are refused by name."""

import hashlib
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_jax import tensor_file
from vla_jax.lazy_tensor import LazyTensor, Piece, of_array
from vla_jax.tensor_file import TensorFile, read_tensor_file, write_tensor_file
from vla_jax.types import InputError


def arrays() -> dict[str, np.ndarray]:
    """An odd number of bfloat16 first, so that float32 after it would not be aligned."""
    generator = np.random.default_rng(0)
    shapes = {"half": (3,), "wide": (5, 7), "scalar": (), "none": (0, 4), "name with ../ and \u00e9": (2, 2)}
    dtypes = (jnp.bfloat16, np.float32, np.float32, np.float16, jnp.bfloat16)
    return {name: generator.normal(size=shape).astype(dtype) for (name, shape), dtype in zip(shapes.items(), dtypes)}


def write(path, tensors, **options) -> str:
    return write_tensor_file(path, {name: of_array(array) for name, array in tensors.items()}, **options)


@pytest.mark.parametrize("block", [16, 2**20])
def test_the_library_reads_what_is_written_and_so_do_we(tmp_path, monkeypatch, block):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", block)
    advanced = []
    digest = write(tmp_path / "a.safetensors", arrays(), advance=advanced.append)

    theirs, ours = load_file(tmp_path / "a.safetensors"), read_tensor_file(tmp_path / "a.safetensors")

    assert theirs.keys() == ours.keys() == arrays().keys()
    for name, array in arrays().items():
        assert ours[name].dtype == theirs[name].dtype == array.dtype
        assert ours[name].tobytes() == theirs[name].tobytes() == array.tobytes()
        assert ours[name].ctypes.data % array.dtype.itemsize == 0
    assert sum(advanced) == sum(array.nbytes for array in arrays().values())
    assert digest == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="read-only"):
        ours["wide"][0] = 0


def test_what_is_raised_while_writing_leaves_nothing(tmp_path):
    def broken() -> np.ndarray:
        raise OSError(28, "No space left on device")

    tensors = {"a": of_array(np.ones(3)), "b": LazyTensor((3,), np.dtype(np.float64), (Piece(3, broken),))}
    with pytest.raises(OSError, match="No space left"):
        write_tensor_file(tmp_path / "a.safetensors", tensors)
    assert not list(tmp_path.iterdir())


def forged(path, header: dict | bytes, data: bytes = b"\0" * 16, length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, stop: int, shape=(2,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, None),
        ({"a": entry(0, 8), "b": entry(0, 8)}, None),
        ({"a": entry(0, 4, (1,)), "b": entry(8, 16)}, None),
        ({"a": entry(8, 16)}, None),
        ({"a": entry(0, 16, (2,))}, None),
        ({"a": entry(0, 16, (2**62, 4))}, None),
        ({"a": entry(0, 16, (-4,))}, None),
        ({"a": entry(0, 16, (4,), "F33")}, None),
        ({"a": entry(16, 0, (4,))}, None),
        ({"a": {"dtype": "F32", "shape": [4]}}, None),
        ({"a": entry(0, 16, (4,))}, 2**63),
        ({"a": entry(0, 16, (4,))}, 10**9),
        (b"\xff" * 64, None),
        (b"[]", None),
        (b'{"a":' * 3000, None),
    ],
)
def test_a_header_made_to_mislead_is_refused(tmp_path, header, length):
    file = forged(tmp_path / "a.safetensors", header, length=length)
    with pytest.raises(InputError) as error:
        TensorFile(file)
    assert str(file) in str(error.value)
    assert "fetch it again" in str(error.value)


def test_an_unnamed_dtype_of_the_format_is_named_as_it_is_there(tmp_path):
    file = TensorFile(forged(tmp_path / "a.safetensors", {"a": entry(0, 16, (16,), "F8_E4M3")}))
    assert file.dtype("a") == "f8_e4m3"
    assert file.shape("a") == (16,)
