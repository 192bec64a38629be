#!/usr/bin/env python3
"""Decode or prefill beside llama.cpp: the same shape, the same bits a weight, in turn on the same machine.

    python scripts/compare_llama_cpp.py --llama BUILD/bin --parloop target/release/parloop
    python scripts/compare_llama_cpp.py --llama BUILD/bin --parloop target/release/parloop --prefill 128,512,2048,8192

Needs `pip install gguf numpy` and a build of llama.cpp with llama-quantize and llama-batched-bench. Writes random
weights of LoopCoder-V2's layers as GGUF into --work, then runs both programs alternately and prints the medians of the
ratios within a round. Decode: their 1 row against our R = 1 and our R = 2, and their 2 rows against our R = 2. Prefill:
their prompt against ours with R = 1 and with R = 2.
"""
import argparse, json, statistics, subprocess
from pathlib import Path

import gguf
import numpy as np

D, FF, HEADS, KV, DIM, VOCAB = 5120, 27648, 40, 8, 128, 76800
TYPES = {"bf16": "BF16", "q8": "Q8_0", "q4": "Q4_0"}


def write_model(path, layers):
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_context_length(4096)
    w.add_embedding_length(D)
    w.add_block_count(layers)
    w.add_feed_forward_length(FF)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_key_length(DIM)
    w.add_value_length(DIM)
    w.add_rope_dimension_count(DIM)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(5e5)
    w.add_vocab_size(VOCAB)
    # A made-up vocabulary: the programs want one, the speed does not depend on it.
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens + [f"w{i}" for i in range(VOCAB - len(tokens))])
    w.add_token_scores([0.0] * VOCAB)
    w.add_token_types(kinds + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (VOCAB - 259))
    rng = np.random.default_rng(1)
    pattern = (rng.standard_normal(1 << 20) / np.sqrt(D)).astype(np.float16)

    def matrix(name, rows, columns):
        w.add_tensor(name, np.resize(pattern, (rows, columns)))

    def ones(name):
        w.add_tensor(name, np.ones(D, dtype=np.float32))

    matrix("token_embd.weight", VOCAB, D)
    for n in range(layers):
        for name, rows, columns in [("attn_q", HEADS * DIM, D), ("attn_k", KV * DIM, D), ("attn_v", KV * DIM, D),
                                    ("attn_output", D, HEADS * DIM), ("ffn_gate", FF, D), ("ffn_up", FF, D), ("ffn_down", D, FF)]:
            matrix(f"blk.{n}.{name}.weight", rows, columns)
        ones(f"blk.{n}.attn_norm.weight")
        ones(f"blk.{n}.ffn_norm.weight")
    ones("output_norm.weight")
    matrix("output.weight", VOCAB, D)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def batched_bench(binary, model, threads, *flags):
    """Rows of llama-batched-bench's report."""
    out = subprocess.run([binary, "-m", model, "-t", str(threads), *flags, "--output-format", "jsonl"], capture_output=True,
                         text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def theirs(binary, model, threads, steps):
    """Seconds a step with 1 row and with 2 rows."""
    rows = batched_bench(binary, model, threads, "-c", "1024", "-npp", "1", "-ntg", str(steps), "-npl", "1,2")
    return [row["t_tg"] / steps for row in rows]


def their_prompt(binary, model, threads, tokens):
    """Seconds of a prompt."""
    context = str(tokens + 64)
    return batched_bench(binary, model, threads, "-c", context, "-npp", str(tokens), "-ntg", "1", "-npl", "1")[0]["t_pp"]


def ours(binary, test, layers, kind, threads, rounds, *flags):
    """Results with R = 1 and R = 2."""
    out = subprocess.run([binary, "bench", test, "--shape", "loopcoder-v2", "--layers", str(layers), "--weights", kind, "--loops",
                          "1,2", "--rounds", str(rounds), "--threads", str(threads), "--json", *flags], capture_output=True, text=True,
                         check=True).stdout
    return json.loads(out.splitlines()[-1])["results"]


def prefill(a, kind, model):
    """Prints a line for each length of the prompt."""
    for tokens in a.prefill:
        them, us = [], []
        for _ in range(a.rounds):
            them.append(their_prompt(a.llama / "llama-batched-bench", model, a.threads, tokens))
            us.append(ours(a.parloop, "prefill", a.layers, kind, a.threads, 2, "--tokens", str(tokens)))
        mid = statistics.median
        cells = [kind, tokens, f"{mid(tokens / t for t in them):.0f} tok/s"]
        cells += [f"{mid(u[i]['tokens_per_second'] for u in us):.0f} tok/s" for i in range(2)]
        cells += [f"{mid(100 * u[0]['peak_share'] for u in us):.0f} %"]
        cells += [f"{mid(t / u[i]['seconds'] for t, u in zip(them, us)):.2f}x" for i in range(2)]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llama", required=True, type=Path)
    p.add_argument("--parloop", required=True)
    p.add_argument("--work", default=Path("out/llama"), type=Path)
    p.add_argument("--layers", default=2, type=int)
    p.add_argument("--threads", default=2, type=int)
    p.add_argument("--rounds", default=5, type=int)
    p.add_argument("--prefill", metavar="TOKENS", type=lambda text: [int(n) for n in text.split(",")],
                   help="measure prompts of these lengths instead of decode")
    p.add_argument("--types", default="bf16,q8,q4")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    source = a.work / f"source-{a.layers}.gguf"
    if not source.exists():
        write_model(source, a.layers)
    if a.prefill:
        print("| type | tokens | llama.cpp | ours R = 1 | R = 2 | R = 1 of the instruction's peak | R = 1 : theirs | R = 2 : theirs |")
        print("|---|---|---|---|---|---|---|---|")
    else:
        print("| type | llama.cpp 1 row | 2 rows | ours R = 1 | R = 2 | ours R = 1 : their 1 row | ours R = 2 : their 1 row | ours R = 2 : their 2 rows |")
        print("|---|---|---|---|---|---|---|---|")
    for kind in a.types.split(","):
        model = a.work / f"{TYPES[kind]}-{a.layers}.gguf"
        if not model.exists():
            subprocess.run([a.llama / "llama-quantize", "--pure", source, model, TYPES[kind]], check=True, capture_output=True)
        if a.prefill:
            prefill(a, kind, model)
            continue
        them, us = [], []
        for _ in range(a.rounds):
            them.append(theirs(a.llama / "llama-batched-bench", model, a.threads, 24))
            us.append([row["seconds"] for row in ours(a.parloop, "decode", a.layers, kind, a.threads, 9)])
        rate = lambda runs, i: f"{statistics.median(1 / r[i] for r in runs):.2f} tok/s"
        # Speed ratio within a round: above 1 we are faster.
        ratio = lambda i, j: statistics.median(t[j] / u[i] for t, u in zip(them, us))
        print(f"| {kind} | {rate(them, 0)} | {statistics.median(2 / t[1] for t in them):.2f} tok/s | {rate(us, 0)} | {rate(us, 1)} "
              f"| {ratio(0, 0):.2f}x | {ratio(1, 0):.2f}x | {ratio(1, 1):.2f}x |", flush=True)


if __name__ == "__main__":
    main()
