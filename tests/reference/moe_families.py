"""Tiny random mixtures of experts, written by Hugging Face's own classes, and the logits that these compute.

    python moe_families.py write ../families           # (re)create the folders
    python moe_families.py write ../families qwen3     # only those whose names begin so

Nothing of the project takes part: configuration, tensors and logits (float64) are the library's. Weights are large
enough that experts matter; a case is taken only if small changes of its embeddings change its logits little, so that no
choice of experts is near another one. Needs torch and transformers 5.
"""
import json, sys
from pathlib import Path
import torch
import transformers
from safetensors.torch import save_file

SIZES = dict(vocab_size=48, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             hidden_act="silu", tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
DEEPSEEK = dict(intermediate_size=40, moe_intermediate_size=16, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=2, n_group=4,
                topk_group=2, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.5)
CASES = {
    "mixtral": ("Mixtral", dict(intermediate_size=16, num_local_experts=6, num_experts_per_tok=2, head_dim=16, sliding_window=None)),
    "qwen2_moe": ("Qwen2Moe", dict(intermediate_size=40, moe_intermediate_size=16, shared_expert_intermediate_size=24, num_experts=8,
                                   num_experts_per_tok=3, norm_topk_prob=False)),
    "qwen2_moe-step": ("Qwen2Moe", dict(intermediate_size=40, moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts=6,
                                        num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=2, num_hidden_layers=3)),
    "qwen3_moe": ("Qwen3Moe", dict(intermediate_size=40, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True,
                                   head_dim=16, rms_norm_eps=1e-6)),
    "olmoe": ("Olmoe", dict(intermediate_size=16, num_experts=8, num_experts_per_tok=4, norm_topk_prob=False, num_key_value_heads=4)),
    "olmoe-grouped": ("Olmoe", dict(intermediate_size=16, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True)),
    "granitemoe": ("GraniteMoe", dict(intermediate_size=16, num_local_experts=6, num_experts_per_tok=2, tie_word_embeddings=True,
                                      embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=2.0)),
    "dots1": ("Dots1", DEEPSEEK | dict(head_dim=16, sliding_window=None)),
    "glm4_moe": ("Glm4Moe", DEEPSEEK | dict(head_dim=16, use_qk_norm=True, attention_bias=True, num_nextn_predict_layers=0)),
}


def model(name, seed):
    kind, keys = CASES[name]
    torch.manual_seed(seed)
    config = getattr(transformers, kind + "Config")(**(SIZES | keys))
    made = getattr(transformers, kind + "ForCausalLM")._from_config(config, attn_implementation="eager", experts_implementation="eager").double()
    for key, tensor in list(made.named_parameters()) + list(made.named_buffers()):
        if key.endswith("inv_freq"):
            continue
        with torch.no_grad():
            if key.endswith("norm.weight") or "layernorm" in key:
                tensor.copy_(1 + 0.2 * torch.randn_like(tensor))
            elif key.endswith("bias"):
                tensor.copy_(0.3 * torch.randn_like(tensor))
            elif "embed_tokens" in key:
                tensor.copy_(torch.randn_like(tensor))
            else:
                tensor.copy_(torch.randn_like(tensor) * tensor.shape[-1] ** -0.5)
            tensor.copy_(tensor.float())
    return made.eval()


def logits(made, ids):
    with torch.no_grad():
        return made(ids[None]).logits[0]


def steady(made, ids):
    """Whether small changes of the embeddings change the logits little."""
    weight, expected = made.get_input_embeddings().weight, logits(made, ids)
    with torch.no_grad():
        kept = weight.clone()
        worst = 0.0
        for _ in range(8):
            weight.copy_(kept * (1 + 1e-4 * torch.randn_like(kept)))
            worst = max(worst, ((logits(made, ids) - expected).abs().max() / expected.abs().max()).item())
        weight.copy_(kept)
    return worst < 3e-3


def write(out, only=""):
    for i, name in enumerate(CASES):
        if not name.startswith(only):
            continue
        for seed in range(100 * i, 100 * i + 100):
            made = model(name, seed)
            ids = torch.randint(0, SIZES["vocab_size"], (24,), generator=torch.Generator().manual_seed(seed))
            if steady(made, ids):
                break
        else:
            raise SystemExit(f"{name}: no steady case")
        folder = Path(out) / name
        expected = logits(made, ids)
        made.float().save_pretrained(folder, safe_serialization=True)
        (folder / "generation_config.json").unlink(missing_ok=True)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file({"ids": ids, "logits": expected.float()}, str(folder / "expected.safetensors"))
        print(f"{name:16} seed {seed}, largest logit {expected.abs().max():.3f}, transformers {transformers.__version__}")


if __name__ == "__main__":
    dict(write=write)[sys.argv[1]](*sys.argv[2:])
