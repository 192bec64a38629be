"""Goldens of mixtures of experts: looped_reference.py with a router in the place of the feed-forward.

    python experts.py write ../goldens      # (re)create the folders whose names begin with moe

Written from docs/model.md, one token and one expert at a time; float64, no caches. Nothing of it is shared with the
project's own routing. A seed is taken only if no choice is closer than 1e-3 to another one, so that rounding cannot
change it.
"""
import math, sys
from pathlib import Path
import torch
import torch.nn.functional as F
import looped_reference as ref


def choice(scores, bias, moe):
    """The experts of one token, in ascending order, and how far the choice is from another."""
    values = scores if bias is None else scores + bias
    margin, groups = math.inf, moe["groups"]
    if groups:
        size = moe["experts"] // groups["count"]
        worth = [sum(sorted(values[g * size:(g + 1) * size].tolist())[-2:]) for g in range(groups["count"])]
        order = sorted(range(groups["count"]), key=lambda g: -worth[g])
        kept = order[:groups["keep"]]
        if groups["keep"] < groups["count"]:
            margin = worth[kept[-1]] - worth[order[groups["keep"]]]
        allowed = [e for e in range(moe["experts"]) if e // size in kept]
    else:
        allowed = list(range(moe["experts"]))
    allowed.sort(key=lambda e: -values[e].item())
    k = moe["top_k"]
    if k < len(allowed):
        margin = min(margin, (values[allowed[k - 1]] - values[allowed[k]]).item())
    return sorted(allowed[:k]), margin


def swiglu(w, name, x):
    return (F.silu(x @ w[name + "gate_proj.weight"].T) * (x @ w[name + "up_proj.weight"].T)) @ w[name + "down_proj.weight"].T


def mixture(w, p, moe, u, given):
    """[T, d] to [T, d], the experts of each token, and the least margin."""
    logits = u @ w[p + "mlp.gate.weight"].T
    scores = logits.softmax(-1) if moe["score"] == "softmax" else logits.sigmoid()
    bias = w[p + "mlp.gate.e_score_correction_bias"].detach() if moe["choice_bias"] else None
    rows, chosen, least = [], [], math.inf
    for t in range(len(u)):
        if given is None:
            experts, margin = choice(scores[t].detach(), bias, moe)
            least = min(least, margin)
        else:
            experts = given[t]
        weights = scores[t][experts]
        if moe["normalize"]:
            weights = weights / weights.sum()
        rows.append(sum(moe["scale"] * g * swiglu(w, f"{p}mlp.experts.{e}.", u[t]) for g, e in zip(weights, experts)))
        chosen.append(experts)
    y = torch.stack(rows)
    if moe["shared"]:
        shared = swiglu(w, p + "mlp.shared_expert.", u)
        if moe["shared"]["gate"]:
            shared = shared * (u @ w[p + "mlp.shared_expert_gate.weight"].T).sigmoid()
        y = y + shared
    return y, chosen, least


def forward(w, c, ids):
    """Logits, states and the least margin of all choices."""
    loop, moe, eps, theta = c["loop"], c["moe"], c["rms_norm_eps"], c["rope_theta"]
    H, G, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    embedding, positions = w["model.embed_tokens.weight"][ids], torch.arange(len(ids))
    keys, first, states, x, least = {}, {}, [], embedding, math.inf
    for r in range(loop["count"]):
        if r > 0:
            h = states[-1] if loop["norm"] else x
            if loop["shift"]:
                h = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
            x = loop["hidden_scale"] * h + (0 if loop["embedding_scale"] is None else loop["embedding_scale"] * embedding)
        for n in range(c["num_hidden_layers"]):
            p = f"model.layers.{n}."
            u = ref.rms_norm(x, w[p + "input_layernorm.weight"], eps)
            project = lambda name, heads: (u @ w[f"{p}self_attn.{name}_proj.weight"].T).view(-1, heads, D)
            q, k, v = ref.rope(project("q", H), positions, theta), ref.rope(project("k", G), positions, theta), project("v", G)
            if r == 0 or loop["kv"] == "per_loop":
                y = ref.attend(q, k, v)
                keys.setdefault(n, (k, v))
            else:
                y = ref.attend(q, *keys[n])
                if loop["local"]:
                    g = p + "self_attn.plt_gate."
                    gate = (ref.rms_norm(x, w[g + "gate_norm.weight"], eps) @ w[g + "weight"].T + w[g + "bias"]).sigmoid()[..., None]
                    y = gate * y + (1 - gate) * ref.attend(q, k, v, loop["local"]["left"])
            x = x + y.reshape(len(ids), -1) @ w[p + "self_attn.o_proj.weight"].T
            u = ref.rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
            if n in moe["dense_layers"]:
                y = swiglu(w, p + "mlp.", u)
            else:
                # The same token in the same layer of loop 1.
                given = first[n] if r > 0 and loop.get("experts") == "shared" else None
                y, chosen, margin = mixture(w, p, moe, u, given)
                first.setdefault(n, chosen)
                least = min(least, margin)
            x = x + y
        states.append(ref.rms_norm(x, w["model.norm.weight"], eps))
    return states[-1] @ w["lm_head.weight"].T, torch.stack(states), least


def random_weights(c, seed):
    w = ref.random_weights(c, seed)
    moe, d = c["moe"], c["hidden_size"]
    g = torch.Generator().manual_seed(5000 + seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    for n in range(c["num_hidden_layers"]):
        if n in moe["dense_layers"]:
            continue
        p = f"model.layers.{n}.mlp."
        for name in ["gate", "up", "down"]:
            del w[f"{p}{name}_proj.weight"]

        def expert(name, width):
            for part, shape in [("gate", (width, d)), ("up", (width, d)), ("down", (d, width))]:
                w[f"{p}{name}.{part}_proj.weight"] = normal(*shape) / math.sqrt(shape[1])
        w[p + "gate.weight"] = normal(moe["experts"], d) / math.sqrt(d)
        if moe["choice_bias"]:
            w[p + "gate.e_score_correction_bias"] = 0.3 * normal(moe["experts"])
        for e in range(moe["experts"]):
            expert(f"experts.{e}", moe["width"])
        if moe["shared"]:
            expert("shared_expert", moe["shared"]["width"])
            if moe["shared"]["gate"]:
                w[p + "shared_expert_gate.weight"] = normal(1, d) / math.sqrt(d)
    return {k: v.float().double() for k, v in w.items()}


BASE = ref.BASE | dict(num_hidden_layers=2)
MOE = dict(experts=6, top_k=2, width=10, score="softmax", normalize=True, scale=1.0, choice_bias=False, groups=None, shared=None, dense_layers=[])
DEEPSEEK = MOE | dict(score="sigmoid", scale=1.5, choice_bias=True, groups=dict(count=3, keep=2), shared=dict(width=12, gate=False))
SHARED = dict(experts="shared")
PLT, LOOP, PLT3 = ref.RECIPES["plt2"], ref.RECIPES["loop2"], ref.RECIPES["plt3"]
CASES = {
    "moe-vanilla": (ref.RECIPES["vanilla"], MOE),
    "moe-loop2": (LOOP, MOE | dict(normalize=False)),
    "moe-loop2-shared": (LOOP | SHARED, MOE | dict(top_k=3)),
    "moe-plt2": (PLT, MOE | dict(shared=dict(width=10, gate=True))),
    "moe-plt2-shared": (PLT | SHARED, MOE | dict(shared=dict(width=7, gate=True), dense_layers=[0])),
    "moe-plt3": (PLT3, DEEPSEEK),
    "moe-plt3-shared": (PLT3 | SHARED, DEEPSEEK | dict(normalize=False)),
}


def write(out):
    for i, (name, (loop, moe)) in enumerate(CASES.items()):
        c = BASE | dict(loop=loop, moe=moe)
        for seed in range(300 + 50 * i, 350 + 50 * i):
            w = {k: v.requires_grad_() for k, v in random_weights(c, seed).items()}
            ids = torch.randint(0, c["vocab_size"], (20,), generator=torch.Generator().manual_seed(seed))
            logits, states, margin = forward(w, c, ids)
            if margin > 1e-3:
                break
        assert margin > 1e-3, name
        loss = ref.save(Path(out) / name, c, w, ids, logits, states)
        print(f"{name:18} seed {seed}, loss {loss.item():.6f}, least margin {margin:.1e}")


if __name__ == "__main__":
    dict(write=write)[sys.argv[1]](*sys.argv[2:])
