#!/usr/bin/env python3
"""Runs every command that README.md, CONTRIBUTING.md and docs/ show, in a folder where what they name exists.

    python scripts/run_documented_commands.py --parloop target/release/parloop [--only TEXT] [--text FILE]

A command is an indented or fenced line that begins with `parloop` or pipes into it. Those that would take hours or gigabytes run on
less (SMALLER); those that cannot run here are named with the reason (NOT_HERE). Prints each command, how it ended, and
fails if one failed.
"""
import argparse, gzip, json, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Words of a command that are replaced, so that it runs on less.
SMALLER = [
    (r"--shape loopcoder-v2(-quarter)?(?! --layers)", "--shape tiny"),
    (r"--shape loopcoder-v2 --layers \d+", "--shape tiny"),
    (r"--shape (llama-1b|llama-8b|smollm2-135m)", "--shape tiny"),
    (r"(--prompt-tokens) [\d,]+", r"\1 64,128"),
    (r"--depth [\d,]+", "--depth 64"),
    (r"--rounds \d+", "--rounds 2"),
    (r"--preset \w+", "--preset tiny"),
    (r"--steps \d+", "--steps 4"),
    (r"out/plt2 --resume", "out/plt2 --resume --steps 6"),
    (r"^(parloop train (?!.*--(steps|resume|help)).*)$", r"\1 --steps 4"),
    (r"^parloop study (\S+\.toml)(?!.*--quick)", r"parloop study \1 --quick"),
    (r"Multilingual-Multimodal-NLP/LoopCoder-V2", "OWNER/NAME"),
    (r"--tokens 4096", "--tokens 16"),
    (r"--from 100", "--from 1"),
    (r"--step-tokens \d+", "--step-tokens 4096"),
    (r"--vocab-size \d+", "--vocab-size 300"),
]
#: Commands that replace what is there only with --force.
REPLACES = re.compile(r"parloop (convert|quantize|task|plot|diagnose|tokenizer train|data prepare|study (measure|report))\b")
#: Commands that cannot run here, and why.
NOT_HERE = [
    (r"^parloop pull ", "needs a hub; tests/pull.rs runs it against one of its own"),
    (r"^HF_ENDPOINT|^export ", "sets the address of a hub"),
    (r"^parloop serve", "runs until it is told to stop; tests/serve.rs starts it"),
    (r"--llama ", "needs llama.cpp"),
    (r"bench serve|chat --url", "needs a server; tests/bench_serve.rs and tests/serve.rs start one"),
    (r"[<>]\(", "a form, not a command"),
    (r"\bBUILD/|\bOUT\b|\bMODEL\b|\bDIR\b|\bFILE\b|<COMMAND>|\.\.\. *$", "a form, not a command"),
]


def commands(path):
    """Indented lines and lines in fences that run parloop; what ends in a backslash goes on."""
    fenced, held = False, ""
    for line in path.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
            continue
        if not (fenced or line.startswith("    ")):
            held = ""
            continue
        line = held + line.strip()
        held = ""
        if line.endswith("\\"):
            held = line[:-1].rstrip() + " "
            continue
        line = re.split(r"\s+#\s", line)[0].strip()
        line = re.sub(r"^cargo run --release (--locked )?-- ", "parloop ", line)
        if re.match(r"(\w+=\S+ )*parloop \S", line) or re.search(r"\| parloop ", line) or line.startswith(("cat docs", "printf")):
            # Examples of a help text may have what they do behind them.
            yield re.split(r"\s{3,}", line)[0]


