#!/usr/bin/env python3
"""Writes crates/parloop-model/tests/fixtures/blocks.gguf: what the Python package `gguf` computes for every block type.

    python scripts/gguf_fixture.py [--ggml BUILD/bin/libggml-base.so]

Needs `pip install gguf numpy`. For each type T the file holds

    T.blocks   random blocks, stored as type T       T.values   what gguf.quants reads from them
    T.python   `input` as gguf.quants stores it (only the types that it can quantise)
    T.ggml     `input` as ggml_quantize_chunk of llama.cpp stores it, without an importance matrix (with --ggml)

and metadata of every kind. The tests of parloop-model compare its own block types with these.
"""
import argparse, ctypes
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

OUT = Path(__file__).parent.parent / "crates/parloop-model/tests/fixtures/blocks.gguf"
TYPES = {"q8_0": T.Q8_0, "q4_0": T.Q4_0, "q4_1": T.Q4_1, "q5_0": T.Q5_0, "q5_1": T.Q5_1, "q4_k": T.Q4_K, "q5_k": T.Q5_K, "q6_k": T.Q6_K}
# Where the f16 scales of a block stand: their bytes must be finite numbers.
SCALES = {"q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208]}
ROWS, WIDTH = 4, 512


def random_blocks(name, kind, rng):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (1024 // elements, size), dtype=np.uint8)
    for at in SCALES[name]:
        scales = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(2, -1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ggml", type=Path)
    a = p.parse_args()
    rng = np.random.default_rng(5)
    # Weights of a trained matrix: normal, with a few large ones, and rows of different size.
    x = rng.standard_normal((ROWS, WIDTH)) * np.array([[0.02], [0.5], [0.003], [0.1]])
    x[rng.random(x.shape) < 0.01] *= 5
    x = x.astype(np.float32)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    w = gguf.GGUFWriter(str(OUT), "fixture")
    w.add_uint8("test.u8", 200)
    w.add_int8("test.i8", -100)
    w.add_uint16("test.u16", 60000)
    w.add_int16("test.i16", -30000)
    w.add_uint32("test.u32", 4_000_000_000)
    w.add_int32("test.i32", -2_000_000_000)
    w.add_float32("test.f32", 0.1)
    w.add_bool("test.bool", True)
    w.add_string("test.string", "Grüße, 世界")
    w.add_uint64("test.u64", 2**63 + 5)
    w.add_int64("test.i64", -(2**62))
    w.add_float64("test.f64", 0.1)
    w.add_array("test.strings", ["a", "", "ö"])
    w.add_array("test.ints", [1, -2, 3])
    w.add_array("test.floats", [0.5, -0.25])
    w.add_array("test.bools", [True, False])
    w.add_array("test.nested", [[1, 2], [3]])
    w.add_tensor("input", x)
    for name, kind in TYPES.items():
        blocks = random_blocks(name, kind, rng)
        w.add_tensor(f"{name}.blocks", blocks, raw_dtype=kind)
        w.add_tensor(f"{name}.values", gguf.quants.dequantize(blocks, kind).astype(np.float32))
        try:
            w.add_tensor(f"{name}.python", gguf.quants.quantize(x, kind), raw_dtype=kind)
        except NotImplementedError:
            pass
        if a.ggml:
            ggml = ctypes.CDLL(str(a.ggml))
            ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            out = np.zeros((ROWS, WIDTH // elements * size), dtype=np.uint8)
            pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
            ggml.ggml_quantize_chunk(ctypes.c_int(kind), pointer(x), pointer(out), ctypes.c_int64(0), ctypes.c_int64(ROWS),
                                     ctypes.c_int64(WIDTH), None)
            w.add_tensor(f"{name}.ggml", out, raw_dtype=kind)
    for name, kind in [("f16", T.F16), ("bf16", T.BF16)]:
        stored = gguf.quants.quantize(x, kind)
        w.add_tensor(f"{name}.python", stored, raw_dtype=kind)
        w.add_tensor(f"{name}.values", gguf.quants.dequantize(stored, kind).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"wrote {OUT} ({OUT.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
