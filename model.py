"""The GPT of the paper: SmolLM2's Llama architecture at four sizes, dropout, and LoRA.

Parameters carry Llama's names (`layers.0.self_attn.q_proj.weight`); Hugging Face puts `model.` before them.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    """What fixes the shapes of all weights."""
    layers: int
    width: int
    mlp: int                 # hidden units of the SwiGLU block
    heads: int
    kv_heads: int            # fewer than `heads`: each key/value head serves heads / kv_heads query heads
    context: int             # longest sequence, in tokens
    vocab_size: int
    tied: bool               # the output head shares the embedding matrix
    rope_base: float = 100_000.0
    norm_eps: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.width // self.heads


class GPT(nn.Module):
    """A decoder-only language model. New matrices are of N(0, 1/width), as SmolLM2-135M's 1/24 = 1/√576."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(0.0)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.rotary = RotaryEmbedding(config)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=self.initial_std)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Give logits (batch, time, vocab_size); with targets (batch, time) losses in nats, 0 at a -1."""
        x = self.dropout(self.embed_tokens(tokens))
        for block in self.layers:
            x = block(x, self.rotary)
        logits = self.lm_head(self.norm(x))
        if targets is None:
            return logits
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1,
                                 reduction="none")
        return losses.view_as(targets)

    def parameter_count(self) -> int:
        """Count the weights, a tied head once."""
        return sum(weight.numel() for weight in self.parameters())

    @property
    def initial_std(self) -> float:
        """Tell the standard deviation of new matrices."""
        return self.config.width ** -0.5

    @torch.no_grad()
    def generate(self, tokens: Tensor, count: int, n_vocab: int, temperature: float = 1.0,
                 generator: torch.Generator | None = None) -> Tensor:
        """Continue tokens (batch, time) by `count` sampled ones: (batch, time + count).

        Each is below `n_vocab`, for the padding stands for no text. The model sees at most the last `context`
        tokens. Temperature 0 takes the likeliest.
        """
        for _ in range(count):
            logits = self(tokens[:, -self.config.context:])[:, -1, :n_vocab].float()
            probabilities = F.softmax(logits / max(temperature, 1e-6), dim=-1)
            tokens = torch.cat((tokens, torch.multinomial(probabilities, 1, generator=generator)), dim=1)
        return tokens


class Block(nn.Module):
    """A layer: x (batch, time, width) plus attention, then plus MLP, each of its RMSNorm."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotary: nn.Module) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Causal grouped-query self-attention, without biases, as everywhere here."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.head_size = config.head_size
        self.grouped = config.kv_heads != config.heads
        self.q_proj = nn.Linear(config.width, config.heads * config.head_size, bias=False)
        self.k_proj = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.v_proj = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_size, config.width, bias=False)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, rotary: nn.Module) -> Tensor:
        q = self.by_head(self.q_proj(x))
        k = self.by_head(self.k_proj(x))
        v = self.by_head(self.v_proj(x))
        attention_dropout = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(rotary(q), rotary(k), v, dropout_p=attention_dropout,
                                           is_causal=True, enable_gqa=self.grouped)
        return self.dropout(self.o_proj(y.transpose(1, 2).flatten(-2)))

    def by_head(self, x: Tensor) -> Tensor:
        """Divide (batch, time, heads · head_size) into (batch, heads, time, head_size)."""
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp, bias=False)
        self.down_proj = nn.Linear(config.mlp, config.width, bias=False)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class RotaryEmbedding(nn.Module):
    """Rotary positions (Su et al. 2021), Llama's layout: dimensions i and i + head_size / 2 turn together."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        frequency = 1 / config.rope_base ** (torch.arange(0, config.head_size, 2) / config.head_size)
        angle = torch.outer(torch.arange(config.context), frequency)          # (context, head_size / 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn x of shape (batch, heads, time, head_size)."""
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        left, right = x.chunk(2, dim=-1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).type_as(x)


SIZES = {"layers": "transformer blocks", "width": "of the residual stream",
         "mlp": "hidden units of the SwiGLU", "heads": "of the queries",
         "kv_heads": "of keys and values, a divisor of --heads", "context": "tokens in a training sequence"}
