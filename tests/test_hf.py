"""Runs go to Hugging Face folders and models come from them: the same tokens, logits and losses there and here.

What needs safetensors, tokenizers or transformers is skipped where they are not.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from random import Random
from unittest.mock import Mock

import pytest
import torch

from data import tokens
from data.corpora import open_corpus
from data.sources import Source, Text, join_fields
from data.tokenizer_json import DIGITS_PATTERN, END_OF_TEXT, GPT2_PIECES, PIECES, merges_of, spelling
from data.tokenizers import digest, end_of_text, fingerprint, load_tokenizer
from data.tokens import Document, cuts
from hf.folder import NAMES, PLAIN, read_config, read_model, write_folder
from hf.tokenizer import tokenizer_json
from model import GPT, GPTConfig, PRESETS, add_lora, configure, merged
from run.checkpoint import Checkpoint, save_checkpoint
from run.files import UserError
from tests.conftest import assert_same, report, weights
from tests.test_tokens import write_vocabulary

MERGES = [b" t", b"he", b" the", b"  ", b"   ", b"\n\n", b"12", b"'s", b" 1", "é".encode(), b"!?"]
LETTERS = [*"  \n\t\r the12aZé9²½٣'s!?\x1c\x0b\x85\u3000日é😀", "'re", "'LL", "2024", "\n\n", "    ", "1ZaZ1"]


def texts(letters: list[str] = LETTERS) -> list[str]:
    random = Random(1)
    return ["".join(random.choice(letters) for _ in range(random.randint(1, 40))) for _ in range(2000)]


def write_smollm(folder: Path, lacking: bytes = b"\x04\x1d\xf1") -> str:
    """Write a tokenizer.json of SmolLM2's kind: digits apart, specials first, some bytes without a token."""
    folder.mkdir()
    present = [bytes([byte]) for byte in range(256) if byte not in lacking + b"\xc0\xc1\xf5\xff"]   # no UTF-8
    merges = [token for token in MERGES if token not in (b"12", b" 1")]
    characters = spelling()
    spelled = {token: "".join(characters[byte] for byte in token) for token in [*present, *merges]}
    ranks = {token: number for number, token in enumerate(spelled, start=2)}
    specials = {END_OF_TEXT: 0, "<|im_start|>": 1}
    pairs = [f"{spelled[left]} {spelled[right]}" for left, right in merges_of(ranks)]      # as files of old do
    vocabulary = specials | {spelled[token]: rank for token, rank in ranks.items()}
    added = [{"id": number, "content": text, "special": True, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False} for text, number in specials.items()]
    parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
             "pre_tokenizer": {"type": "Sequence", "pretokenizers": PIECES[DIGITS_PATTERN]}, "post_processor": None,
             "decoder": GPT2_PIECES,
             "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                       "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                       "vocab": vocabulary, "merges": pairs}}
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    return str(folder)


@pytest.fixture(params=["bytes", "tiktoken", "smollm"])
def tokenizer(request, tmp_path):
    if request.param == "tiktoken":
        return load_tokenizer(write_vocabulary(tmp_path / "v.tiktoken", *MERGES, b"ZaZ"))    # found whole only
    return load_tokenizer("bytes" if request.param == "bytes" else write_smollm(tmp_path / "smol"))


def exported(model: GPT, folder: Path, tokenizer: str = "bytes") -> Path:
    """Export a model, as if it were of a run over this tokenizer."""
    entry = {"stage": "pretrain", "args": {"tokenizer": tokenizer, "seed": 1}, "steps": 1, "tokens": {"pre": 8},
             "tokenizer": fingerprint(load_tokenizer(tokenizer)), "corpora": {"pre": {"source": "web"}},
             "losses": {"L_pre": {"mean": 1.5, "se": 0.1, "corpus": "pre"}}}
    save_checkpoint(folder / "ckpt.pt", Checkpoint(model.state_dict(), asdict(model.config), [entry]))
    write_folder(folder, folder / "hf")
    return folder / "hf"


# ---- tokenizers

def test_a_tokenizer_that_was_written_is_read_as_the_same(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)))
    again = load_tokenizer(str(tmp_path))
    assert fingerprint(again) == fingerprint(tokenizer)
    assert (end_of_text(again), again.n_vocab) == (end_of_text(tokenizer), tokenizer.n_vocab)


