"""A Hugging Face folder of a Llama: read as a GPT of this repository, and written of a finished run."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from tiktoken import Encoding

from data.corpora import tokenizer_of
from data.tokenizer_json import END_OF_TEXT
from data.tokenizers import end_of_text
from hf.card import model_card
from hf.tokenizer import tokenizer_json
from model import GPT, GPTConfig, load_model
from run.checkpoint import checkpoint_path, read_checkpoint
from run.files import UserError, atomic, make_folder, refusing, write_json

NAMES = {  # config.json's → GPTConfig's
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "intermediate_size": "mlp",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "max_position_embeddings": "context",
    "vocab_size": "vocab_size",
    "tie_word_embeddings": "tied",
    "rope_theta": "rope_base",
    "rms_norm_eps": "norm_eps",
}
PLAIN = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
UNSAID = {"tie_word_embeddings": False, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6}    # Llama's defaults
# A chat as data/sources.py joins it: who, a colon and what is said, a line each, and the end of a document.
# What is said may also be a list of parts, each with its text.
CHAT = ("{% for message in messages %}{{ '' if loop.first else '\n' }}{% set said = message['content'] %}"
        "{% if said is not string %}{% set said = said | map(attribute='text') | join %}{% endif %}"
        "{{ message['role'] + ': ' + said | trim }}{% endfor %}"
        "{{ '\nassistant:' if add_generation_prompt else eos_token }}")
ROPE = {"rope_type": "default", "type": "default", "factor": None}     # what says that it is not scaled


# ------------------------------------------------------------------------------------------------------------
# In

def read_model(folder: str | Path, context: int, n_vocab: int) -> GPT:
    """Read a folder's Llama as a GPT for sequences of `context` tokens, in float32, on the CPU.

    `n_vocab` counts the tokens that it must know. Raises UserError if the folder does not fit.
    """
    # What its config.json says is enough to refuse it, before gigabytes are read.
    library, folder = safetensors(), Path(folder)
    config = read_config(folder)
    if context > config["context"]:
        raise UserError(f"{folder} is made for {config['context']} tokens, {context} are too many")
    if n_vocab > config["vocab_size"]:
        raise UserError(f"{folder} has {config['vocab_size']} embeddings for {n_vocab} tokens, "
                        "give the model that belongs to the tokenizer")

    # What cannot be read fails in many ways.
    weights = {}
    try:
        for path in weight_files(folder):
            weights |= library.torch.load_file(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, library.SafetensorError) as error:
        raise UserError(f"cannot read the weights in {folder} ({error}), restore it") from error

    # Llama's names are ours behind a prefix. Old files have rope's constants.
    weights = {name: weight for name, weight in weights.items() if not name.endswith("inv_freq")}
    coded = [name for name, weight in weights.items() if not weight.is_floating_point()]
    doubled = [name for name in weights if f"model.{name}" in weights]
    if coded:
        raise UserError(f"{folder} is quantized ({coded[0]} holds whole numbers), give a plain Llama")
    if doubled:
        raise UserError(f"{folder} has {doubled[0]} twice, with model. before it and without, restore it")
    weights = {name.removeprefix("model."): weight.float() for name, weight in weights.items()}

    # A tied head is in no file as a rule; one that is another than the embedding is none of transformers' 5.
    if config["tied"] and "embed_tokens.weight" in weights:
        head = weights.setdefault("lm_head.weight", weights["embed_tokens.weight"])
        if not torch.equal(head, weights["embed_tokens.weight"]):
            raise UserError(f"{folder} has another head than its embedding, set tie_word_embeddings to false "
                            "in its config.json")

    # Biases, or a layer too many, show as names and shapes that do not fit.
    try:
        return load_model(config | {"context": context}, weights)
    except ValueError as error:
        raise UserError(f"{folder} does not fit: {error}, give a plain Llama") from error


def read_config(folder: Path) -> dict[str, object]:
    """Read a folder's config.json as GPTConfig's fields; raises UserError if it is not of a plain Llama."""
    path = folder / "config.json"
    if (folder / "adapter_config.json").exists() and not path.exists():
        raise UserError(f"{folder} holds adapters only, save what merge_and_unload() makes of it")
    if not path.exists():
        way_out = "name the folder of a Llama"
        if (folder / "ckpt.pt").exists():
            way_out = f"python -m hf {folder} DIR makes such a folder of a run"
        raise UserError(f"no {path}, {way_out}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        heads = found["num_attention_heads"]
        head_size = found["hidden_size"] // heads

        # Rope has stood in three places; of two, transformers takes scaling. What is null is as if unsaid.
        scaling, parameters = (found.get(name) or {} for name in ("rope_scaling", "rope_parameters"))
        rope = {name: value for name, value in (parameters | scaling).items() if name in ROPE}
        found |= (scaling or parameters) | rope
        said = {name: value for name, value in found.items() if value is not None}
        said = UNSAID | {"model_type": None, "num_key_value_heads": heads} | said

        # What differs from a plain Llama is told below, all at once.
        expected = PLAIN | ROPE | {"head_dim": head_size}
        differing = [name for name, value in expected.items() if said.get(name, value) != value]
        config = {ours: said[theirs] for theirs, ours in NAMES.items()}

        # What is of another kind would go wrong later or mean another thing ("false"); 10000 is a float, too.
        for theirs, ours in NAMES.items():
            kind, found_kind = GPTConfig.__annotations__[ours], type(said[theirs])
            if found_kind is not kind and (kind, found_kind) != (float, int):
                raise TypeError(f"{theirs} {said[theirs]!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} is not a Llama's ({type(error).__name__}: {error}), "
                        "name the folder of one") from error
    if differing:
        told = ", ".join(f"{name} {said[name]}" for name in differing)
        raise UserError(f"{folder} is of another architecture ({told}), give a plain Llama")
    return config


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold a folder's weights, one or several."""
    # Of both, transformers takes the one file, too: an index may be left of what was there before.
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not whole.exists() and not index.exists() and list(folder.glob("pytorch_model*.bin")):
        raise UserError(f"{folder} has its weights in pytorch_model.bin, save them as safetensors "
                        "(save_pretrained does)")
    if whole.exists() or not index.exists():
        return [whole]
    shards = json.loads(index.read_text())["weight_map"].values()
    return [folder / shard for shard in sorted(set(shards))]


