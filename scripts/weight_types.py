#!/usr/bin/env python3
"""Loss of a model in each weight type, side by side, on the end of a text.

    python scripts/weight_types.py --parloop target/release/parloop --text shakespeare.txt [--model FOLDER]

Cuts the last 5 % of the text into windows and scores every window with `parloop score --weights TYPE`.
"""
import argparse, json, subprocess


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parloop", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--model")
    p.add_argument("--window", type=int, default=900, help="characters of a window")
    p.add_argument("--windows", type=int, default=60)
    p.add_argument("--types", default="f32,bf16,q8,q4")
    p.add_argument("--kv", default="f32", help="types of keys and values, separated by commas")
    a = p.parse_args()
    text = open(a.text, encoding="utf-8").read()
    text = text[int(len(text) * 0.95):]
    stride = max(a.window, len(text) // a.windows)
    windows = [text[i:i + a.window] for i in range(0, len(text) - a.window, stride)][:a.windows]
    print("| type | nats per token | bits per byte | against f32 |\n|---|---|---|---|")
    first = None
    for kind, kv in [(kind, kv) for kind in a.types.split(",") for kv in a.kv.split(",")]:
        total, count, size = 0.0, 0, 0
        for window in windows:
            command = [a.parloop, "score", *([a.model] if a.model else []), "--text", window, "--weights", kind, "--kv", kv]
            score = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            total -= sum(score["logprobs"])
            count += len(score["logprobs"])
            size += len(window.encode())
        loss = total / count
        first = loss if first is None else first
        print(f"| {kind}{'' if kv == 'f32' else ', K/V in ' + kv} | {loss:.4f} | {total / 0.6931471805599453 / size:.4f} | {100 * (loss / first - 1):+.2f} % |", flush=True)


if __name__ == "__main__":
    main()