def test_the_end_of_a_document_is_part_of_a_fingerprint_where_it_is_not_where_it_used_to_be(tokenizer, tmp_path):
    old = digest(tokenizer._pat_str, sorted(tokenizer._mergeable_ranks.items()))
    assert fingerprint(tokenizer) == old
    text = json.dumps(tokenizer_json(tokenizer))
    for end in (end_of_text(tokenizer) + 1000, end_of_text(tokenizer) + 1001):
        parts = json.loads(text)
        parts["added_tokens"] = [{"id": end, "content": END_OF_TEXT, "special": True}]
        parts["model"]["vocab"][END_OF_TEXT] = end
        parts["model"]["vocab"].pop("<|im_start|>", None)
        (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
        assert fingerprint(load_tokenizer(str(tmp_path))) != old
        old = fingerprint(load_tokenizer(str(tmp_path)))


def test_the_tokens_are_those_of_tokenizers(tokenizer, tmp_path):
    library = pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)))
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in texts():
        found = theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode_ordinary(text) == found and theirs.decode(found) == tokenizer.decode(found)
    assert theirs.token_to_id(END_OF_TEXT) == end_of_text(tokenizer)


def test_smollms_own_file_gives_the_tokens_of_tokenizers_and_no_panic(tmp_path):
    """A character without a token is left out. (Signs on both sides of it are one piece there, two here.)"""
    library = pytest.importorskip("tokenizers")
    ours = load_tokenizer(write_smollm(tmp_path / "smol"))
    theirs = library.Tokenizer.from_file(str(tmp_path / "smol" / "tokenizer.json"))
    for text in texts([*LETTERS, "a\x04a", "the\x1d\x04 a", "1\x1d\n"]):
        assert ours.encode_ordinary(text) == theirs.encode(text, add_special_tokens=False).ids


def test_digits_and_blanks_are_cut_as_smollm_does(tmp_path):
    tokenizer = load_tokenizer(write_smollm(tmp_path / "smol"))
    cut = [tokenizer.decode([token]) for token in tokenizer.encode_ordinary(" the  12  the\n\n3")]
    assert cut == [" the", "  ", "1", "2", " ", " the", "\n\n", "3"]
    assert tokenizer.encode_ordinary("\x04\U00040000\U0007ffff") == [] and end_of_text(tokenizer) == 0


def test_bytes_are_spelled_as_in_gpt2s_vocabulary():
    spelled = spelling()
    edges = b"\0\n !~\x7f\x80\xa0\xa1\xac\xad\xae\xff"
    assert "".join(spelled[byte] for byte in edges) == "ĀĊĠ!~ġĢł¡¬Ń®ÿ"
    assert len(set(spelled.values())) == 256


def test_a_document_in_pieces_has_the_tokens_of_the_whole(tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "BUNDLE", 5)
    for text in texts():
        parts = [piece.text for piece in tokens.pieces(Document("train", text), cuts(tokenizer))]
        apart = [token for part in parts for token in tokenizer.encode_ordinary(part)]
        assert "".join(parts) == text and apart == tokenizer.encode_ordinary(text)


def test_what_files_of_old_do_not_say_and_offsets_are_of_no_matter(tmp_path):
    path = Path(write_smollm(tmp_path / "smol")) / "tokenizer.json"
    before, parts = fingerprint(load_tokenizer(str(path.parent))), json.loads(path.read_text())
    pieces = parts["pre_tokenizer"]["pretokenizers"]
    pieces[1] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    parts["added_tokens"][0]["special"] = False
    path.write_text(json.dumps(parts))
    assert fingerprint(load_tokenizer(str(path.parent))) == before


