#!/usr/bin/env python3
"""Compares the SentencePiece tokenizer with the Python package `sentencepiece` (pip install sentencepiece).

    scripts/compare_sentencepiece.py TEXT              trains models on TEXT, compares ids and text of 10,000 lines
    scripts/compare_sentencepiece.py TEXT --fixtures   writes the small models and expectations of the tests
"""
import argparse
import itertools
import json
import pathlib
import random
import subprocess
import tempfile

import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "crates/parloop-model/tests/sentencepiece"

WORLD = """The quick brown fox jumps over the lazy dog; it's 3.14 o'clock.
Größe, Übermut und ein Straßenfest: „so ist das eben“ – ach was!
L'été dernier, nous sommes allés à la plage… c'était génial, n'est-ce pas ?
El niño comió piñas en la montaña. ¿Cuándo volverás? ¡Mañana!
Съешь ещё этих мягких французских булок, да выпей чаю.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。
いろはにほへと ちりぬるを ワカヨタレソ ツネナラム カタカナ
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر
דג סקרן שט בים מאוכזב ולפתע מצא חברה
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน
Tôi có thể ăn thủy tinh mà không hại gì.
👩‍🚀 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 😀😃😄 ❤️ ✨ 🤷‍♂️
fn main() { let x: Vec<u8> = vec![0; 16]; println!("{x:?}"); }
def f(a, b=None):\treturn a if b is None else a @ b  # ½ ² ③ ﬁ ㎏ Ⅷ
https://example.org/a?b=c&d=%20e#frag user@example.org 1,234,567.89 €""".split("\n")

HARD = [
    "", " ", "  ", "a", " a", "a ", "  a   b  ", "\t\ta\tb", "\u3000全角\u3000", "a\u00a0b", "▁", "▁▁a ▁b", "<s>", "</s> x",
    "<unk>", "<0x41>", "<0xE4>", "\u0000", "a\u0000b", "\u0001\u001f\u007f", "\u200b\u200d\ufeff", "e\u0301 é", "\u0301",
    "ﬁﬂ ﬃ", "①②③ ㍿ ㌖", "ＡＢＣ　ａｂｃ", "½ ¼ ²", "İi̇", "ǅ ß ẞ", "한국어", "\u1112\u1161\u11ab", "\U0001F468\u200d\U0001F469\u200d\U0001F467",
    "👍🏽👍", "\U0010FFFF\uFFFF\uFFFD", "\ud7ff\ue000", "ffffffffffffffff", "aaaa" * 30, " " * 50, "x" + " " * 20 + "y", "\r\n\r\n",
    "tab\tnew\nline", "<sep>", "a<sep>b<sep><sep>c", "<sep> x", " <sep>", "<se", "<sepp>", "<sep", "<sep><s", "<seplong>", "​​",
    "̀́̂̃", "مرحبا بالعالم", "นี่คือ", "\u202eabc\u202c", "a\u2028b\u2029c\u0085d", "~" * 7, "１２３", "ｶﾞｷﾞｸﾞ",
]


def lines(text, count, rng):
    """Lines of the text, of the world, mixtures, hard cases and random characters."""
    book = [l for l in text.split("\n") if l.strip()]
    out = list(HARD) + list(WORLD)
    ranges = [(0, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x900, 0xDFF), (0x1100, 0x11FF), (0x2000, 0x2BFF),
              (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x10000, 0x10FFFF), (0x1F300, 0x1FAFF)]
    while len(out) < count:
        kind = rng.randrange(8)
        if kind < 3:
            out.append(rng.choice(book))
        elif kind == 3:
            words = " ".join(rng.choice(book) for _ in range(3)).split(" ") + "".join(WORLD).split(" ")
            out.append((" " * rng.randint(1, 4)).join(rng.choice(words) for _ in range(rng.randint(1, 20))))
        elif kind == 4:
            one = rng.choice(WORLD)
            a, b = sorted(rng.randrange(len(one) + 1) for _ in range(2))
            out.append(one[a:b] + rng.choice(HARD) + rng.choice(book)[: rng.randrange(30)])
        elif kind == 5:
            low, high = rng.choice(ranges)
            out.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 30))))
        elif kind == 6:
            out.append("".join(rng.choice(["<sep>", "<seplong>", "<s>", "<", "sep", ">", " ", "a", "é", "▁"]) for _ in range(rng.randint(1, 12))))
        else:
            low, high = zip(*ranges)
            out.append("".join(chr(rng.randint(low[i], high[i])) for i in (rng.randrange(len(low)) for _ in range(rng.randint(1, 40)))))
    # Lone surrogates are no characters.
    return ["".join(c for c in l if not 0xD800 <= ord(c) <= 0xDFFF) for l in out[:count]]


def train(corpus, prefix, **options):
    base = dict(
        input=str(corpus), model_prefix=str(prefix), hard_vocab_limit=False, character_coverage=0.9995, num_threads=1,
        user_defined_symbols=["<sep>", "<seplong>"], control_symbols=["<mask>"], minloglevel=2,
    )
    sentencepiece.SentencePieceTrainer.train(**{**base, **options})
    return pathlib.Path(f"{prefix}.model")


