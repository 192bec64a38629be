#!/usr/bin/env python3
"""Training beside PyTorch: the same model, weights and batches; loss curves, and tokens per second in turn.

    cargo build --release && scripts/compare_pytorch.py speed --shape reference --loops 1,2
    scripts/compare_pytorch.py speed --shape 63m --loops 2 --ways eager,compiled
    scripts/compare_pytorch.py curve --shape reference --loops 2 --steps 120

The PyTorch model is written as one would: a linear layer for each matrix, `scaled_dot_product_attention`, AdamW (fused
where it can be), f32 or bf16 autocast, eager or compiled. `speed` takes some steps of each way in turn, round after round,
each PyTorch way in a process that stays warm, and prints medians of tokens per second, of the ratios within a round, and
the most memory that each held. `curve` gives both the same first weights and batches and prints both losses.
Needs torch and numpy; --parloop names the program, --data a text.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "reference": dict(d=256, heads=4, kv=2, size=64, ff=768, layers=6, vocabulary=1024, batch=8, time=256),
    "63m": dict(d=768, heads=12, kv=4, size=64, ff=2048, layers=8, vocabulary=8192, batch=4, time=256),
    "tiny": dict(d=64, heads=4, kv=2, size=16, ff=96, layers=2, vocabulary=300, batch=4, time=64),
}
LR, WARMUP, FLOOR, DECAY, CLIP, BETAS, EPSILON, SEED = 1e-3, 10, 0.1, 0.1, 1.0, (0.9, 0.95), 1e-8, 1
LEFT, EMBEDDING, HIDDEN, NORM_EPS, THETA = 64, 0.707, 0.053, 1e-5, 10_000.0
MASK = (1 << 64) - 1


class Rng:
    """`parloop_eval::Rng`: SplitMix64, a stream for each (seed, purpose, step)."""

    def __init__(self, seed, purpose, step):
        self.state = seed
        for part in (purpose, step):
            self.state = self.next() ^ (part * 0xD1B54A32D192ED03 & MASK)

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return (self.next() * n) >> 64


def model(shape, loops):
    """The PyTorch module."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    s = shape
    query, kv = s["heads"] * s["size"], s["kv"] * s["size"]

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_layernorm = nn.RMSNorm(s["d"], eps=NORM_EPS)
            self.q_proj = nn.Linear(s["d"], query, bias=False)
            self.k_proj = nn.Linear(s["d"], kv, bias=False)
            self.v_proj = nn.Linear(s["d"], kv, bias=False)
            self.o_proj = nn.Linear(query, s["d"], bias=False)
            if loops > 1:
                self.gate_norm = nn.RMSNorm(s["d"], eps=NORM_EPS)
                self.gate = nn.Linear(s["d"], s["heads"])
            self.post_attention_layernorm = nn.RMSNorm(s["d"], eps=NORM_EPS)
            self.gate_proj = nn.Linear(s["d"], s["ff"], bias=False)
            self.up_proj = nn.Linear(s["d"], s["ff"], bias=False)
            self.down_proj = nn.Linear(s["ff"], s["d"], bias=False)

        def forward(self, x, first, tables, window):
            batch, time, _ = x.shape
            u = self.input_layernorm(x)
            heads = lambda y, n: y.view(batch, time, n, s["size"]).transpose(1, 2)
            q = turned(heads(self.q_proj(u), s["heads"]), *tables)
            k = turned(heads(self.k_proj(u), s["kv"]), *tables)
            v = heads(self.v_proj(u), s["kv"])
            attend = F.scaled_dot_product_attention
            if first is None:
                y = attend(q, k, v, is_causal=True, enable_gqa=True)
            else:
                wide = attend(q, *first, is_causal=True, enable_gqa=True)
                near = attend(q, k, v, attn_mask=window, enable_gqa=True)
                g = torch.sigmoid(self.gate(self.gate_norm(x))).transpose(1, 2).unsqueeze(-1)
                y = g * wide + (1 - g) * near
            x = x + self.o_proj(y.transpose(1, 2).reshape(batch, time, query))
            u = self.post_attention_layernorm(x)
            return x + self.down_proj(F.silu(self.gate_proj(u)) * self.up_proj(u)), (k, v)

    def turned(x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(s["vocabulary"], s["d"])
            self.layers = nn.ModuleList(Layer() for _ in range(s["layers"]))
            self.norm = nn.RMSNorm(s["d"], eps=NORM_EPS)
            self.head = nn.Linear(s["d"], s["vocabulary"], bias=False)
            half = s["size"] // 2
            angle = torch.arange(s["time"])[:, None] * THETA ** (-torch.arange(half) / half)
            t = torch.arange(s["time"])
            self.register_buffer("cos", angle.cos(), persistent=False)
            self.register_buffer("sin", angle.sin(), persistent=False)
            self.register_buffer("window", (t[None] <= t[:, None]) & (t[None] >= t[:, None] - LEFT), persistent=False)
            residual = 0.02 / (2 * s["layers"]) ** 0.5
            for name, weight in self.named_parameters():
                if weight.dim() == 2 and ".gate." not in name:
                    nn.init.normal_(weight, std=residual if "o_proj" in name or "down_proj" in name else 0.02)
                elif ".gate." in name:
                    nn.init.zeros_(weight)

        def forward(self, ids, targets):
            embedded = self.embedding(ids)
            x, first = embedded, [None] * len(self.layers)
            for r in range(loops):
                if r > 0:
                    x = HIDDEN * F.pad(self.norm(x)[:, :-1], (0, 0, 1, 0)) + EMBEDDING * embedded
                for n, layer in enumerate(self.layers):
                    x, kept = layer(x, first[n], (self.cos, self.sin), self.window)
                    if r == 0 and loops > 1:
                        first[n] = kept
            logits = self.head(self.norm(x))
            return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    torch.manual_seed(SEED)
    return Model()


def write_checkpoint(module, shape, loops, folder):
    """The module's weights in parloop's form."""
    s = shape
    recipe = {"count": loops, "shift": True, "embedding_scale": EMBEDDING, "hidden_scale": HIDDEN, "norm": True,
              "kv": "shared" if loops > 1 else "per_loop",
              "local": {"left": LEFT, "gate": "hidden"} if loops > 1 else None}
    config = {"model_type": "parloop", "architectures": ["ParloopForCausalLM"], "vocab_size": s["vocabulary"],
              "hidden_size": s["d"], "intermediate_size": s["ff"], "num_hidden_layers": s["layers"],
              "num_attention_heads": s["heads"], "num_key_value_heads": s["kv"], "head_dim": s["size"],
              "rms_norm_eps": NORM_EPS, "rope_theta": THETA, "max_position_embeddings": s["time"],
              "tie_word_embeddings": False, "torch_dtype": "float32", "hidden_act": "silu", "loop": recipe}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    rename = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"}
    header, data = {}, b""
    for name, weight in module.named_parameters():
        if name.startswith("layers."):
            _, n, part = name.split(".", 2)
            place = "mlp." if part.split(".")[0] in ("gate_proj", "up_proj", "down_proj") else "self_attn."
            part = part.replace("gate_norm.", "plt_gate.gate_norm.").replace("gate.weight", "plt_gate.weight")
            part = part.replace("gate.bias", "plt_gate.bias") if part == "gate.bias" else part
            name = f"model.layers.{n}." + (part if "layernorm" in part else place + part)
        name = rename.get(name, name)
        values = weight.detach().numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def optimiser(module):
    import torch

    groups = [{"params": [p for p in module.parameters() if p.dim() == 2], "weight_decay": DECAY},
              {"params": [p for p in module.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPSILON, fused=True)


def step(module, optim, ids, targets, autocast=False, rate=LR):
    import torch

    for group in optim.param_groups:
        group["lr"] = rate
    optim.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = module(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
    optim.step()
    return loss.item()


def worker(args):
    """A PyTorch way in a process of its own: takes some steps for each line that it is sent."""
    import time

    import torch

    torch.set_num_threads(args.threads)
    shape = SHAPES[args.shape]
    module = model(shape, int(args.loops))
    optim = optimiser(module)
    run = torch.compile(module) if "compiled" in args.way else module
    ids = torch.randint(shape["vocabulary"], (shape["batch"], shape["time"] + 1))
    one = lambda: step(run, optim, ids[:, :-1], ids[:, 1:].contiguous(), "bf16" in args.way)
    one()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            one()
            seconds.append(time.perf_counter() - began)
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
        print(json.dumps({"seconds": statistics.median(seconds), "peak": peak}), flush=True)


def parloop(args, out, shape, loops, steps, extra=(), threads=None):
    """A run of parloop: the rows of its log, and the most memory that it held."""
    s = shape
    command = [args.parloop, "train", "--data", args.data, "--out", out, "--quiet",
               "--recipe", "vanilla" if loops == 1 else f"plt{loops}", "--hidden-size", s["d"], "--layers", s["layers"],
               "--intermediate-size", s["ff"], "--heads", s["heads"], "--kv-heads", s["kv"], "--head-dim", s["size"],
               "--vocab-size", s["vocabulary"], "--tokenizer", args.tokenizer, "--batch", s["batch"], "--context", s["time"],
               "--steps", steps, "--lr", LR, "--warmup", WARMUP, "--floor", FLOOR, "--weight-decay", DECAY, "--clip", CLIP,
               "--beta1", BETAS[0], "--beta2", BETAS[1], "--epsilon", EPSILON, "--seed", SEED, "--eval-every", 0,
               "--eval-batches", 1, "--save-every", 0, "--log-every", 1, "--accumulate", 1, "--spike", 0, *extra]
    environment = {**os.environ, **({"RAYON_NUM_THREADS": str(threads)} if threads else {})}
    process = subprocess.Popen([str(word) for word in command], env=environment, stderr=subprocess.PIPE, text=True)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {errors.strip()}")
    rows = [json.loads(line) for line in (Path(out) / "train.jsonl").read_text().splitlines()]
    return rows, usage.ru_maxrss * 1024


def speed(args):
    shape = SHAPES[args.shape]
    tokens = shape["batch"] * shape["time"]
    with tempfile.TemporaryDirectory() as place:
        args.tokenizer = "bpe"
        for loops in map(int, args.loops.split(",")):
            workers = {}
            for way in args.ways.split(","):
                command = [sys.executable, __file__, "worker", "--shape", args.shape, "--loops", str(loops), "--way", way,
                           "--threads", str(args.threads)]
                environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
                workers[way] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
                if workers[way].stdout.readline().strip() != "ready":
                    raise SystemExit(f"PyTorch, {way}: did not start")
            found, peaks = {name: [] for name in ["parloop", *workers]}, {}
            for number in range(args.rounds):
                rows, peaks["parloop"] = parloop(args, f"{place}/{loops}-{number}", shape, loops, args.steps + 1, threads=args.threads)
                found["parloop"].append(statistics.median(row["tokens_per_second"] for row in rows[1:]))
                for way, process in workers.items():
                    process.stdin.write(f"{args.steps}\n")
                    process.stdin.flush()
                    answer = json.loads(process.stdout.readline())
                    found[way].append(tokens / answer["seconds"])
                    peaks[way] = answer["peak"]
            for process in workers.values():
                process.stdin.close()
                process.wait()
            print(f"\n{args.shape}, R = {loops}, {args.threads} threads, medians of {args.rounds} rounds of {args.steps} steps")
            print("| way | tokens/s | parloop : it | peak memory |\n|---|---|---|---|")
            for name, values in found.items():
                ratio = statistics.median(mine / its for mine, its in zip(found["parloop"], values))
                print(f"| {name} | {statistics.median(values):.0f} | {ratio:.2f} | {peaks[name] / 1e6:.0f} MB |", flush=True)


def curve(args):
    import math

    import numpy
    import torch

    torch.set_num_threads(args.threads)
    shape, loops = SHAPES[args.shape], int(args.loops)
    module = model(shape, loops)
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(module, shape, loops, Path(place) / "start")
        out, args.tokenizer = Path(place) / "out", "bpe"
        rows, _ = parloop(args, out, shape, loops, args.steps, ["--init", f"{place}/start"], args.threads)
        header = (out / "tokens.bin").read_bytes()[:64]
        width, train = struct.unpack_from("<I", header, 12)[0], struct.unpack_from("<Q", header, 24)[0]
        ids = numpy.memmap(out / "tokens.bin", dtype="<u2" if width == 2 else "<u4", mode="r", offset=64)[:train].astype("int64")
    optim, differences = optimiser(module), []
    for number in range(args.steps):
        rng = Rng(SEED, 0xBA7C, number)
        starts = [rng.below(train - shape["time"]) for _ in range(shape["batch"])]
        batch = torch.from_numpy(numpy.stack([ids[start : start + shape["time"] + 1] for start in starts]))
        n = number + 1
        done = (n - WARMUP) / (args.steps - WARMUP)
        rate = LR * n / WARMUP if n <= WARMUP else LR * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
        loss = step(module, optim, batch[:, :-1], batch[:, 1:].contiguous(), rate=rate)
        differences.append(abs(loss - rows[number]["loss"]))
        if number % max(1, args.steps // 12) == 0 or n == args.steps:
            print(f"step {n:4}: PyTorch {loss:.5f}, parloop {rows[number]['loss']:.5f}")
    print(f"largest difference of {args.steps} steps {max(differences):.2e}, mean {statistics.mean(differences):.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "curve", "worker"])
    parser.add_argument("--shape", choices=SHAPES, default="reference")
    parser.add_argument("--loops", default="1,2")
    parser.add_argument("--ways", default="eager,compiled,eager-bf16,compiled-bf16")
    parser.add_argument("--way", default="eager", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="steps of a round, or of the curve")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--data", default="shakespeare.txt", help="a text of a megabyte or so")
    parser.add_argument("--parloop", default=ROOT / "target/release/parloop")
    args = parser.parse_args()
    {"speed": speed, "curve": curve, "worker": worker}[args.what](args)


if __name__ == "__main__":
    main()
