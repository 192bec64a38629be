#!/usr/bin/env python3
"""Hold GGUF files of mixtures of experts against llama.cpp.

    python scripts/compare_moe_llama_cpp.py --llama-server BUILD/bin/llama-server --parloop target/release/parloop

Needs `pip install gguf numpy`. Takes the tiny checkpoints in tests/families that other engines know as an architecture,
writes each with `parloop quantize`, gives the file a made-up vocabulary (the checkpoints have none) and asks both programs
for the probabilities of the next token after prompts of several lengths. Prints the largest difference of a
log-probability; exits with 1 if it is larger than 2e-3.
"""
import argparse, json, math, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

import gguf
import numpy as np

CASES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"]
LENGTHS = [1, 2, 7, 15, 24]


def with_vocabulary(source, target):
    """A copy of a file with a vocabulary that nobody looks at."""
    reader = gguf.GGUFReader(source)
    arch = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(target, arch)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key.startswith("tokenizer."):
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[1] if kind == gguf.GGUFValueType.ARRAY else None)
    size = reader.get_field(f"{arch}.vocab_size").contents()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(size - 3)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (size - 3))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return size


def post(port, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())


def theirs(server, model, ids, size, port):
    """For each length the log-probabilities of the next token."""
    process = subprocess.Popen([server, "-m", model, "--port", str(port), "-c", "256", "-np", "1", "-t", "1", "--no-warmup", "-ctk", "f32",
                                "-ctv", "f32", "-fa", "off"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except Exception:
                if process.poll() is not None:
                    raise SystemExit(process.stderr.read().decode()[-2000:])
                time.sleep(0.1)
        rows = []
        for n in LENGTHS:
            answer = post(port, dict(prompt=ids[:n], n_predict=1, n_probs=size, temperature=0.0, cache_prompt=False))
            rows.append({t["id"]: t["logprob"] for t in answer["completion_probabilities"][0]["top_logprobs"]})
        return rows
    finally:
        process.terminate()
        process.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llama-server", required=True)
    p.add_argument("--parloop", required=True)
    p.add_argument("--families", default=Path(__file__).parent.parent / "tests/families", type=Path)
    p.add_argument("--port", default=18431, type=int)
    a = p.parse_args()
    failed = False
    for name in CASES:
        with tempfile.TemporaryDirectory() as work:
            plain, full = f"{work}/plain.gguf", f"{work}/full.gguf"
            subprocess.run([a.parloop, "quantize", a.families / name, "--type", "f32", "--out", plain], check=True, capture_output=True)
            size = with_vocabulary(plain, full)
            ids = [(7 * i * i + 3 * i + 5) % (size - 3) + 3 for i in range(max(LENGTHS))]
            text = subprocess.run([a.parloop, "score", plain, "--ids", ",".join(map(str, ids)), "--logits"], check=True, capture_output=True,
                                  text=True).stdout
            ours = np.array(json.loads(text)["logits"], dtype=np.float64)
            worst = 0.0
            for n, row in zip(LENGTHS, theirs(a.llama_server, full, ids, size, a.port)):
                logits = ours[n - 1]
                logs = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
                assert len(row) == size, f"{len(row)} of {size} probabilities"
                worst = max(worst, max(abs(logs[i] - p) for i, p in row.items()))
            print(f"{name:12} log-probabilities differ by at most {worst:.1e} over {len(LENGTHS)} prompts", flush=True)
            failed |= not worst < 2e-3
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