PRESETS = {
    "toy": dict(layers=2, width=96, mlp=256, heads=3, kv_heads=1, context=128, tied=True),
    # SmolLM2's shape, smaller: 12.6M parameters, and 19.3M in the embedding of gpt2's vocabulary
    "30m": dict(layers=8, width=384, mlp=1024, heads=6, kv_heads=2, context=512, tied=True),
    # SmolLM2-135M: 134,515,008 parameters at its vocabulary of 49,152
    "135m": dict(layers=30, width=576, mlp=1536, heads=9, kv_heads=3, context=1024, tied=True),
    # the paper's 1B table: 1,029,917,376 parameters at 49,152, which only an untied head gives
    "1b": dict(layers=24, width=1728, mlp=4608, heads=27, kv_heads=27, context=1024, tied=False),
}


def configure(preset: str, vocab_size: int, sizes: dict[str, int | None] = {}) -> GPTConfig:
    """Make a preset's configuration, some of its SIZES replaced and `vocab_size` padded to a multiple of 64.

    Raises ValueError if the heads do not fit.
    """
    given = {name: size for name, size in sizes.items() if size}
    config = GPTConfig(**PRESETS[preset] | given, vocab_size=64 * math.ceil(vocab_size / 64))
    if config.width % (2 * config.heads) or config.heads % config.kv_heads:
        raise ValueError(f"width {config.width}, {config.heads} heads and {config.kv_heads} key/value heads "
                         "do not fit, heads must have an even whole size and be a multiple of --kv-heads")
    return config


def load_model(config: dict[str, object], weights: dict[str, Tensor]) -> GPT:
    """Rebuild a model of its weights, on the CPU; raises ValueError if they and the configuration differ."""
    # Shapes are compared before any memory is taken: a damaged configuration may ask for all there is.
    try:
        if config["layers"] > len(weights):
            raise ValueError(config["layers"])
        with torch.device("meta"):
            planned = GPT(GPTConfig(**config)).state_dict()
    except (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise ValueError("the configuration is not one of this program") from error

    # The first tensor that is on one side only is named.
    shapes = {(name, weight.shape) for name, weight in weights.items()}
    differing = shapes ^ {(name, weight.shape) for name, weight in planned.items()}
    if differing:
        raise ValueError("the weights do not have the shapes that the configuration says "
                         f"({min(differing)[0]} is the first)")
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise ValueError("the weights are not finite")

    # Now the memory is worth taking.
    model = GPT(GPTConfig(**config))
    model.load_state_dict(weights)
    return model


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set one rate in the paper's embedding, attention, residual and MLP (A.5).

    Where in each is our choice: the embedding, attention's weights, and the outputs of attention and MLP.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


class LoRALinear(nn.Module):
    """A frozen linear map and a trained one of rank r: W x + (α/r) B A x (Hu et al. 2021), B first zero."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.linear = linear
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def merged_weight(self) -> Tensor:
        """Compute the one matrix that does what both maps do, (out_features, in_features)."""
        return self.linear.weight + self.scale * self.lora_B @ self.lora_A


def lora_targets(model: GPT) -> list[tuple[nn.Module, str]]:
    """List (owner, attribute) of the maps the paper adapts: attention output, MLP and head; not Q, K, V."""
    targets = [(layer.self_attn, "o_proj") for layer in model.layers]
    for layer in model.layers:
        targets += [(layer.mlp, name) for name in ("gate_proj", "up_proj", "down_proj")]
    return [*targets, (model, "lm_head")]


def add_lora(model: GPT, rank: int = 64) -> None:
    """Freeze `model` and give it adapters to train instead, of α = 2r: r 64 and α 128 in the paper."""
    model.requires_grad_(False)
    for owner, name in lora_targets(model):
        setattr(owner, name, LoRALinear(getattr(owner, name), rank, alpha=2 * rank))


@torch.no_grad()
def merged(model: GPT) -> GPT:
    """Make a plain GPT that computes what the adapted `model` does.

    A head that was tied is untied: the adapter changed the head and not the embedding, which are two now.
    """
    weights = {name.replace(".linear.", "."): value for name, value in model.state_dict().items()}
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            weights[f"{path}.weight"] = module.merged_weight()
            del weights[f"{path}.lora_A"], weights[f"{path}.lora_B"]
    plain = GPT(replace(model.config, tied=False)).to(model.embed_tokens.weight.device)
    plain.load_state_dict(weights)
    return plain
