"""Muon's update, in the type that the machine multiplies fastest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from understudy.students.optimizer import MuonAdamW, orthogonal


class _Layers(nn.Module):
    """One matrix of each orientation, an embedding and a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(40, 32)
        self.wide = nn.Linear(32, 96, bias=False)
        self.tall = nn.Linear(96, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.tall(self.wide(self.embed_tokens(tokens))).square().mean()


def _trained(steps: int, **given: torch.dtype) -> tuple[_Layers, MuonAdamW]:
    model = _Layers()
    optimizer = MuonAdamW(model, 1e-3, 0.05, **given)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.arange(step, step + 16) % 40).backward()
        optimizer.step()
    return model, optimizer


def test_in_bfloat16_a_step_is_the_librarys_own():
    model, optimizer = _trained(3, dtype=torch.bfloat16)
    theirs = _Layers()
    matrices = [theirs.wide.weight, theirs.tall.weight]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.05, momentum=0.95)
    rest = torch.optim.AdamW(
        [{"params": [theirs.embed_tokens.weight], "weight_decay": 0.05}, {"params": [theirs.tall.bias]}],
        lr=1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    for step in range(3):
        muon.zero_grad()
        rest.zero_grad()
        theirs(torch.arange(step, step + 16) % 40).backward()
        muon.step()
        rest.step()

    for ours, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(ours, other, atol=1e-6)
    assert optimizer.param_groups[0]["lr"] == 1e-2


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (48, 48)])
def test_an_update_has_singular_values_near_one(shape: tuple[int, int]):
    torch.manual_seed(1)
    settings = torch.optim.Muon([nn.Parameter(torch.zeros(2, 2))]).param_groups[0]

    update = orthogonal(torch.randn(shape), settings)

    values = torch.linalg.svdvals(update)
    assert update.shape == shape
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_float32_and_bfloat16_go_the_same_way():
    one, _ = _trained(5, dtype=torch.float32)
    other, _ = _trained(5, dtype=torch.bfloat16)

    moved = [
        (a - c, b - c) for a, b, c in zip(one.parameters(), other.parameters(), _Layers().parameters(), strict=True)
    ]
    for a, b in moved:
        assert nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99


def test_matrices_in_one_tensor_are_updated_as_if_each_were_alone():
    torch.manual_seed(2)
    together, apart = nn.Module(), nn.Module()
    start = torch.randn(3, 24, 40)
    together.experts = nn.Parameter(start.clone())
    together.router = nn.Linear(4, 3, bias=False)  # torch's optimizer wants a matrix
    apart.experts = nn.ParameterList([nn.Parameter(one.clone()) for one in start])
    optimizers = [MuonAdamW(module, 1e-3, 0.05) for module in (together, apart)]
    for step in range(3):
        gradient = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(step))
        together.experts.grad = gradient.clone()
        for one, part in zip(apart.experts, gradient, strict=True):
            one.grad = part.clone()
        for optimizer in optimizers:
            optimizer.step()

    assert torch.allclose(together.experts, torch.stack(list(apart.experts)), atol=1e-6)
    again = MuonAdamW(together, 1e-3, 0.05)
    again.load_state_dict(optimizers[0].state_dict())
    assert again.param_groups[1]["params"] == [together.experts]