def safetensors() -> ModuleType:
    """Import what reads and writes weights; raises UserError if it is not there."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("a Hugging Face folder takes the safetensors package, "
                        "pip install safetensors") from None
    return safetensors


# ------------------------------------------------------------------------------------------------------------
# Out

def write_folder(run: Path, folder: Path) -> None:
    """Write a finished run as a folder that transformers loads, with its tokenizer and a model card.

    Raises UserError if the run is not finished, or the folder holds anything or cannot be written.
    """
    # Nothing is mixed with what was there.
    safetensors()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} holds something already, name another folder or remove it")
    checkpoint = read_checkpoint(checkpoint_path(run))
    with refusing(ValueError):
        model = load_model(checkpoint.config, checkpoint.model)
    tokenizer = tokenizer_of(checkpoint.lineage, run)

    # It is whole or absent: what cannot be written to its end must not stand in the way of the next try.
    folder = folder.resolve()
    make_folder(folder.parent)
    with TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        whole = Path(temporary, folder.name)
        make_folder(whole)
        write_files(whole, model, tokenizer, checkpoint.lineage)
        os.replace(whole, folder)


def write_files(folder: Path, model: GPT, tokenizer: Encoding, lineage: list[dict]) -> None:
    """Write the files of a folder that transformers loads."""
    # Llama's names: a prefix on all but the head, which is left out where it is the embedding.
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    head = weights.pop("model.lm_head.weight")
    if not model.config.tied:
        weights["lm_head.weight"] = head
    with atomic(folder / "model.safetensors") as file:
        file.write(safetensors().torch.save(weights, {"format": "pt"}))

    # transformers 5 builds other classes anew and ignores how tokenizer.json cuts a text.
    context = model.config.context
    write_json(folder / "tokenizer.json", tokenizer_json(tokenizer))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
        "model_max_length": context, "clean_up_tokenization_spaces": False, "chat_template": CHAT,
        "model_input_names": ["input_ids", "attention_mask"]})
    card = model_card(folder.name, lineage, context, model.parameter_count())
    with atomic(folder / "README.md") as file:
        file.write(card.encode(errors="backslashreplace"))         # a file's name may be no UTF-8

    # A document begins after the end of another.
    end = end_of_text(tokenizer)
    write_json(folder / "config.json", PLAIN | {
        "architectures": ["LlamaForCausalLM"],
        **{theirs: getattr(model.config, ours) for theirs, ours in NAMES.items()},
        "bos_token_id": end, "eos_token_id": end, "initializer_range": model.initial_std, "dtype": "float32"})