def expected(model, texts):
    """Ids of each text, and the text they decode to."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return [{"ids": (ids := sp.encode(t)), "text": sp.decode(ids)} for t in texts]


def unuse(model, every, path):
    """A copy of a model in which some ordinary pieces are of the type UNUSED."""
    from sentencepiece import sentencepiece_model_pb2 as pb
    proto = pb.ModelProto.FromString(pathlib.Path(model).read_bytes())
    ordinary = [p for p in proto.pieces if p.type == 1 and len(p.piece) > 1]
    for p in ordinary[::every]:
        p.type = 5
    path.write_bytes(proto.SerializeToString())
    return path


def compare(text, count):
    rng = random.Random(7)
    texts = lines(text, count, rng)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus = folder / "corpus.txt"
        corpus.write_text(text[:1_500_000] + "\n" + "\n".join(WORLD * 30))
        kinds = itertools.product(["bpe", "unigram"], [True, False], ["nmt_nfkc", "identity"])
        models = {f"{k}, bytes {b}, {n}": dict(model_type=k, byte_fallback=b, normalization_rule_name=n) for k, b, n in kinds}
        for k in ["bpe", "unigram"]:
            models[f"{k}, spaces kept"] = dict(model_type=k, byte_fallback=True, remove_extra_whitespaces=False, normalization_rule_name="identity")
            models[f"{k}, no dummy prefix"] = dict(model_type=k, byte_fallback=k == "bpe", add_dummy_prefix=False, normalization_rule_name="nfkc_cf")
            models[f"{k}, neither"] = dict(model_type=k, add_dummy_prefix=False, remove_extra_whitespaces=False)
            models[f"{k}, space as suffix"] = dict(model_type=k, treat_whitespace_as_suffix=True)
            models[f"{k}, across words"] = dict(model_type=k, split_by_whitespace=False, allow_whitespace_only_pieces=True, remove_extra_whitespaces=False)
            models[f"{k}, some unused"] = dict(model_type=k, byte_fallback=True, unused=3)
        for number, (name, options) in enumerate(models.items()):
            every = options.pop("unused", None)
            model = train(corpus, folder / f"m{number}", vocab_size=4000, **options)
            if every:
                model = unuse(model, every, folder / "unused.model")
            command = ["cargo", "run", "-q", "--release", "-p", "parloop-model", "--example", "tokenize", "--", str(model)]
            stdin = "".join(json.dumps(t) + "\n" for t in texts)
            ours = [json.loads(l) for l in subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n") if l]
            wrong = [(t, a, b) for t, a, b in zip(texts, ours, expected(model, texts), strict=True) if a != b]
            failures += len(wrong)
            tokens = sum(len(o["ids"]) for o in ours)
            print(f"{name}: {len(texts) - len(wrong)} of {len(texts)} lines equal, {tokens} ids", flush=True)
            for t, a, b in wrong[:3]:
                print("   ", repr(t), "\n      ours    ", a, "\n      expected", b)
    raise SystemExit(failures > 0)


def fixtures(text):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus, rules = folder / "corpus.txt", folder / "rules.tsv"
        corpus.write_text(text[:200_000] + "\n" + "\n".join(WORLD * 5))
        # A few rules of NFKC's kind: one to several, several to one, to a space, to nothing.
        pairs = {"ﬁ": "fi", "①": "1", "½": "1/2", "e\u0301": "é", "\u3000": " ", "\t": " ", "\n": " ", "\u200b": "", "ＡＢ": "AB", "Ａ": "A"}
        rules.write_text("".join("\t".join(" ".join(f"{ord(c):X}" for c in part) for part in pair) + "\n" for pair in pairs.items()))
        small = dict(normalization_rule_tsv=str(rules))
        models = {
            "bpe-bytes": dict(model_type="bpe", byte_fallback=True, vocab_size=700, **small),
            "bpe-spaces": dict(model_type="bpe", vocab_size=500, remove_extra_whitespaces=False, normalization_rule_name="identity"),
            "bpe-unused": dict(model_type="bpe", vocab_size=500, add_dummy_prefix=False, normalization_rule_name="identity", unused=2),
            "unigram-bytes": dict(model_type="unigram", byte_fallback=True, vocab_size=700, **small),
            "unigram-suffix": dict(model_type="unigram", vocab_size=500, treat_whitespace_as_suffix=True, **small),
            "unigram-nfkc": dict(model_type="unigram", vocab_size=500, normalization_rule_name="nmt_nfkc"),
        }
        FIXTURES.mkdir(parents=True, exist_ok=True)
        texts = HARD + WORLD + ["To be, or not to be, that is the question:", "ROMEO:  But soft!   What light"]
        # Lone surrogates are no characters.
        for name, options in models.items():
            every = options.pop("unused", None)
            model = train(corpus, folder / name, character_coverage=0.98, **options)
            if every:
                model = unuse(model, every, folder / "unused.model")
            from sentencepiece import sentencepiece_model_pb2 as pb
            proto = pb.ModelProto.FromString(model.read_bytes())
            proto.trainer_spec.ClearField("input")
            proto.trainer_spec.ClearField("model_prefix")
            proto.normalizer_spec.ClearField("normalization_rule_tsv")
            (FIXTURES / f"{name}.model").write_bytes(proto.SerializeToString())
            cases = [{"input": t, **e} for t, e in zip(texts, expected(FIXTURES / f"{name}.model", texts), strict=True)]
            rows = ",\n".join(json.dumps(c) for c in cases)
            (FIXTURES / f"{name}.json").write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="a text file to train on")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--fixtures", action="store_true")
    args = parser.parse_args()
    body = args.text.read_text(errors="replace")
    fixtures(body) if args.fixtures else compare(body, args.lines)
