"""Tiny random checkpoints of other families, with their configuration keys and tensor names, and the logits that
follow from them.

    python families.py write ../families     # (re)create the folders
    python families.py write ../families qwen    # only those whose names begin so
    python families.py check ../families     # hold the plain ones against Hugging Face's own code (needs transformers)

One function a family maps its configuration onto the recipe of looped_reference.py; `forward` is that file's forward
with what it lacks: biases, norms of queries and keys, sandwich norms, RoPE scaling and the exit gate. Float64, no caches.
"""
import json, math, re, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
import looped_reference as ref


# What families map their configurations onto: the recipe, and what is added to the plain block.

def plain(c, **loop):
    heads = c["num_attention_heads"]
    ours = {k: c[k] for k in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                              "rms_norm_eps"]}
    scaling = c.get("rope_scaling") or c.get("rope_parameters") or {}
    ours |= dict(num_key_value_heads=c.get("num_key_value_heads") or heads, head_dim=c.get("head_dim") or c["hidden_size"] // heads,
                 rope_theta=c.get("rope_theta") or scaling["rope_theta"], tie_word_embeddings=c.get("tie_word_embeddings", False),
                 max_position_embeddings=c["max_position_embeddings"], attention_bias=c.get("attention_bias", False),
                 mlp_bias=c.get("mlp_bias", False), rope_scaling=scaling, sandwich=False, exit=None, qk_norms=False,
                 output_bias=c.get("attention_bias", False))
    base = dict(count=1, shift=False, embedding_scale=None, hidden_scale=1.0, norm=False, kv="per_loop", local=None)
    return ours | dict(loop=base | loop)


def llama(c):
    return plain(c)


def mistral(c):
    assert c["sliding_window"] is None or c["sliding_window"] >= c["max_position_embeddings"]
    return plain(c)


def qwen2(c):
    return plain(c) | dict(attention_bias=True, output_bias=False)


def qwen3(c):
    return plain(c) | dict(qk_norms=True)


def iquestpltcoder(c):
    left, right = c.get("plt_window_size") or [64, 0]
    assert right == 0
    one = lambda key: 1.0 if c.get(key) is None else c[key]
    gate = "hidden" if c.get("plt_gate_use_hidden_states") else "query"
    norm = c.get("plt_normalize_per_loop")
    return plain(c, count=c["plt_num_loops"], shift=True, embedding_scale=one("plt_emb_scale"), hidden_scale=one("plt_hidden_scale"),
                 norm=True if norm is None else norm, kv="shared", local=dict(left=left, gate=gate))


def iquestloopcoder(c):
    return plain(c, count=c["loop_num"], kv="shared", local=dict(left=c["loop_window_size"] - 1, gate="query"))


def ouro(c):
    return plain(c, count=c["total_ut_steps"], norm=True) | dict(sandwich=True, exit=c["early_exit_threshold"])


def nanbeige(c):
    return plain(c, count=c["num_loops"], norm=not c["skip_loop_final_norm"])


FAMILIES = dict(llama=llama, mistral=mistral, qwen2=qwen2, qwen3=qwen3, iquestpltcoder=iquestpltcoder, iquestloopcoder=iquestloopcoder, ouro=ouro, nanbeige=nanbeige)


def our_names(w):
    """The gate's spellings, and stored rotary frequencies, which nothing needs."""
    spell = lambda k: re.sub(r"model\.gate_projections\.(\d+)\.", r"model.layers.\1.self_attn.plt_gate.", k.replace("loop_gate_proj", "plt_gate"))
    return {spell(k): v for k, v in w.items() if not k.endswith("inv_freq")}


