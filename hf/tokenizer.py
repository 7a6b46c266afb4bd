"""A run's tokenizer as Hugging Face's tokenizer.json: the same tokens with `tokenizers` as with tiktoken."""

import tiktoken

from data.tokenizer_json import END_OF_TEXT, GPT2_PIECES, PIECES, merges_of, spelling, sparing
from data.tokenizers import end_of_text


def tokenizer_json(tokenizer: tiktoken.Encoding) -> dict:
    """Write what tokenizer.json says of a tokenizer that `load_tokenizer` gave."""
    # `bytes` ends documents with a byte that no text has; there, that is the special token.
    end = end_of_text(tokenizer)
    specials = tokenizer._special_tokens | {END_OF_TEXT: end}
    ranks = {token: rank for token, rank in tokenizer._mergeable_ranks.items() if rank != end}

    # tiktoken looks for a piece as a whole before it merges any of it: `ignore_merges` says the same.
    characters = spelling()
    spelled = {token: "".join(characters[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    merges = [[spelled[left], spelled[right]] for left, right in merges_of(ranks)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
             "vocab": vocabulary | specials, "merges": merges}

    # Nothing is put before or after a text.
    (steps,) = [steps for pattern, steps in PIECES.items() if sparing(pattern, ranks) == tokenizer._pat_str]
    added = [special_token(text, number) for text, number in specials.items()]
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": sorted(added, key=lambda token: token["id"]),
            "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": None, "decoder": GPT2_PIECES, "model": model}


def special_token(text: str, number: int) -> dict:
    """Say of a special token that it stands for itself and not for its letters."""
    return {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}
