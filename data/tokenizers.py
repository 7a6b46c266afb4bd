"""The tokenizer of a name or a path, as a tiktoken encoding, and what is told of one."""

import base64
import hashlib
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from data.tokenizer_json import BYTES_PATTERN, END_OF_TEXT, read_tokenizer
from run.files import UserError


def load_tokenizer(name: str) -> tiktoken.Encoding:
    """Load `gpt2`, `bytes` (no download; the paper's method at toy size), or what a path leads to.

    That is a .tiktoken file or a folder with Hugging Face's tokenizer.json. Raises UserError if there is none
    of that name or it cannot be loaded.
    """
    if name == "bytes":
        single_bytes = {bytes([byte]): byte for byte in range(256)}
        return tiktoken.Encoding("bytes", pat_str=BYTES_PATTERN, special_tokens={},
                                 mergeable_ranks=single_bytes)
    if name != "gpt2" and not Path(name).exists():
        raise UserError(f"no tokenizer {name!r}, give bytes, gpt2, the path of a .tiktoken file or of a "
                        "folder with tokenizer.json (--tokenizer bytes)")
    if name != "gpt2" and Path(name).is_dir():
        return read_tokenizer(Path(name))

    # What tiktoken raises is of many kinds.
    try:
        if name == "gpt2":
            return tiktoken.get_encoding("gpt2")
        ranks = read_ranks(Path(name))
        return tiktoken.Encoding(Path(name).stem, pat_str=r50k_pat_str, mergeable_ranks=ranks,
                                 special_tokens={END_OF_TEXT: max(ranks.values()) + 1})
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot load tokenizer {name} ({type(error).__name__}; "
                        "tiktoken downloads gpt2 once), "
                        "use --tokenizer bytes or the path of a .tiktoken file") from error


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a .tiktoken file: a token in base64 and its rank a line.

    Not by tiktoken, which keeps what it has read by the name of the path: of two files, it would use the
    first. Raises UserError if a line is anything else or a byte is no token, at which tiktoken would panic.
    """
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise UserError(f"line {number} of {path} is not a token in base64 and its rank") from error

    # What would go wrong later, in the middle of a text, is said now.
    lacking = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if lacking:
        raise UserError(f"{path} has no token for {len(lacking)} bytes (0x{lacking[0]:02x} is the first), "
                        "choose one that has all 256")
    if len(set(ranks.values())) < len(ranks):
        raise UserError(f"{path} gives one rank to several tokens, choose another")
    return ranks


def end_of_text(tokenizer: tiktoken.Encoding) -> int:
    """Find the token that ends every document. For `bytes` it is 255, a byte that UTF-8 never uses."""
    return tokenizer._special_tokens.get(END_OF_TEXT, 255)


def fingerprint(tokenizer: tiktoken.Encoding) -> str:
    """Make digits that differ where two tokenizers do."""
    # The end of a document is part of them where it is not the first number that tokens of text leave: it was
    # of none in the lineages of old runs.
    ranks = tokenizer._mergeable_ranks
    first_left = max(ranks.values()) + 1 if 0 in ranks.values() else 0
    end = tokenizer._special_tokens.get(END_OF_TEXT, first_left)
    more = [end] if end != first_left else []
    return digest(tokenizer._pat_str, sorted(ranks.items()), *more)


def token_lengths(tokenizer: tiktoken.Encoding) -> np.ndarray:
    """Measure the tokens of text, in bytes: int64, by their numbers."""
    lengths = np.zeros(tokenizer.n_vocab, dtype=np.int64)
    for token, number in tokenizer._mergeable_ranks.items():
        lengths[number] = len(token)
    return lengths


def token_dtype(tokenizer: tiktoken.Encoding) -> np.dtype:
    """Choose the smallest kind of integer that holds every token."""
    return np.dtype(np.uint16 if tokenizer.n_vocab <= 2 ** 16 else np.uint32)


def digest(*values: object) -> str:
    """Make twelve digits that differ where the values, as text, do."""
    return hashlib.blake2b(repr(values).encode(), digest_size=6).hexdigest()