def frequencies(c):
    """Angles per position, and the factor on rotated heads (Hugging Face's modeling_rope_utils.py)."""
    s, D, theta = c["rope_scaling"], c["head_dim"], c["rope_theta"]
    kind = s.get("rope_type") or s.get("type") or "default"
    f = theta ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    if kind == "linear":
        return f / s["factor"], 1.0
    if kind == "llama3":
        wave, old = 2 * math.pi / f, s["original_max_position_embeddings"]
        low, high = s["low_freq_factor"], s["high_freq_factor"]
        smooth = (old / wave - low) / (high - low)
        middle = (1 - smooth) * f / s["factor"] + smooth * f
        return torch.where(wave > old / low, f / s["factor"], torch.where(wave < old / high, f, middle)), 1.0
    if kind == "yarn":
        old = s.get("original_max_position_embeddings") or c["max_position_embeddings"]
        factor = s["factor"]
        mscale = lambda m: 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1
        attention = s.get("attention_factor")
        if attention is None:
            m, all_dim = s.get("mscale"), s.get("mscale_all_dim")
            attention = mscale(m) / mscale(all_dim) if m and all_dim else mscale(1)
        dim = lambda turns: D * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))
        low, high = dim(s.get("beta_fast") or 32), dim(s.get("beta_slow") or 1)
        if s.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, D - 1)
        ramp = ((torch.arange(D // 2, dtype=torch.float64) - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        return f / factor * ramp + f * (1 - ramp), attention
    assert kind == "default", kind
    return f, 1.0


def rope(x, positions, c):
    f, factor = frequencies(c)
    angle = positions.double()[:, None, None] * f
    cos, sin = factor * angle.cos(), factor * angle.sin()
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def forward(w, c, ids):
    """Logits [T, V]."""
    loop, eps, T = c["loop"], c["rms_norm_eps"], len(ids)
    H, G, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    norm = lambda x, name: ref.rms_norm(x, w[name + ".weight"], eps)
    linear = lambda x, name, bias: F.linear(x, w[name + ".weight"], w[name + ".bias"] if bias else None)
    attention, mlp = c["attention_bias"], c["mlp_bias"]
    embedding, positions = w["model.embed_tokens.weight"][ids], torch.arange(T)
    shared, states, x = {}, [], None
    for r in range(loop["count"]):
        if r == 0:
            x = embedding
        else:
            h = states[-1] if loop["norm"] else x
            if loop["shift"]:
                h = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
            x = loop["hidden_scale"] * h
            if loop["embedding_scale"] is not None:
                x = x + loop["embedding_scale"] * embedding
        for n in range(c["num_hidden_layers"]):
            p = f"model.layers.{n}."
            u = norm(x, p + "input_layernorm")
            head_norm = lambda y, name: norm(y, p + name) if c["qk_norms"] else y
            q = rope(head_norm(linear(u, p + "self_attn.q_proj", attention).view(T, H, D), "self_attn.q_norm"), positions, c)
            k = rope(head_norm(linear(u, p + "self_attn.k_proj", attention).view(T, G, D), "self_attn.k_norm"), positions, c)
            v = linear(u, p + "self_attn.v_proj", attention).view(T, G, D)
            if r == 0:
                shared[n] = k, v
            if r == 0 or loop["kv"] == "per_loop":
                y = ref.attend(q, k, v)
            else:
                y = ref.attend(q, *shared[n])
                g = p + "self_attn.plt_gate"
                if loop["local"]["gate"] == "hidden":
                    gate = linear(norm(x, g + ".gate_norm"), g, True)
                else:
                    gate = torch.einsum("thd,hd->th", q, w[g + ".weight"]) + w[g + ".bias"]
                gate = gate.sigmoid()[..., None]
                y = gate * y + (1 - gate) * ref.attend(q, k, v, loop["local"]["left"])
            y = linear(y.reshape(T, -1), p + "self_attn.o_proj", c["output_bias"])
            x = x + (norm(y, p + "input_layernorm_2") if c["sandwich"] else y)
            u = norm(x, p + "post_attention_layernorm")
            y = linear(F.silu(linear(u, p + "mlp.gate_proj", mlp)) * linear(u, p + "mlp.up_proj", mlp), p + "mlp.down_proj", mlp)
            x = x + (norm(y, p + "post_attention_layernorm_2") if c["sandwich"] else y)
        states.append(norm(x, "model.norm"))
    last = states[-1]
    if c["exit"] is not None and c["exit"] < 1:
        last = exit_states(w, torch.stack(states), c["exit"])
    return last @ w["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"].T


def exit_states(w, states, threshold):
    """[R, T, d] to [T, d]: of each token the state of the first loop at which the probability of having ended reaches
    the threshold; the last loop takes what is left."""
    stop = F.linear(states, w["model.early_exit_gate.weight"], w["model.early_exit_gate.bias"]).sigmoid()[..., 0]
    ended = 1 - (1 - stop).cumprod(0)
    assert ((ended[:-1] - threshold).abs() > 1e-3).all(), "too close to call"
    ended[-1] = 1
    step = (ended >= threshold).double().argmax(0)
    print("   exits at loops", torch.bincount(step, minlength=len(states)).tolist())
    return states[step, torch.arange(states.shape[1])]


def random_weights(c, seed):
    """Tensors of a mapped configuration, under our names."""
    w = ref.random_weights(c, seed)
    g = torch.Generator().manual_seed(1000 + seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    biased = lambda k: (re.search(r"\.[qkv]_proj\.", k) and c["attention_bias"] or ".o_proj." in k and c["output_bias"]
                        or ".mlp." in k and c["mlp_bias"])
    for name in [k for k in w if biased(k)]:
        w[name.replace(".weight", ".bias")] = 0.5 * normal(len(w[name]))
    if c["qk_norms"]:
        for n in range(c["num_hidden_layers"]):
            for name in ["q_norm", "k_norm"]:
                w[f"model.layers.{n}.self_attn.{name}.weight"] = 1 + 0.3 * normal(c["head_dim"])
    if c["sandwich"]:
        for n in range(c["num_hidden_layers"]):
            for name in ["input_layernorm_2", "post_attention_layernorm_2"]:
                w[f"model.layers.{n}.{name}.weight"] = 0.5 + 0.1 * normal(c["hidden_size"])
    if c["exit"] is not None:
        w["model.early_exit_gate.weight"] = 2 * normal(1, c["hidden_size"]) / math.sqrt(c["hidden_size"])
        w["model.early_exit_gate.bias"] = normal(1) - 1
    return w


# The cases: their configurations, and how they spell the gate. `torch_dtype` is what the tensors are stored in.

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=8, hidden_act="silu", max_position_embeddings=256, initializer_range=0.02, use_cache=True,
             tie_word_embeddings=False, bos_token_id=1, attention_dropout=0.0, torch_dtype="float32", transformers_version="4.57.1")
PLT = SIZES | dict(model_type="iquestpltcoder", architectures=["IQuestPLTCoderForCausalLM"], rms_norm_eps=1e-5, rope_theta=500000.0,
                   rope_scaling=None, attention_bias=False, mlp_bias=False, eos_token_id=[2, 40, 45],
                   auto_map={"AutoConfig": "configuration_iquestpltcoder.IQuestPLTCoderConfig"}, plt_num_loops=2, plt_window_size=[64, 0],
                   plt_emb_scale=0.707, plt_hidden_scale=0.053, plt_normalize_per_loop=True, plt_gate_use_hidden_states=True)
LOOP = SIZES | dict(model_type="iquestloopcoder", architectures=["IQuestLoopCoderForCausalLM"], rms_norm_eps=1e-5, rope_theta=500000.0,
                    attention_bias=False, mlp_bias=False, eos_token_id=[2, 40, 45], loop_num=2, loop_window_size=5)
OURO = SIZES | dict(model_type="ouro", architectures=["OuroForCausalLM"], num_key_value_heads=4, rms_norm_eps=1e-6, rope_theta=1000000.0,
                    rope_scaling=None, eos_token_id=0, total_ut_steps=4, early_exit_threshold=1.0, use_sliding_window=False,
                    sliding_window=None, max_window_layers=2, layer_types=["full_attention"] * 2)
NANBEIGE = SIZES | dict(model_type="nanbeige", architectures=["NanbeigeForCausalLM"], head_dim=16, kv_channels=16, rms_norm_eps=1e-5,
                        rope_theta=70000000.0, rope_scaling=None, attention_bias=False, eos_token_id=2, num_loops=2,
                        loop_loss_weights=[], skip_loop_final_norm=False, pretraining_tp=1, pad_token_id=0)
LLAMA = SIZES | dict(model_type="llama", architectures=["LlamaForCausalLM"], head_dim=16, rms_norm_eps=1e-5, rope_theta=10000.0,
                     attention_bias=False, mlp_bias=False, eos_token_id=2, pretraining_tp=1)
MISTRAL = SIZES | dict(model_type="mistral", architectures=["MistralForCausalLM"], rms_norm_eps=1e-5, rope_theta=1000000.0, eos_token_id=2,
                       sliding_window=None, head_dim=16)
QWEN = SIZES | dict(rms_norm_eps=1e-6, rope_theta=1000000.0, eos_token_id=2, use_sliding_window=False, sliding_window=None,
                    max_window_layers=2)
QWEN2 = {k: v for k, v in QWEN.items() if k != "head_dim"} | dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"])
QWEN3 = QWEN | dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], head_dim=16, attention_bias=False, rope_scaling=None)
CASES = {
    "iquestpltcoder": (PLT, None, 70),
    "iquestpltcoder-loop-gate-proj": (PLT | dict(plt_num_loops=3, plt_window_size=[3, 0], torch_dtype="bfloat16", plt_emb_scale=0.5,
                                                 plt_hidden_scale=0.5), "self_attn.loop_gate_proj.", 24),
    "iquestpltcoder-query": (PLT | dict(plt_window_size=[5, 0], plt_emb_scale=None, plt_hidden_scale=None, plt_normalize_per_loop=False,
                                        plt_gate_use_hidden_states=False), "gate_projections", 24),
    "iquestloopcoder": (LOOP, "gate_projections", 24),
    "ouro": (OURO, None, 24),
    "ouro-exit": (OURO | dict(early_exit_threshold=0.7), None, 24),
    "nanbeige": (NANBEIGE, None, 24),
    "nanbeige-skip-norm": (NANBEIGE | dict(skip_loop_final_norm=True, torch_dtype="bfloat16"), None, 24),
    "llama": (LLAMA, None, 24),
    "llama-biases-tied": ({k: v for k, v in LLAMA.items() if k not in ["head_dim", "num_key_value_heads"]}
                          | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_scaling=None), None, 24),
    "llama-linear": (LLAMA | dict(rope_scaling=dict(type="linear", factor=4.0)), None, 40),
    "llama-llama3": (LLAMA | dict(rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                    original_max_position_embeddings=32)), None, 40),
    "llama-yarn": (LLAMA | dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)), None, 40),
    "llama-yarn-factors": ({k: v for k, v in LLAMA.items() if k != "rope_theta"}
                           | dict(rope_parameters=dict(rope_type="yarn", rope_theta=5000.0, factor=8.0, original_max_position_embeddings=32,
                                                       beta_fast=8.0, beta_slow=2.0, mscale=1.0, mscale_all_dim=0.5, truncate=False)), None, 40),
    "mistral": (MISTRAL, None, 24),
    "qwen2": (QWEN2, None, 24),
    "qwen2-tied": (QWEN2 | dict(tie_word_embeddings=True, sliding_window=512, use_sliding_window=True, torch_dtype="bfloat16"), None, 24),
    "qwen3": (QWEN3, None, 24),
}


