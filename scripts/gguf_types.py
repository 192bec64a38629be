#!/usr/bin/env python3
"""Size, loss and speed of a model in every GGUF type: the table of docs/gguf.md.

    python scripts/gguf_types.py --parloop target/release/parloop --model crates/parloop/model --text FILE.txt

Writes each type into --work, then scores the same tokens with each and decodes with them in turn.
"""
import argparse, json, re, statistics, subprocess
from pathlib import Path

TYPES = ["f32", "bf16", "q8_0", "q6_k", "q5_1", "q5_0", "q5_k", "q4_1", "q4_0", "q4_k"]


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parloop", required=True)
    p.add_argument("--model", required=True, type=Path)
    p.add_argument("--text", required=True, type=Path)
    p.add_argument("--work", default=Path("out/gguf"), type=Path)
    p.add_argument("--bytes", default=30000, type=int, help="bytes of the text's end that are scored")
    p.add_argument("--context", default=256, type=int)
    p.add_argument("--rounds", default=5, type=int)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    text = a.work / "text.txt"
    text.write_bytes(a.text.read_bytes()[-a.bytes:].decode("utf-8", "ignore").encode())
    files, sizes, bits, losses = {}, {}, {}, {}
    tokens = None
    for kind in TYPES:
        files[kind] = a.work / f"{kind}.gguf"
        said = run(a.parloop, "quantize", a.model, files[kind], "--type", kind, "--force").stderr
        sizes[kind], bits[kind] = files[kind].stat().st_size, re.search(r"([0-9.]+) bits a weight", said)[1]
        if tokens is None:
            tokens = []
            for start in range(0, len(text.read_text()), 600):
                part = text.read_text()[start:start + 600]
                tokens += json.loads(run(a.parloop, "score", files[kind], "--text", part).stdout)["tokens"]
        total, count = 0.0, 0
        for start in range(0, len(tokens) - a.context, a.context):
            ids = ",".join(map(str, tokens[start:start + a.context]))
            found = json.loads(run(a.parloop, "score", files[kind], "--tokens", ids).stdout)["logprobs"]
            total, count = total - sum(found), count + len(found)
        losses[kind] = total / count
    speeds = {kind: [] for kind in TYPES}
    for _ in range(a.rounds):
        for kind in TYPES:
            said = run(a.parloop, "run", files[kind], "-p", "The", "-n", "160", "--temp", "0", "--ignore-eos").stderr
            speeds[kind].append(float(re.search(r"([0-9.]+) tokens/s", said)[1]))
    print("| type | bits a weight | size | loss, nats a token | against f32 | tokens/s |\n|---|---|---|---|---|---|")
    for kind in TYPES:
        more = 100 * (losses[kind] / losses["f32"] - 1)
        print(f"| {kind} | {bits[kind]} | {sizes[kind] / 1e6:.2f} MB | {losses[kind]:.4f} | {more:+.2f} % | {statistics.median(speeds[kind]):.0f} |")


if __name__ == "__main__":
    main()
