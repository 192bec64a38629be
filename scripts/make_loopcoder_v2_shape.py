#!/usr/bin/env python3
"""Writes a checkpoint of LoopCoder-V2's exact shape with random weights: 171 tensors, 7,615,749,680 parameters,
15.2 GB of bf16 in shards with an index. For loading, quantising and measuring; its text means nothing.

    python scripts/make_loopcoder_v2_shape.py OUT              # the whole model
    python scripts/make_loopcoder_v2_shape.py OUT --layers 1   # 2.5 GB, for a first try

Needs numpy. Memory stays below 200 MB: weights are drawn once, a few million for each scale, and written over and over
in another order, so the disk sets the pace.
"""
import argparse, json, os, shutil, struct, sys, time
from pathlib import Path
import numpy as np

CONFIG = {
    "architectures": ["IQuestPLTCoderForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": [2, 75864, 75869], "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02,
    "intermediate_size": 27648, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "iquestpltcoder",
    "num_attention_heads": 40, "num_hidden_layers": 14, "num_key_value_heads": 8, "plt_emb_scale": 0.707,
    "plt_gate_use_hidden_states": True, "plt_hidden_scale": 0.053, "plt_normalize_per_loop": True, "plt_num_loops": 2,
    "plt_window_size": [64, 0], "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 76800,
}
POOL, BLOCK = 1 << 22, 1 << 14


def tensors(c):
    """Name, shape and kind of every tensor: a standard deviation, or the value that all elements have."""
    d, ff, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    h, q, kv = c["num_attention_heads"], c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    random = lambda width: ("random", width ** -0.5)
    yield "model.embed_tokens.weight", (v, d), ("random", 0.02)
    for n in range(c["num_hidden_layers"]):
        p = f"model.layers.{n}."
        yield p + "input_layernorm.weight", (d,), ("constant", 1.0)
        yield p + "self_attn.q_proj.weight", (q, d), random(d)
        yield p + "self_attn.k_proj.weight", (kv, d), random(d)
        yield p + "self_attn.v_proj.weight", (kv, d), random(d)
        yield p + "self_attn.o_proj.weight", (d, q), random(q)
        yield p + "self_attn.plt_gate.weight", (h, d), random(d)
        yield p + "self_attn.plt_gate.bias", (h,), ("constant", 0.0)
        yield p + "self_attn.plt_gate.gate_norm.weight", (d,), ("constant", 1.0)
        yield p + "post_attention_layernorm.weight", (d,), ("constant", 1.0)
        yield p + "mlp.gate_proj.weight", (ff, d), random(d)
        yield p + "mlp.up_proj.weight", (ff, d), random(d)
        yield p + "mlp.down_proj.weight", (d, ff), random(ff)
    yield "model.norm.weight", (d,), ("constant", 1.0)
    yield "lm_head.weight", (v, d), random(d)


def bf16(x):
    """Rounds to the nearest bf16, ties to even; returns its bits."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class Weights:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.normal = self.rng.standard_normal(POOL, dtype=np.float32)
        self.pools = {}

    def chunks(self, count, kind):
        """The bits of `count` elements, piece by piece."""
        how, value = kind
        if kind not in self.pools:
            pool = self.normal * np.float32(value) if how == "random" else np.full(POOL, value, np.float32)
            self.pools[kind] = bf16(pool).reshape(-1, BLOCK)
        pool = self.pools[kind]
        while count > 0:
            part = pool[self.rng.permutation(len(pool))].reshape(-1)[:count]
            count -= len(part)
            yield part


def write_shard(path, shard, weights):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in shard:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # so that tensors are aligned in a mapped file
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape, kind in shard:
            for chunk in weights.chunks(int(np.prod(shape)), kind):
                chunk.tofile(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="folder to write")
    p.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    p.add_argument("--shard-gb", type=float, default=4.9)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    if a.layers < 1 or a.shard_gb <= 0:
        p.error("--layers and --shard-gb must be positive")
    config = CONFIG | {"num_hidden_layers": a.layers}
    shards, filled = [[]], 0
    for tensor in tensors(config):
        size = 2 * int(np.prod(tensor[1]))
        if shards[-1] and filled + size > a.shard_gb * 1e9:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    everything = [tensor for shard in shards for tensor in shard]
    parameters = sum(int(np.prod(shape)) for _, shape, _ in everything)
    a.out.mkdir(parents=True, exist_ok=True)
    if any(a.out.iterdir()):
        sys.exit(f"{a.out} is not empty: give another folder")
    free = shutil.disk_usage(a.out).free
    if free < 2 * parameters + (1 << 28):
        sys.exit(f"{a.out} has {free / 1e9:.1f} GB free, {2 * parameters / 1e9:.1f} GB are needed; try fewer --layers")
    start, weights, place = time.time(), Weights(a.seed), {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(a.out / name, shard, weights)
        place |= {tensor[0]: name for tensor in shard}
        print(f"{name}: {len(shard)} tensors, {time.time() - start:.0f} s", flush=True)
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": place}
    (a.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (a.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(f"{len(everything)} tensors, {parameters:,} parameters, {2 * parameters / 1e9:.1f} GB in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
