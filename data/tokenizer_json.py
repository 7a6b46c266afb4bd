"""Hugging Face's tokenizer.json as a tiktoken encoding: byte-level BPE, to the same tokens.

Where a text spells a special token, like `<|endoftext|>`, others make that token of it; here it stays text.
"""

import json
from pathlib import Path

import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from run.files import UserError

END_OF_TEXT = "<|endoftext|>"

# A text is cut into pieces, bytes are merged within each: tiktoken's pattern → tokenizer.json's steps.
# SmolLM2 cuts out every digit first, so that blanks before one stay together. Where nothing is merged, with
# `bytes`, pieces only bound the work of a search.
BYTES_PATTERN = r"[\s\S]{1,64}"
DIGITS_PATTERN = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++"
                  r"|\s++(?![^\s\p{N}])|\s+(?=\s)|\s")
GPT2_PIECES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PIECES = {
    r50k_pat_str: [GPT2_PIECES],
    DIGITS_PATTERN: [{"type": "Digits", "individual_digits": True}, GPT2_PIECES],
    BYTES_PATTERN: [GPT2_PIECES | {"use_regex": False}],
}
FOREIGN = ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")    # of other BPEs
CONTROL = [byte for byte in [*range(0x20), 0x7F] if byte not in b"\t\n\v\f\r"]         # but for white space


def read_tokenizer(folder: Path) -> tiktoken.Encoding:
    """Read a folder's tokenizer.json; raises UserError where tiktoken would make other tokens."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UserError(f"no {path}, restore it or give a folder that has one")
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        specials = {token["content"]: token["id"] for token in parts["added_tokens"]}
        ranks = ranks_of(parts["model"], specials)

        # tokenizers cuts out added tokens first: a special one no text has, but any other would be in some.
        for token in parts["added_tokens"]:
            if not token["special"] and token["content"] != END_OF_TEXT:
                raise UserError(f"{token['content']!r} is a token that is cut out before anything is merged")
        after = parts.get("post_processor")
        if after and after["type"] != "ByteLevel":
            raise UserError(f"{after['type']} may add tokens to a text")
        pattern = sparing(pattern_of(parts), ranks)

        # `bytes` ends its documents with the byte that UTF-8 never uses.
        if specials == {END_OF_TEXT: 255} and len(ranks) == 255:
            ranks[b"\xff"] = specials.pop(END_OF_TEXT)
        elif END_OF_TEXT not in specials:
            raise UserError(f"no {END_OF_TEXT} to end a document with")
        return tiktoken.Encoding(folder.resolve().name, pat_str=pattern, mergeable_ranks=ranks,
                                 special_tokens=specials)
    except UserError as error:
        raise UserError(f"{path} is not GPT-2's or SmolLM2's kind of tokenizer ({error}), "
                        "take a model with one of these") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or no tokenizer ({type(error).__name__}), restore it") from error


def pattern_of(parts: dict) -> str:
    """Find the pattern that cuts a text as a tokenizer.json does; raises UserError if none of PIECES does."""
    # A step alone is a sequence of one. Old files do not say all, and offsets are of no matter.
    outer = parts["pre_tokenizer"]
    steps = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    for number, step in enumerate(steps):
        if step["type"] == "ByteLevel":
            steps[number] = {"use_regex": True} | step | {"trim_offsets": True}
    for pattern, known in PIECES.items():
        if steps == known and not parts["normalizer"]:
            return pattern
    told = ", ".join(step["type"] for step in [parts["normalizer"], *steps] if step)
    raise UserError(f"text is taken apart by {told}")


def ranks_of(model: dict, specials: dict[str, int]) -> dict[bytes, int]:
    """Take the tokens of a BPE and their ranks, which are their numbers.

    Raises UserError if it is of another kind, or its merges are not in the order of their tokens.
    """
    foreign = [name for name in FOREIGN if model.get(name)]
    if model["type"] != "BPE" or foreign:
        raise UserError(", ".join([model["type"], *foreign]))
    byte_of = {character: byte for byte, character in spelling().items()}
    tokens = {}
    for spelled in model["vocab"].keys() - specials.keys():
        tokens[spelled] = bytes(byte_of[character] for character in spelled)
    ranks = {token: model["vocab"][spelled] for spelled, token in tokens.items()}
    if len({*ranks.values(), *specials.values()}) < len(ranks) + len(specials):
        raise UserError("one number for several tokens")

    # tiktoken merges what makes the lowest token, tokenizers what stands first in its list.
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    merges = [(tokens[left], tokens[right]) for left, right in pairs]
    whole_first = model.get("ignore_merges") or len(merges) == sum(len(token) > 1 for token in ranks)
    if merges != merges_of(ranks) or not whole_first:
        raise UserError("merges are not in the order of their tokens")
    return ranks


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Recover the merges, in order: a token is made of the two that lower ranks make of its bytes.

    Those that lower ranks make more than two of are never made, only found whole.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            made = [ranks.get(left + right, rank) for left, right in zip(parts, parts[1:])]
            lowest = min(made)
            if lowest >= rank:
                break
            place = made.index(lowest)
            parts[place:place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def spelling() -> dict[int, str]:
    """Spell each byte in a character that can be printed, as GPT-2's vocabulary does."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def sparing(pattern: str, ranks: dict[bytes, int]) -> str:
    """Leave characters with a byte that is no token out of a pattern, and so out of the tokens.

    tiktoken would panic at them; tokenizers leaves out the byte. Raises UserError if they are others than
    control characters and those of planes that Unicode does not assign.
    """
    # Some bytes occur in no text, so that they need no token.
    ranges = ""
    for byte in range(256):
        unused_in_utf8 = byte in (0xC0, 0xC1) or byte >= 0xF5
        if bytes([byte]) in ranks or unused_in_utf8:
            continue

        # Which characters have the byte.
        if byte in CONTROL:
            first = last = byte
        elif byte in (0xF1, 0xF2, 0xF3):                    # begins a character of four bytes
            first = (byte & 7) << 18
            last = first + (1 << 18) - 1
        else:
            raise UserError(f"no token for the byte 0x{byte:02x}")
        ranges += rf"\x{{{first:x}}}-\x{{{last:x}}}"
    return pattern.replace(r"[^\s\p{L}\p{N}]", rf"[^\s\p{{L}}\p{{N}}{ranges}]")
