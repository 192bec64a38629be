"""The diagnostics of `parloop diagnose` by numpy in float64: an own forward pass, its states, gates and attention.

    python diagnose.py ../goldens > diagnose.json        # needs numpy only
"""
import json, struct, sys
from pathlib import Path
import numpy as np

TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


def tensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = data[8 + size :]
    return {
        name: np.frombuffer(body[slice(*t["data_offsets"])], TYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
    }


def norm(x, w, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def turn(x, theta):  # [T, heads, D]
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def weights_of(q, k, left=None):  # [H, T, T]
    T = len(q)
    scores = np.einsum("qhd,khd->hqk", q, np.repeat(k, q.shape[1] // k.shape[1], 1)) / np.sqrt(q.shape[-1])
    i, j = np.arange(T)[:, None], np.arange(T)[None]
    seen = (j <= i) & ((j >= i - left) if left is not None else True)
    return softmax(np.where(seen, scores, -np.inf))


def mix(weights, v):
    return np.einsum("hqk,khd->qhd", weights, np.repeat(v, len(weights) // v.shape[1], 1))


def forward(c, w, ids):
    loop, eps, theta = c["loop"], c["rms_norm_eps"], c.get("rope_theta", 10000.0)
    H, G, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    E = w["model.embed_tokens.weight"][ids]
    x, states, first, gates, seen = E, [], {}, {}, {}
    for r in range(loop["count"]):
        if r > 0:
            h = states[-1] if loop["norm"] else x
            if loop["shift"]:
                h = np.concatenate([np.zeros_like(h[:1]), h[:-1]])
            x = loop["hidden_scale"] * h
            if loop["embedding_scale"] is not None:
                x = x + loop["embedding_scale"] * E
        for n in range(c["num_hidden_layers"]):
            p = f"model.layers.{n}."
            u = norm(x, w[p + "input_layernorm.weight"], eps)
            heads = lambda name, count: (u @ w[p + f"self_attn.{name}.weight"].T).reshape(len(x), count, D)
            q, k, v = turn(heads("q_proj", H), theta), turn(heads("k_proj", G), theta), heads("v_proj", G)
            if r == 0:
                first[n] = (k, v)
            shared = r > 0 and loop["kv"] == "shared"
            K, V = first[n] if shared else (k, v)
            seen[r, n] = weights_of(q, K)
            y = mix(seen[r, n], V)
            if shared and loop["local"]:
                name = p + "self_attn.plt_gate."
                g = norm(x, w[name + "gate_norm.weight"], eps) @ w[name + "weight"].T + w[name + "bias"]
                gates[r, n] = 1 / (1 + np.exp(-g))
                near = mix(weights_of(q, k, loop["local"]["left"]), v)
                y = gates[r, n][..., None] * y + (1 - gates[r, n][..., None]) * near
            x = x + y.reshape(len(x), -1) @ w[p + "self_attn.o_proj.weight"].T
            u = norm(x, w[p + "post_attention_layernorm.weight"], eps)
            a = u @ w[p + "mlp.gate_proj.weight"].T
            x = x + (a / (1 + np.exp(-a)) * (u @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
        states.append(norm(x, w["model.norm.weight"], eps))
    return states, gates, seen


def diagnose(folder):
    c = json.loads((folder / "config.json").read_text())
    w = {k: v.astype(np.float64) for k, v in tensors(folder / "model.safetensors").items()}
    expected = tensors(folder / "expected.safetensors")
    ids = expected["ids"]
    states, gates, seen = forward(c, w, ids)
    R, N, H = len(states), c["num_hidden_layers"], c["num_attention_heads"]
    assert np.abs(np.stack(states) - expected["states"].reshape(np.stack(states).shape)).max() < 1e-3
    head = w["model.embed_tokens.weight"] if c.get("tie_word_embeddings") else w["lm_head.weight"]
    length = lambda x: np.linalg.norm(x, axis=-1)
    loops = []
    for r, s in enumerate(states):
        sigma = np.linalg.svd(s, compute_uv=False)
        share = sigma / sigma.sum()
        P = softmax(s[:-1] @ head.T)
        true = P[np.arange(len(P)), ids[1:]]
        one = {
            "r": r + 1,
            "norm": length(s).mean(),
            "effective_rank": np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()),
            "entropy": -(P * np.log(P)).sum(-1).mean(),
            "loss": -np.log(true).mean(),
            "rank": 1 + (P > true[:, None]).sum(-1).mean(),
            "top": (P.argmax(-1) == ids[1:]).mean(),
        }
        if r > 0:
            before = states[r - 1]
            Q = softmax(before[:-1] @ head.T)
            one["step"] = length(s - before).mean()
            one["offset"] = length(before[1:] - before[:-1]).mean()
            one["offset_share"] = one["offset"] / length(before).mean()
            one["shift"] = (P * np.log(P / Q)).sum(-1).mean()
        if r > 1:
            u, v = s - states[r - 1], states[r - 1] - states[r - 2]
            # At the first token a shifted loop has nothing to take, so loops 2 and later do the same there.
            moves = length(u) * length(v) > 1e-12
            one["alignment"] = ((u * v).sum(-1)[moves] / (length(u) * length(v))[moves]).mean()
        loops.append(one)
    away = lambda a, b: 0.5 * np.abs(a - b).sum(-1).mean()
    entropy = lambda a: -(a * np.log(np.where(a > 0, a, 1))).sum(-1).mean()
    pairs = [(a, b) for a in range(H) for b in range(a)]
    attention = {
        "gate": [[[gates[r, n][:, h].mean() if (r, n) in gates else None for h in range(H)] for n in range(N)] for r in range(R)],
        "entropy": [[[entropy(seen[r, n][h]) for h in range(H)] for n in range(N)] for r in range(R)],
        "rerouting": [[[away(seen[r, n][h], seen[0, n][h]) for h in range(H)] for n in range(N)] for r in range(R)],
        "diversity": [[np.mean([away(seen[r, n][a], seen[r, n][b]) for a, b in pairs]) for n in range(N)] for r in range(R)],
    }
    return {"loops": loops, "attention": attention}


root = Path(sys.argv[1])
print(json.dumps({name: diagnose(root / name) for name in ["plt3", "loop2"]}, indent=1))