def their_names(w, spelling):
    """How a case spells the gate, from our names."""
    if spelling == "gate_projections":
        return {re.sub(r"model\.layers\.(\d+)\.self_attn\.plt_gate\.", r"model.gate_projections.\1.", k): v for k, v in w.items()}
    return {k.replace("self_attn.plt_gate.", spelling) if spelling else k: v for k, v in w.items()}


def write(out, only=""):
    for i, (name, (c, spelling, length)) in enumerate(CASES.items()):
        if not name.startswith(only):
            continue
        ours = FAMILIES[c["model_type"]](c)
        dtype = dict(float32=torch.float32, bfloat16=torch.bfloat16)[c["torch_dtype"]]
        w = {k: v.to(dtype) for k, v in their_names(random_weights(ours, 200 + i), spelling).items()}
        if name == "llama":
            f = frequencies(ours)[0].float()
            w |= {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": f.clone() for n in range(c["num_hidden_layers"])}
        ids = torch.randint(0, c["vocab_size"], (length,), generator=torch.Generator().manual_seed(i))
        mapped = {k: v.double() for k, v in our_names(w).items()}
        logits = forward(mapped, ours, ids)
        if not any(ours[k] for k in ["attention_bias", "mlp_bias", "sandwich", "rope_scaling", "qk_norms"]):
            assert (logits - ref.forward(mapped, ours, ids)[0]).abs().max() < 1e-10, "differs from looped_reference.py"
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(c, indent=1) + "\n")
        save_file({k: v.contiguous() for k, v in w.items()}, str(folder / "model.safetensors"))
        save_file({"ids": ids, "logits": logits.float()}, str(folder / "expected.safetensors"))
        print(f"{name:30} {len(w)} tensors, largest logit {logits.abs().max():.3f}")


def check(out):
    import transformers
    for folder in sorted(f for kind in ["llama", "mistral", "qwen"] for f in Path(out).glob(kind + "*")):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        expected = load_file(str(folder / "expected.safetensors"))
        with torch.no_grad():
            logits = model(expected["ids"][None]).logits[0]
        error = (logits - expected["logits"]).abs().max() / expected["logits"].abs().max()
        print(f"{folder.name:30} differs from transformers {transformers.__version__} by {error:.1e} of the largest logit")
        assert error < 1e-5


if __name__ == "__main__":
    dict(write=write, check=check)[sys.argv[1]](*sys.argv[2:])
