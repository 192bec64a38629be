"""Slow, obvious PyTorch reference for every looped-transformer recipe in docs/model.md.

Run in float64. One function per idea; no caches; no cleverness. It is the arbiter when two
implementations disagree, and it writes the golden folders under ../goldens.

    python looped_reference.py write ../goldens      # (re)create the goldens
    python looped_reference.py check MODEL_DIR IDS   # logits of a checkpoint folder as JSON
"""
import json, math, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rope(x, positions, theta):
    """x: [T, heads, D], half-split (NeoX) rotation, same position in every loop."""
    half = x.shape[-1] // 2
    freq = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = positions.to(x.dtype)[:, None, None] * freq
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, k, v, left=None):
    """Causal softmax attention with grouped heads. left=None: all past keys; else keys t-left..t."""
    T, H, D = q.shape
    k = k.repeat_interleave(H // k.shape[1], 1)
    v = v.repeat_interleave(H // v.shape[1], 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(D)
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    allowed = j <= i
    if left is not None:
        allowed &= j >= i - left
    scores = scores.masked_fill(~allowed, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def forward(w, c, ids):
    """Logits [T, V] of the last loop, and the normed hidden state after every loop [R, T, d]."""
    loop, eps, theta = c["loop"], c["rms_norm_eps"], c["rope_theta"]
    H, G, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    embedding = w["model.embed_tokens.weight"][ids]
    positions = torch.arange(len(ids))
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
            u = rms_norm(x, w[p + "input_layernorm.weight"], eps)
            q = (u @ w[p + "self_attn.q_proj.weight"].T).view(-1, H, D)
            k = (u @ w[p + "self_attn.k_proj.weight"].T).view(-1, G, D)
            v = (u @ w[p + "self_attn.v_proj.weight"].T).view(-1, G, D)
            q, k = rope(q, positions, theta), rope(k, positions, theta)
            if r == 0 or loop["kv"] == "per_loop":
                y = attend(q, k, v)
                if r == 0:
                    shared[n] = (k, v)
            else:
                y = attend(q, *shared[n])
                if loop["local"] is not None:
                    g = p + "self_attn.plt_gate."
                    if loop["local"]["gate"] == "hidden":
                        gate = rms_norm(x, w[g + "gate_norm.weight"], eps) @ w[g + "weight"].T
                    else:  # "query": one D-vector per head against the post-RoPE query
                        gate = torch.einsum("thd,hd->th", q, w[g + "weight"])
                    gate = torch.sigmoid(gate + w[g + "bias"])[..., None]
                    y = gate * y + (1 - gate) * attend(q, k, v, loop["local"]["left"])
            x = x + y.reshape(len(ids), -1) @ w[p + "self_attn.o_proj.weight"].T
            u = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
            up = F.silu(u @ w[p + "mlp.gate_proj.weight"].T) * (u @ w[p + "mlp.up_proj.weight"].T)
            x = x + up @ w[p + "mlp.down_proj.weight"].T
        states.append(rms_norm(x, w["model.norm.weight"], eps))
    head = w["model.embed_tokens.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    return states[-1] @ head.T, torch.stack(states)


def random_weights(c, seed):
    g = torch.Generator().manual_seed(seed)
    d, ff, V = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    H, G, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    mat = lambda o, i: torch.randn(o, i, generator=g, dtype=torch.float64) / math.sqrt(i)
    vec = lambda n: 1 + 0.1 * torch.randn(n, generator=g, dtype=torch.float64)
    w = {"model.embed_tokens.weight": torch.randn(V, d, generator=g, dtype=torch.float64), "model.norm.weight": vec(d)}
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = mat(V, d)
    for n in range(c["num_hidden_layers"]):
        p = f"model.layers.{n}."
        w |= {p + "input_layernorm.weight": vec(d), p + "post_attention_layernorm.weight": vec(d),
              p + "self_attn.q_proj.weight": mat(H * D, d), p + "self_attn.k_proj.weight": mat(G * D, d),
              p + "self_attn.v_proj.weight": mat(G * D, d), p + "self_attn.o_proj.weight": mat(d, H * D),
              p + "mlp.gate_proj.weight": mat(ff, d), p + "mlp.up_proj.weight": mat(ff, d), p + "mlp.down_proj.weight": mat(d, ff)}
        if c["loop"]["local"] is not None:
            hidden = c["loop"]["local"]["gate"] == "hidden"
            w[p + "self_attn.plt_gate.weight"] = mat(H, d) if hidden else mat(H, D)
            w[p + "self_attn.plt_gate.bias"] = torch.randn(H, generator=g, dtype=torch.float64)
            if hidden:
                w[p + "self_attn.plt_gate.gate_norm.weight"] = vec(d)
    return {k: v.float().double() for k, v in w.items()}  # exactly representable in f32


BASE = dict(model_type="parloop", architectures=["ParloopForCausalLM"], vocab_size=61, hidden_size=24, intermediate_size=40,
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, rope_theta=10000.0,
            max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float32", hidden_act="silu")
PLT = dict(count=2, shift=True, embedding_scale=1.0, hidden_scale=1.0, norm=True, kv="shared", local=dict(left=3, gate="hidden"))
RECIPES = {
    "vanilla": PLT | dict(count=1, local=None, kv="per_loop"),
    "loop2": PLT | dict(shift=False, embedding_scale=None, norm=False, kv="per_loop", local=None),
    "loop2-clp": PLT | dict(kv="per_loop", local=None),
    "loop2-clp-share": PLT | dict(local=None),
    "plt2": PLT,
    "plt3": PLT | dict(count=3, embedding_scale=0.707, hidden_scale=0.053),
    "plt2-query-gate": PLT | dict(local=dict(left=3, gate="query")),
    "loop2-share-gswa": PLT | dict(shift=False, embedding_scale=None, norm=False, local=dict(left=3, gate="query")),
}


def save(folder, c, w, ids, logits, states):
    """Writes a golden; gives its loss."""
    loss = F.cross_entropy(logits[:-1], ids[1:])
    loss.backward()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c, indent=1) + "\n")
    save_file({k: v.detach().float().contiguous() for k, v in w.items()}, str(folder / "model.safetensors"))
    grads = {k: v.grad if v.grad is not None else torch.zeros_like(v) for k, v in w.items()}
    save_file({"ids": ids, "logits": logits.detach().float(), "states": states.detach().float(), "loss": loss.detach().float().reshape(1)}
              | {"grad." + k: g.float().contiguous() for k, g in grads.items()}, str(folder / "expected.safetensors"))
    return loss


def write(out):
    for i, (name, loop) in enumerate(RECIPES.items()):
        c = BASE | dict(loop=loop, tie_word_embeddings=name == "plt3")
        w = random_weights(c, seed=100 + i)
        ids = torch.randint(0, c["vocab_size"], (20,), generator=torch.Generator().manual_seed(i))
        w = {k: v.requires_grad_() for k, v in w.items()}
        logits, states = forward(w, c, ids)
        loss = save(Path(out) / name, c, w, ids, logits, states)
        print(f"{name:18} loss {loss.item():.6f}")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        folder = Path(sys.argv[2])
        c = json.loads((folder / "config.json").read_text())
        w = {k: v.double() for k, v in load_file(str(folder / "model.safetensors")).items()}
        ids = torch.tensor([int(t) for t in sys.argv[3].split(",")])
        print(json.dumps({"logits": forward(w, c, ids)[0].tolist()}))
