"""Held-out losses by hand, and shared out among ranks."""

import math

import pytest
import torch

from model import GPT, configure
from run import losses, ranks
from run.losses import Loss, held_out_loss


def small_model() -> GPT:
    torch.manual_seed(0)
    return GPT(configure("toy", 256, {"layers": 1, "context": 8}))


def test_held_out_loss_and_its_standard_error_by_hand():
    model = small_model().train()
    sequences = torch.randint(256, (1100, 9))                        # two forward passes
    log_p = model(sequences[:, :-1]).log_softmax(-1).gather(-1, sequences[:, 1:, None]).squeeze(-1)
    each = -log_p.mean(dim=1).double()
    loss = held_out_loss(model, sequences, "float32", "post")
    assert loss.mean == pytest.approx(each.mean().item(), rel=1e-6)
    assert loss.se == pytest.approx(each.std().item() / math.sqrt(1100), rel=1e-5)
    assert loss.corpus == "post"
    assert model.training


def test_loss_of_a_uniform_model_is_the_log_of_the_vocabulary():
    model = small_model()
    with torch.no_grad():
        model.norm.weight.zero_()
    sequences = torch.randint(256, (5, 9))
    assert held_out_loss(model, sequences, "float32").mean == pytest.approx(math.log(256))
    assert math.isnan(held_out_loss(model, sequences[:1], "float32").se)    # one sequence tells nothing of it


def test_a_loss_is_shown_with_its_standard_error():
    assert str(Loss(1.23456, 0.0049, "pre")) == "1.235 ± 0.005"


@pytest.mark.parametrize("sequences, world, passes", [(47, 3, 2), (47, 8, 1), (20, 2, 1), (3, 2, 1)])
def test_every_rank_makes_the_same_number_of_forward_passes(monkeypatch, sequences, world, passes):
    """Of 10 sequences each: 47 are five parts, and some ranks have one less than others, or none."""
    monkeypatch.setattr(losses, "TOKENS_AT_ONCE", 80)
    model, held_out = small_model(), torch.randint(256, (sequences, 9))
    sizes, shares = [], []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(ranks, "add_up", lambda values: shares.append(values.clone()))
    held_out_loss(model, held_out, "float32")
    (alone,) = shares

    # No rank sees another's part; what they bring adds up to what one rank alone finds, exactly.
    sizes.clear(), shares.clear()
    monkeypatch.setattr(ranks, "world", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank", lambda: rank)
        held_out_loss(model, held_out, "float32")
    assert len(sizes) == world * passes and min(sizes) > 0
    assert torch.equal(torch.stack(shares).sum(dim=0), alone)
    assert ((torch.stack(shares) > 0).sum(dim=0) == 1).all()