def change(parts: dict, how: str) -> None:
    model = parts["model"]
    match how:
        case "unigram": model["type"] = "Unigram"
        case "byte fallback": model["byte_fallback"] = True
        case "dropout": model["dropout"] = 0.1
        case "prefix": model["continuing_subword_prefix"] = "##"
        case "suffix": model["end_of_word_suffix"] = "</w>"
        case "normalizer": parts["normalizer"] = {"type": "NFC"}
        case "other pieces": parts["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
        case "no pieces": parts["pre_tokenizer"] = None
        case "order": model["merges"].reverse()
        case "a merge too few": model["merges"].pop()
        case "found whole": model["vocab"]["ZaZ"] = 999
        case "no end":
            parts["added_tokens"][0]["content"] = "<|eos|>"
            model["vocab"]["<|eos|>"] = model["vocab"].pop(END_OF_TEXT)
        case "no vocabulary": del model["vocab"]
        case "letters": model["vocab"]["日"] = 999
        case "twice": model["vocab"]["a"] = model["vocab"]["b"]
        case "begins": parts["post_processor"] = {"type": "TemplateProcessing", "special_tokens": {}}
        case "added": parts["added_tokens"].append({"id": 999, "content": "    ", "special": False})


@pytest.mark.parametrize("how, told", [
    ("unigram", "Unigram"), ("byte fallback", "BPE, byte_fallback"), ("dropout", "BPE, dropout"),
    ("prefix", "continuing_subword_prefix"), ("suffix", "end_of_word_suffix"), ("normalizer", "NFC"),
    ("other pieces", "Digits, ByteLevel"), ("no pieces", "tokenizer.json"), ("order", "order of their tokens"),
    ("a merge too few", "order of their tokens"), ("found whole", "order of their tokens"),
    ("no end", "to end a document with"), ("no vocabulary", "damaged"),
    ("letters", "damaged"), ("twice", "one number"), ("begins", "TemplateProcessing may add tokens to a text"), ("added", "'    ' is a token that is cut out")])
def test_a_tokenizer_of_another_kind_is_refused_in_a_line(tmp_path, how, told):
    path = Path(write_smollm(tmp_path / "smol")) / "tokenizer.json"
    parts = json.loads(path.read_text())
    change(parts, how)
    path.write_text(json.dumps(parts))
    with pytest.raises(UserError, match=told) as refused:
        load_tokenizer(str(path.parent))
    assert "\n" not in str(refused.value)


def test_a_letter_without_a_token_is_refused(tmp_path):
    with pytest.raises(UserError, match="no token for the byte 0x61"):
        load_tokenizer(write_smollm(tmp_path / "smol", lacking=b"a"))
    with pytest.raises(UserError, match="no .*tokenizer.json"):
        load_tokenizer(str(tmp_path))


# ---- models

SHAPES = {
    "toy": configure("toy", 256),
    "grouped": GPTConfig(layers=2, width=48, mlp=80, heads=6, kv_heads=2, context=64, vocab_size=256, tied=True),
    "untied": GPTConfig(layers=2, width=60, mlp=80, heads=5, kv_heads=5, context=64, vocab_size=256, tied=False,
                        rope_base=10_000.0, norm_eps=1e-6),
    "135m": GPTConfig(**PRESETS["135m"] | {"layers": 2}, vocab_size=256),
}


def trained(config: GPTConfig) -> GPT:
    """A model whose gains are no longer 1, as they are after training."""
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for gain in (weight for weight in model.parameters() if weight.dim() == 1):
            gain.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_bitwise_those_of_transformers(shape, tmp_path):
    pytest.importorskip("safetensors")
    transformers = pytest.importorskip("transformers")
    model = trained(SHAPES[shape]).eval()
    theirs, found = transformers.AutoModelForCausalLM.from_pretrained(exported(model, tmp_path),
                                                                      output_loading_info=True)
    assert not any(found.values())                                  # no key is missing, unexpected, mismatched
    text = torch.randint(255, (2, min(model.config.context, 256)))
    with torch.no_grad():
        assert torch.equal(theirs(text).logits, model(text))


def test_transformers_continues_a_text_as_the_model_does(tmp_path):
    pytest.importorskip("safetensors")
    transformers = pytest.importorskip("transformers")
    model = trained(SHAPES["grouped"]).eval()
    folder = exported(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (255, 255, 64)
    prompt = tokenizer("größer", return_tensors="pt")
    assert prompt["input_ids"][0].tolist() == list("größer".encode())
    greedy = theirs.generate(**prompt, max_new_tokens=40, do_sample=False)
    assert torch.equal(greedy, model.generate(prompt["input_ids"], greedy.shape[1] - 8, 256, temperature=0.0))


def test_transformers_cuts_digits_out_as_the_exported_tokenizer_does(tmp_path):
    pytest.importorskip("safetensors")
    transformers = pytest.importorskip("transformers")
    name = write_smollm(tmp_path / "smol")
    ours, folder = load_tokenizer(name), exported(trained(SHAPES["grouped"]), tmp_path, name)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts():
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode_ordinary(text)


def test_transformers_writes_messages_as_token_files_have_them(tmp_path):
    pytest.importorskip("safetensors")
    pytest.importorskip("jinja2")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(exported(trained(SHAPES["grouped"]), tmp_path))
    turns = [("system", "Be brief."), ("user", " Why, {{ you }}?\n"), ("assistant", "So\n\n so. "), ("user", "What?"),
             ("assistant", "Nothing.")]
    messages = [{"role": role, "content": said} for role, said in turns]
    text, spans = join_fields({"messages": messages}, ("messages",))
    whole = theirs.apply_chat_template(messages, return_dict=False)
    assert whole == [*load_tokenizer("bytes").encode_ordinary(text), 255]
    halves = [(said[:3], said[3:]) for _, said in turns]
    parts = [[{"type": "text", "text": text} for text in both] for both in halves]
    in_parts = [one | {"content": content} for one, content in zip(messages, parts)]
    assert theirs.apply_chat_template(in_parts, return_dict=False) == whole
    assert join_fields({"messages": in_parts}, ("messages",)) == (text, spans)
    prompt = theirs.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert prompt == text[:spans[-1][0]]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_transformers_saves_is_read_as_the_same(shape, tmp_path):
    pytest.importorskip("safetensors")
    transformers = pytest.importorskip("transformers")
    model = trained(SHAPES[shape])
    folder = exported(model, tmp_path)
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
        kind.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    again = read_model(tmp_path / "saved", model.config.context, 256)
    assert again.config == model.config
    assert_same(again.state_dict(), model.state_dict())
    assert fingerprint(load_tokenizer(str(tmp_path / "saved"))) == fingerprint(load_tokenizer("bytes"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_that_was_written_is_read_as_the_same(shape, tmp_path):
    pytest.importorskip("safetensors")
    model = trained(SHAPES[shape])
    again = read_model(exported(model, tmp_path), model.config.context, 256)
    assert again.config == model.config
    assert_same(again.state_dict(), model.state_dict())
    with pytest.raises(UserError, match="holds something already"):
        write_folder(tmp_path, tmp_path / "hf")


def test_an_export_that_cannot_be_written_leaves_nothing_and_can_be_tried_again(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    model = trained(SHAPES["grouped"])

    def full(path: Path, value: object) -> None:
        raise UserError(f"no space left to write {path}")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left"):
        patch.setattr("hf.folder.write_json", full)
        exported(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]
    (tmp_path / "hf").mkdir()
    exported(model, tmp_path)


def test_merged_adapters_are_written_with_a_head_of_their_own(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model = trained(SHAPES["grouped"])
    add_lora(model)
    with torch.no_grad():
        model.lm_head.lora_B.normal_(std=0.1)
    folder = exported(merged(model), tmp_path)
    assert "lm_head.weight" in library.load_file(folder / "model.safetensors")
    assert_same(read_model(folder, 64, 256).state_dict(), merged(model).state_dict())


def test_weights_in_several_files_and_other_numbers_are_read(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model = trained(SHAPES["untied"])
    folder = exported(model, tmp_path)
    whole = library.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {name: weight.bfloat16() for name, weight in whole.items()}
    halves["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    shards = {name: f"model-{len(name) % 2}.safetensors" for name in halves}
    for shard in set(shards.values()):
        library.save_file({name: halves[name] for name in halves if shards[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    rounded = {name: weight.bfloat16().float() for name, weight in model.state_dict().items()}
    assert_same(read_model(folder, 32, 256).state_dict(), rounded)
    (folder / "model-0.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match="cannot read the weights"):
        read_model(folder, 32, 256)


@pytest.mark.parametrize("index", ["[]", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "no JSON"])
def test_an_index_that_is_none_is_refused_in_a_line_and_of_no_matter_beside_the_weights(index, tmp_path):
    pytest.importorskip("safetensors")
    model = trained(SHAPES["grouped"])
    folder = exported(model, tmp_path)
    (folder / "model.safetensors.index.json").write_text(index)
    assert_same(read_model(folder, 64, 256).state_dict(), model.state_dict())
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot read the weights in .*, restore it"):
        read_model(folder, 64, 256)


def test_a_head_that_is_not_the_embedding_it_should_be_is_refused(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model = trained(SHAPES["grouped"])
    path = exported(model, tmp_path) / "model.safetensors"
    whole = library.load_file(path)
    whole["lm_head.weight"] = whole["model.embed_tokens.weight"].clone()
    library.save_file(whole, path)
    assert_same(read_model(path.parent, 64, 256).state_dict(), model.state_dict())
    whole["lm_head.weight"][3, 3] += 1
    library.save_file(whole, path)
    with pytest.raises(UserError, match="set tie_word_embeddings to false"):
        read_model(path.parent, 64, 256)


@pytest.mark.parametrize("told, change_it", [
    ("does not fit: .*\\(norm.weight is the first", lambda whole: whole.pop("model.norm.weight")),
    ("does not fit: .*\\(norm.weight is the first",
     lambda whole: whole.update({"model.norm.weight": torch.ones(3)})),
    ("does not fit: .*\\(layers.0.self_attn.q_proj.bias is the first",
     lambda whole: whole.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(48)})),
    ("is quantized", lambda whole: whole.update({"model.norm.weight": torch.ones(48, dtype=torch.int8)})),
    ("has norm.weight twice", lambda whole: whole.update({"norm.weight": torch.ones(48)}))])
def test_a_tensor_that_is_lacking_misshapen_no_weight_or_too_many_is_named(told, change_it, tmp_path):
    library = pytest.importorskip("safetensors.torch")
    path = exported(trained(SHAPES["grouped"]), tmp_path) / "model.safetensors"
    whole = library.load_file(path)
    change_it(whole)
    library.save_file(whole, path)
    with pytest.raises(UserError, match=f"hf {told}"):
        read_model(path.parent, 64, 256)


def test_weights_of_another_format_are_named(tmp_path):
    path = exported(trained(SHAPES["grouped"]), tmp_path) / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match="has its weights in pytorch_model.bin, save them as safetensors"):
        read_model(path.parent, 64, 256)


def write_config(folder: Path, **changes: object) -> Path:
    config = {theirs: asdict(SHAPES["grouped"])[ours] for theirs, ours in NAMES.items()}
    (folder / "config.json").write_text(json.dumps(PLAIN | config | changes))
    return folder


@pytest.mark.parametrize("changes", [
    {"model_type": "qwen2"}, {"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"},
    {"head_dim": 16}, {"model_type": None}])
def test_an_architecture_that_does_not_fit_is_named(changes, tmp_path):
    with pytest.raises(UserError, match=f"another architecture \\({next(iter(changes))}"):
        read_config(write_config(tmp_path, **changes))


@pytest.mark.parametrize("changes, told", [
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type linear, factor 2.0"),
    ({"rope_scaling": {"factor": 2.0}}, "factor 2.0"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0}}, "rope_type llama3"),
    ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "yarn"}}, "rope_type yarn"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_scaling": {"rope_type": "default"}},
     "factor 2.0")])
def test_scaled_rope_is_refused_wherever_it_is_said(changes, told, tmp_path):
    with pytest.raises(UserError, match=f"another architecture \\({told}"):
        read_config(write_config(tmp_path, **changes))


@pytest.mark.parametrize("changes", [
    {"max_position_embeddings": "64"}, {"vocab_size": "256"}, {"vocab_size": 256.0}, {"rms_norm_eps": "1e-5"},
    {"tie_word_embeddings": "false"}, {"num_hidden_layers": True}])
def test_a_value_of_another_kind_is_named(changes, tmp_path):
    ((name, value),) = changes.items()
    with pytest.raises(UserError, match=f"not a Llama's .*{name} {value!r}"):
        read_config(write_config(tmp_path, **changes))


def test_what_a_config_leaves_unsaid_is_llamas_default(tmp_path):
    write_config(tmp_path, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 7.0},
                 rms_norm_eps=None, num_key_value_heads=None, head_dim=None, rope_scaling=None,
                 tie_word_embeddings=None)
    config = read_config(tmp_path)
    told = [config[name] for name in ("rope_base", "norm_eps", "kv_heads", "tied")]
    assert told == [7.0, 1e-6, 6, False]
    write_config(tmp_path, rope_theta=10_000)
    assert read_config(tmp_path)["rope_base"] == 10_000.0
    write_config(tmp_path, rope_theta=None)
    assert read_config(tmp_path)["rope_base"] == 10_000.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"num_attention_heads": 0, "hidden_size": 8}'])
def test_a_config_that_is_none_is_refused_in_a_line(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json is not a Llama's"):
        read_config(tmp_path)


def test_a_run_is_not_taken_for_its_export(tmp_path):
    with pytest.raises(UserError, match="no .*config.json, name the folder of a Llama"):
        read_config(tmp_path)
    (tmp_path / "ckpt.pt").touch()
    with pytest.raises(UserError, match="python -m hf .* DIR makes such a folder of a run"):
        read_config(tmp_path)


# ---- the stages

def test_a_folder_becomes_a_stage_of_no_tokens_that_the_others_take_up(stage, monkeypatch):
    pytest.importorskip("safetensors")
    stage("pretrain", "--lam 1")
    assert stage("hf.__main__", "out/pretrain out/hf").status == 0
    card = Path("out/hf/README.md").read_text()
    assert f"L_pre {report('pretrain')['losses']['L_pre']['mean']:.3f}" in card and "`pre.jsonl`" in card

    corpora = "--pre pre.jsonl --post post.jsonl --post-tokens 4k --context 32 --batch 8 "
    measured = "--weights out/hf --tokens 0 --out out/weights --batch 8k"           # of no batch is anything asked
    opened = Mock(wraps=open_corpus)
    monkeypatch.setattr("pretrain.open_corpus", opened)
    run = stage("pretrain", measured, corpora)
    assert (run.status, run.err) == (0, "")
    assert [call.kwargs["limit"] for call in opened.call_args_list] == [4000, 4000]      # of D_pre for replay
    assert_same(weights("weights"), weights("pretrain"))
    entry, before = report("weights"), report("pretrain")
    assert entry["tokens"] == {"pre": 0, "post": 0}
    for name, loss in before["losses"].items():
        assert entry["losses"][name] == pytest.approx(loss)
    assert "nothing to do" in stage("pretrain", measured, corpora).out
    assert stage("posttrain", "--init out/weights --replay 0.2").status == 0
    assert stage("finetune").status == 0

    # Trained further, with a seed that cannot matter to the first weights.
    assert stage("pretrain", "--weights out/hf --tokens 2k --lam 0.5 --seed 3 --out out/on", corpora).status == 0
    assert report("on")["losses"]["L_pre"]["mean"] < before["losses"]["L_pre"]["mean"]

    # The tokenizer is the folder's, and later stages see whether it still is.
    path = Path("out/hf/tokenizer.json")
    path.write_text(path.read_text().replace('"ignore_merges": true', '"ignore_merges": false'))
    assert stage("posttrain", "--init out/weights --out out/same").status == 0
    write_smollm(Path("out/other"))
    path.write_text(Path("out/other/tokenizer.json").read_text())
    assert "is not the one of the checkpoint" in stage("posttrain", "--init out/weights --out out/not").err

    # The weights are in the run, which is finished whether the folder is there or not.
    Path("out/hf").rename("out/moved")
    assert "nothing to do" in stage("pretrain", measured, corpora).out


def test_somebody_elses_fine_tuning_is_measured_as_ours(stage):
    pytest.importorskip("safetensors")
    stage("pretrain", "--lam 1")
    stage("posttrain")
    stage("finetune")
    stage("hf.__main__", "out/finetune out/hf")
    ours, = json.loads(stage("evaluate", "out/finetune --json").out)
    theirs, = json.loads(stage("evaluate", "out/posttrain --weights out/hf --ft ft.jsonl --json").out)
    assert theirs["losses"].keys() == {"L_im", "L_ret", "L_pre", "L_ft"}
    for name, loss in theirs["losses"].items():
        assert loss["mean"] == pytest.approx(ours["losses"][name]["mean"], rel=1e-6)
    table = stage("evaluate", "out/posttrain --weights out/hf").out
    assert table.split("\n")[0].split()[-3:] == ["L_im", "L_ret", "L_pre"] and "\nout/hf" in table

    write_smollm(Path("out/other"))
    Path("out/hf/tokenizer.json").write_text(Path("out/other/tokenizer.json").read_text())
    assert "another tokenizer" in stage("evaluate", "out/posttrain --weights out/hf").err
    Path("out/hf/tokenizer.json").unlink()
    assert stage("evaluate", "out/posttrain --weights out/hf").out == table


def test_what_it_was_fine_tuned_on_is_measured_as_stage_3_measures_it(stage, monkeypatch):
    """Of completions, of fields that are named, and of a corpus that brings what it holds out, no more than that."""
    pytest.importorskip("safetensors")
    stage("pretrain")
    for flags in ("--loss-on completion", "--text-field prompt"):
        stage("finetune", f"--init out/pretrain --ft pairs.jsonl {flags} --overwrite")
        stage("hf.__main__", f"out/finetune out/hf{len(flags)}")
        measured = stage("evaluate", f"out/pretrain --weights out/hf{len(flags)} --ft pairs.jsonl {flags} --json")
        theirs, = json.loads(measured.out)
        assert flags.endswith(theirs["losses"]["L_ft"]["loss_on"]) or "text-field" in flags
        assert theirs["losses"].keys() == {"L_ret", "L_pre", "L_ft"}            # no L_post of another model
        ours = report("finetune")["losses"]["L_ft"]["mean"]
        assert theirs["losses"]["L_ft"]["mean"] == pytest.approx(ours, rel=1e-6)

    read = iter(range(10 ** 4))
    monkeypatch.setattr(Source, "held_out_split", "validation")
    monkeypatch.setattr(Source, "documents", lambda self, held_out=False: (Text(f"{place} mol") for place in read))
    assert stage("evaluate", f"out/pretrain --weights out/hf{len(flags)} --ft ft.jsonl").status == 0
    assert next(read) < 4000


def test_what_is_left_of_completions_is_measured_on_them(stage):
    pytest.importorskip("safetensors")
    stage("pretrain", "--post pairs.jsonl")
    stage("posttrain", "--loss-on completion")
    stage("hf.__main__", "out/posttrain out/hf")
    run, = json.loads(stage("evaluate", "out/posttrain --weights out/hf --json").out)
    before, after = run["losses"]["L_im"], run["losses"]["L_ret"]
    assert after["mean"] == pytest.approx(before["mean"], rel=1e-6) and after["loss_on"] == "completion"


def test_flags_that_do_not_go_together_are_refused(stage):
    assert "--weights with it" in stage("pretrain", "--tokens 0").err
    for mixing in ("--lam 1", "--mix 0.5"):
        assert "leave --lam and --mix away" in stage("pretrain", f"--weights pre.jsonl {mixing} --tokens 0", "").err
    assert "leave --kv-heads away" in stage("pretrain", "--weights x --kv-heads 1", "").err
    assert "leave --tokenizer away" in stage("pretrain", "--weights x --tokenizer gpt2", "").err
    assert "no pre.jsonl/config.json, name the folder" in stage("pretrain", "--weights pre.jsonl --tokens 0", "").err
    stage("pretrain")
    assert "python -m hf out/pretrain DIR" in stage("pretrain", "--weights out/pretrain --tokens 0 --out out/x", "").err
    assert "--ft goes with" in stage("evaluate", "out/x --ft a.jsonl").err
    assert "go with --ft" in stage("evaluate", "out/x --weights z --loss-on completion").err
    for more in ("out/y", "--sample 1"):
        assert "the one RUN" in stage("evaluate", f"out/x {more} --weights z").err


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        read_model(tmp_path, 32, 256)
    with pytest.raises(UserError, match="pip install safetensors"):
        write_folder(tmp_path, tmp_path / "hf")


def test_a_folder_that_is_too_small_or_of_adapters_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge_and_unload"):
        read_model(tmp_path, 32, 256)
    write_config(tmp_path)
    with pytest.raises(UserError, match="made for 64 tokens"):
        read_model(tmp_path, 65, 256)
    with pytest.raises(UserError, match="256 embeddings for 300 tokens"):
        read_model(tmp_path, 64, 300)
    with pytest.raises(UserError, match="cannot read the weights"):
        read_model(tmp_path, 64, 256)
