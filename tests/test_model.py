"""The model against an independent one, the paper's parameter counts, dropout, LoRA, checkpoints' weights."""

from dataclasses import asdict
from itertools import chain

import numpy as np
import pytest
import torch

from model import GPT, LoRALinear, add_lora, configure, load_model, merged, set_dropout

SMALL = {"layers": 2, "width": 48, "mlp": 80, "heads": 6, "kv_heads": 2, "context": 16}


def small_model(preset: str = "toy") -> GPT:
    torch.manual_seed(0)
    return GPT(configure(preset, 256, SMALL))


def llama_logits(weights: dict[str, np.ndarray], tokens: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Llama's forward pass for one sequence, (time,) → (time, vocabulary), by positions and heads."""
    def rms_norm(x, gain):
        return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-5) * gain

    def rotate(x, position):
        half = len(x) // 2
        turned = np.empty_like(x)
        for i in range(half):
            angle = position * 100_000.0 ** (-2 * i / len(x))
            turned[i] = x[i] * np.cos(angle) - x[i + half] * np.sin(angle)
            turned[i + half] = x[i + half] * np.cos(angle) + x[i] * np.sin(angle)
        return turned

    x = weights["embed_tokens.weight"][tokens]
    for layer in range(sum(name.endswith("q_proj.weight") for name in weights)):
        prefix = f"layers.{layer}."
        part = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        normed = rms_norm(x, part["input_layernorm.weight"])
        q, k, v = (normed @ part[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        size = q.shape[1] // heads
        mixed = np.zeros_like(q)
        for head in range(heads):
            group = head // (heads // kv_heads)
            keys = [rotate(k[t, group * size:(group + 1) * size], t) for t in range(len(x))]
            for t in range(len(x)):
                query = rotate(q[t, head * size:(head + 1) * size], t)
                scores = np.array([query @ keys[s] / np.sqrt(size) for s in range(t + 1)])
                scores = np.exp(scores - scores.max())
                values = v[:t + 1, group * size:(group + 1) * size]
                mixed[t, head * size:(head + 1) * size] = scores / scores.sum() @ values
        x = x + mixed @ part["self_attn.o_proj.weight"].T
        normed = rms_norm(x, part["post_attention_layernorm.weight"])
        gate = normed @ part["mlp.gate_proj.weight"].T
        hidden = gate / (1 + np.exp(-gate)) * (normed @ part["mlp.up_proj.weight"].T)
        x = x + hidden @ part["mlp.down_proj.weight"].T
    return rms_norm(x, weights["norm.weight"]) @ weights["lm_head.weight"].T


@pytest.mark.parametrize("preset", ["toy", "1b"])          # tied and untied
def test_forward_equals_an_independent_llama(preset):
    model = small_model(preset)
    with torch.no_grad():
        for gain in (weight for weight in model.parameters() if weight.dim() == 1):
            gain.uniform_(0.5, 1.5)                         # else a forgotten gain would go unseen
    weights = {name: weight.double().numpy() for name, weight in model.state_dict().items()}
    tokens = torch.randint(256, (3, 16))
    expected = [llama_logits(weights, row, SMALL["heads"], SMALL["kv_heads"]) for row in tokens.numpy()]
    np.testing.assert_allclose(model(tokens).detach().numpy(), np.stack(expected), atol=1e-5)


def test_losses_are_cross_entropies_and_minus_one_counts_nothing():
    model, tokens = small_model(), torch.randint(256, (2, 9))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[1, 3] = -1
    losses = model(inputs, targets)
    log_p = model(inputs).log_softmax(-1)
    torch.testing.assert_close(losses[0, 5], -log_p[0, 5, targets[0, 5]])
    assert losses[1, 3] == 0 and (losses > 0).sum() == 15


@pytest.mark.parametrize("preset, vocabulary, parameters, context", [
    ("135m", 49_152, 134_515_008, 1024), ("1b", 49_152, 1_029_917_376, 1024),       # the paper's
    ("30m", 50_257, 12_589_440 + 50_304 * 384, 512),
])
def test_parameter_counts_and_contexts(preset, vocabulary, parameters, context):
    with torch.device("meta"):
        model = GPT(configure(preset, vocabulary))
    assert (model.parameter_count(), model.config.context) == (parameters, context)


def test_vocabulary_is_padded_and_head_sizes_are_checked():
    assert configure("135m", 50_257).vocab_size == 50_304
    for sizes in ({"kv_heads": 2}, {"heads": 5}, {"heads": 32}):            # 96 / 32 is odd, without halves
        with pytest.raises(ValueError, match="do not fit"):
            configure("toy", 256, sizes)


def test_initial_weights_have_the_published_deviation():
    model = GPT(configure("135m", 256, {"layers": 1}))
    assert model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(1 / 24, rel=0.01)


def test_dropout_acts_at_four_places_in_training_only():
    model, tokens = small_model(), torch.randint(256, (1, 16))
    plain = model(tokens)
    set_dropout(model, 0.5)
    assert torch.equal(model.eval()(tokens), plain)
    model.train()
    in_layers = [(layer.self_attn.dropout, layer.mlp.dropout) for layer in model.layers]
    for place in (model.dropout, *chain.from_iterable(in_layers)):
        set_dropout(model, 0.0)
        place.p = 0.5
        assert not torch.equal(model(tokens), plain)
    set_dropout(model, 0.0)
    seen: list[torch.Tensor] = []
    for layer in model.layers:                              # attention weights have a mask of their own
        layer.self_attn.dropout.p = 0.5
        layer.self_attn.o_proj.register_forward_hook(lambda module, args, _: seen.append(args[0].detach()))
    model(tokens), model(tokens)
    assert not torch.equal(seen[0], seen[2])


def test_generate_continues_beyond_the_context():
    model = small_model().eval()
    prompt = torch.tensor([[1, 2, 3]])
    tokens, again = (model.generate(prompt, 20, 200, generator=torch.Generator().manual_seed(1))
                     for _ in range(2))
    assert tokens.shape == (1, 23) and torch.equal(tokens[:, :3], prompt) and torch.equal(tokens, again)
    assert model.generate(prompt, 500, 9).max() < 9            # tokens beyond the tokenizer's are never drawn
    likeliest = model.generate(prompt, 30, 256, temperature=0.0)
    for end in (3, 32):                                         # within the context of 16, and beyond
        assert model(likeliest[:, max(0, end - 16):end])[0, -1].argmax() == likeliest[0, end]


def test_lora_trains_adapters_on_the_papers_maps_only():
    model = small_model()
    plain = model(torch.arange(16)[None])
    add_lora(model)
    torch.testing.assert_close(model(torch.arange(16)[None]), plain)            # B starts at zero
    adapted = [path for path, module in model.named_modules() if isinstance(module, LoRALinear)]
    names = {path.split(".")[-1] for path in adapted}
    assert names == {"o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in trained) and len(trained) == 2 * (2 * 4 + 1)
    assert trained["lm_head.lora_A"].shape == (64, 48) and model.lm_head.scale == 2.0
    spread = trained["lm_head.lora_A"].std().item()
    assert spread == pytest.approx((3 * 48) ** -0.5, rel=0.05)                  # uniform between ±1/√48

    # Of another rank they are as strong: α is twice the rank.
    model = small_model()
    add_lora(model, rank=8)
    assert model.lm_head.lora_A.shape == (8, 48) and model.lm_head.scale == 2.0


@pytest.mark.parametrize("preset", ["toy", "1b"])
def test_merged_lora_computes_the_same_and_unties_the_head(preset):
    model, tokens = small_model(preset), torch.randint(256, (2, 16))
    embedding = model.embed_tokens.weight.detach().clone()
    add_lora(model)
    with torch.no_grad():
        for module in (module for module in model.modules() if isinstance(module, LoRALinear)):
            module.lora_B.normal_(std=0.1)
    plain = merged(model)
    torch.testing.assert_close(plain(tokens), model(tokens), atol=1e-5, rtol=1e-5)
    assert torch.equal(plain.embed_tokens.weight, embedding)
    assert not plain.config.tied and not torch.equal(plain.lm_head.weight, embedding)
    assert all(weight.requires_grad for weight in plain.parameters())


def test_a_model_is_rebuilt_from_its_configuration_and_from_no_other():
    model, tokens = small_model(), torch.arange(16)[None]
    config, weights = asdict(model.config), model.state_dict()
    assert torch.equal(load_model(config, weights)(tokens), model(tokens))
    assert weights.keys() == dict(model.named_parameters(remove_duplicate=False)).keys()    # and nothing else
    fewer = {name: weight for name, weight in weights.items() if name != "norm.weight"}
    for wrong in ((config | {"width": 96}, weights), (config | {"depth": 2}, weights), (config, fewer)):
        with pytest.raises(ValueError, match="configuration"):
            load_model(*wrong)