def prepare(work, parloop, text):
    """A folder in which everything exists that documents name."""
    for name in ["docs", "tests", "README.md", "CONTRIBUTING.md"]:
        os.symlink(ROOT / name, work / name)
    (work / "book.txt").write_text(text[:200_000])
    (work / "texts").mkdir()
    (work / "texts/a.txt").write_text(text[:100_000])
    for name in ["question.txt", "rules-and-question.txt", "long.txt"]:
        (work / name).write_text("To be, or not to be?\n" * 5)
    (work / "prompts.jsonl").write_text('"ROMEO:"\n{"prompt": "JULIET:", "id": 7}\n')
    (work / "run.toml").write_text("steps = 4\n")
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (work / "chatml.jinja").write_text(template)
    (work / "shakespeare.txt").write_text(text[:200_000])
    lines = [json.dumps({"text": line, "content": line}) for line in text[:50_000].splitlines() if line]
    (work / "web.jsonl").write_text("\n".join(lines) + "\n")
    (work / "web.jsonl.gz").write_bytes(gzip.compress((work / "web.jsonl").read_bytes()))
    turns = [{"role": "user", "content": "To be?"}, {"role": "assistant", "content": "Or not to be."}]
    (work / "chats.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 50)
    (work / "questions.jsonl").write_text('{"prompt": "2+2=", "answer": "4"}\n')
    run = lambda *a: subprocess.run([parloop, *a], cwd=work, check=True, capture_output=True)
    train = ["--steps", "4", "--eval-every", "2", "--eval-batches", "1"]
    run("train", "--data", "book.txt", "--out", "out/plt2", *train)
    for loops in [3, 4]:
        run("train", "--data", "book.txt", "--out", f"out/plt{loops}", "--recipe", f"plt{loops}", *train)
    for split, count in [("train", 200), ("test", 20)]:
        out = "s3.jsonl" if split == "train" else "s3-test.jsonl"
        run("task", "s3", "--split", split, "--count", str(count), "--out", out)
    run("train", "--data", "s3.jsonl", "--tokenizer", "bytes", "--context", "24", "--out", "out/s3", *train)
    run("convert", "out/plt2", "--to", "iquestpltcoder", "--out", "LoopCoder-V2")
    shutil.copytree(work / "LoopCoder-V2", work / "models/loopcoder-v2")
    run("convert", "out/plt2", "--out", "models/instruct")
    (work / "models/instruct/chat_template.jinja").write_text(template)
    run("quantize", "out/plt2", "--type", "f16", "--out", "model.gguf")
    run("quantize", "out/plt2", "--type", "q4_0", "--out", "model-q4_0.gguf")
    run("quantize", "out/plt2", "--type", "q8_0", "--out", "plt2.gguf")
    shutil.copytree(work / "models/instruct", work / "models/base")
    (work / ".local/share/bash-completion/completions").mkdir(parents=True)


def fetched(work):
    """A model among the fetched ones, again and again: a command removes it."""
    cached = work / "hub/models--OWNER--NAME/snapshots/0123456789"
    if not cached.exists():
        shutil.copytree(work / "models/instruct", cached)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parloop", type=Path, default=ROOT / "target/release/parloop")
    parser.add_argument("--only", default="", help="commands that contain this")
    parser.add_argument("--text", type=Path, help="a text to train on; the documents if left out")
    a = parser.parse_args()
    parloop = a.parloop.resolve()
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    documents = [d for d in documents if d.name != "log.md"]
    text = a.text.read_text() if a.text else "".join(d.read_text() for d in documents)
    seen, failed, skipped = set(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, parloop, text)
        binary = work / "bin"
        binary.mkdir()
        os.symlink(parloop, binary / "parloop")
        env = {**os.environ, "PATH": f"{binary}:{os.environ['PATH']}", "HF_HUB_CACHE": str(work / "hub"),
               "HOME": str(work)}
        for document in documents:
            for command in commands(document):
                if command in seen or a.only not in command:
                    continue
                seen.add(command)
                why = next((why for form, why in NOT_HERE if re.search(form, command)), None)
                if why:
                    skipped += 1
                    print(f"not here  {command}  ({why})")
                    continue
                fetched(work)
                smaller = command
                for form, words in SMALLER:
                    smaller = re.sub(form, words, smaller)
                # A command is shown more than once, and out of order.
                targets = re.findall(r"--(?:out|plot) (\S+)", smaller)
                if REPLACES.search(smaller) and "--force" not in smaller and any((work / t).exists() for t in targets):
                    smaller += " --force"
                if "train" in smaller and "--resume" not in smaller:
                    for target in re.findall(r"--out (\S+)", smaller):
                        shutil.rmtree(work / f"{target}.tmp", ignore_errors=True)
                        if target != "out/plt2":
                            shutil.rmtree(work / target, ignore_errors=True)
                        else:
                            smaller = smaller.replace("--out out/plt2", f"--out out/again-{len(seen)}")
                try:
                    done = subprocess.run(["bash", "-c", smaller], cwd=work, env=env, capture_output=True, text=True,
                                          timeout=300, stdin=subprocess.DEVNULL if "| parloop" not in smaller else None)
                except subprocess.TimeoutExpired:
                    done = subprocess.CompletedProcess(smaller, 124, "", "still running after 300 s")
                shown = command if smaller == command else f"{command}  (as: {smaller})"
                print(f"{'right' if done.returncode == 0 else 'FAILED':9} {document.relative_to(ROOT)}: {shown}", flush=True)
                if done.returncode != 0:
                    print("          " + done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "")
                    failed.append(command)
    print(f"{len(seen) - skipped} commands run, {len(failed)} failed, {skipped} cannot run here")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
