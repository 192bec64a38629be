"""Ten AdamW steps on the golden plt2 in float64: the outside implementation that the Rust optimiser is held to.

    python adamw_steps.py            # writes adamw_steps.json beside this file

Weight decay on matrices only, gradient clipping by global norm, warm-up and cosine schedule. Every constant is in the
artefact. `torch.optim.AdamW` computes the step; the clipping is written out.
"""
import json, math
from pathlib import Path
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from looped_reference import forward

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "goldens" / "plt2"
CONSTANTS = dict(golden="plt2", steps=10, peak=3e-2, warmup=3, floor=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8,
                 weight_decay=0.1, clip=0.8)


def rate(step, c):
    """Learning rate of a step, counted from 1."""
    if step <= c["warmup"]:
        return c["peak"] * step / c["warmup"]
    done = (step - c["warmup"]) / (c["steps"] - c["warmup"])
    return c["peak"] * (c["floor"] + (1 - c["floor"]) * 0.5 * (1 + math.cos(math.pi * done)))


def main():
    c = CONSTANTS
    config = json.loads((GOLDEN / "config.json").read_text())
    w = {k: v.double().requires_grad_() for k, v in load_file(str(GOLDEN / "model.safetensors")).items()}
    ids = load_file(str(GOLDEN / "expected.safetensors"))["ids"]
    groups = [dict(params=[v for v in w.values() if v.dim() >= 2], weight_decay=c["weight_decay"]),
              dict(params=[v for v in w.values() if v.dim() < 2], weight_decay=0.0)]
    optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(c["beta1"], c["beta2"]), eps=c["epsilon"])
    losses, norms, rates = [], [], []
    for step in range(1, c["steps"] + 1):
        optimiser.zero_grad()
        loss = F.cross_entropy(forward(w, config, ids[:-1])[0], ids[1:])
        loss.backward()
        norm = math.sqrt(sum(v.grad.pow(2).sum().item() for v in w.values()))
        if norm > c["clip"]:
            for v in w.values():
                v.grad.mul_(c["clip"] / norm)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, c)
        optimiser.step()
        losses.append(loss.item()), norms.append(norm), rates.append(rate(step, c))
    final = F.cross_entropy(forward(w, config, ids[:-1])[0], ids[1:]).item()
    artefact = c | dict(ids=ids.tolist(), losses=losses, norms=norms, rates=rates, final_loss=final)
    (HERE / "adamw_steps.json").write_text(json.dumps(artefact, indent=1) + "\n")
    print(losses, final)


if __name__ == "__main__":
    main()
