"""A source → token files: what is held out, tokens, and the masks of those that count."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken
from tqdm import tqdm

from data.sources import Source, Spans, empty, tell, within
from data.tokenizers import end_of_text, token_dtype, token_lengths
from run.files import UserError, cannot_write, write_json

HELD_OUT_SHARES = (0.01, 0.02, 0.05, 0.1)   # of documents: the first that leaves MIN_HELD_OUT, else the last
MIN_HELD_OUT = 2 ** 16                      # tokens, so that a held-out loss is stable
HELD_OUT_DOCUMENTS = 2000                   # read of a held-out split that a corpus brings
LIMIT_EVERY = 512                           # documents, after which it is seen whether the limit is reached
BUNDLE = 2 ** 17                            # characters that a thread tokenizes at a time,
BUNDLE_DOCUMENTS = 16                       # or documents
BUNDLES_AT_ONCE = 32                        # held in memory while tokenizing
PARTS = ("train", "held_out")
MASKS = ("train.mask", "held_out.mask")     # beside them: a byte a token, 1 if it counts


class Document(NamedTuple):
    """A document, or a piece of one, and the token file that it goes into."""
    part: str                 # train or held_out
    text: str
    ends: bool = True         # with it, the document does
    completion: Spans | None = None         # its characters whose loss counts, where not all do


class Tokens(NamedTuple):
    """The tokens of a document, or of a piece of one, and the token file that they go into."""
    part: str
    tokens: np.ndarray        # (tokens,) uint16 or uint32
    mask: np.ndarray | None   # (tokens,) bool: which count; None if that is not asked


def prepare(source: Source, tokenizer: tiktoken.Encoding, limit: int | None, home: Path,
            masked: bool = False) -> None:
    """Write train.bin, held_out.bin, their masks if asked, and meta.json into `home`, all or nothing.

    Raises UserError if the source is empty, has too few documents, cannot be read or does not mark what the
    masks are to say, or `home` cannot be written.
    """
    temporary = home.with_name(f".{home.name}.partial")     # the caller sees to it that nobody else writes it
    shutil.rmtree(temporary, ignore_errors=True)            # what one that was killed has left
    try:
        # A small corpus holds out more, so that its held-out loss is stable.
        for share in HELD_OUT_SHARES:
            temporary.mkdir(parents=True, exist_ok=True)
            documents = split(source, share)
            if masked:
                documents = with_completion(documents, source.name)
            counts, checksums = write_tokens(documents, tokenizer, limit, temporary, source.name, masked)
            if counts["held_out"] >= MIN_HELD_OUT or source.held_out_split:
                break
        if not sum(counts.values()):
            raise UserError(empty(source.name))
        if not all(counts.values()):
            raise UserError(too_few_documents(source.name))

        # The rename comes last, so that a folder by this name is always whole.
        write_json(temporary / "meta.json", {
            "source": source.name, "text_field": source.text_field, "limit": limit,
            "revision": source.revision, "tokenizer": tokenizer.name, "dtype": token_dtype(tokenizer).name,
            "tokens": counts, "held_out": source.held_out_split or share, "masked": masked,
            "checksum": checksums.pop("both"), "checksums": checksums})
        shutil.rmtree(home, ignore_errors=True)             # there is one only if it is damaged
        os.replace(temporary, home)
    except BrokenPipeError:                                 # of what is told of the rows, not of a file
        raise
    except OSError as error:
        raise cannot_write(home, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{source.name}: {counts['train']:,} tokens, {counts['held_out']:,} held out → {home}", flush=True)


def split(source: Source, share: float) -> Iterator[Document]:
    """Hold out the split that a corpus brings for that, or else a share of its documents."""
    if source.held_out_split:
        for text, completion in islice(source.documents(held_out=True), HELD_OUT_DOCUMENTS):
            yield Document("held_out", text, completion=completion)
        share = 0                                           # of the rest, nothing
    for text, completion in source.documents():
        part = "held_out" if is_held_out(text, share) else "train"
        yield Document(part, text, completion=completion)


def is_held_out(text: str, share: float) -> bool:
    """Decide by the document alone, so that copies fall on the same side and a larger share only adds."""
    number = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(number) < share * 2 ** 64


def with_completion(documents: Iterator[Document], name: str) -> Iterator[Document]:
    """Go through documents, and tell how many have no completion.

    Raises UserError at one that does not mark it.
    """
    total = without = 0
    for document in documents:
        if document.completion is None:
            raise UserError(f"{name} marks no completion, give rows of messages or of several fields (beside "
                            "text, name them in the stage that reads it first: --text-field "
                            "instruction+input+output), or --loss-on all")
        total += 1
        without += not document.completion
        yield document
    if without:
        tell(f"{name}: {without:,} of {total:,} documents have no completion, they count nothing")


def write_tokens(documents: Iterator[Document], tokenizer: tiktoken.Encoding, limit: int | None, folder: Path,
                 name: str, masked: bool = False) -> tuple[dict[str, int], dict[str, str]]:
    """Tokenize documents on all cores into train.bin and held_out.bin, up to `limit` training tokens.

    If asked, train.mask.bin and held_out.mask.bin say which of them are of a completion. Returns the tokens
    written to each, and checksums of each and of both. Holds 32 bundles and the document that is being read.
    Raises UserError if the tokenizer cannot take one.
    """
    counts = {"train": 0, "held_out": 0}
    names = [*PARTS, *MASKS] if masked else PARTS
    checksums = {name: new_hash() for name in ("both", *names)}
    lengths = token_lengths(tokenizer) if masked else None
    bar = tqdm(total=limit, desc=f"tokenize {name}", unit="tok", unit_scale=True, disable=None, leave=False)
    with ExitStack() as stack, ThreadPoolExecutor() as pool, bar:
        files = {name: stack.enter_context(open(folder / f"{name}.bin", "wb")) for name in names}

        # Where a corpus stops at its limit must not depend on how documents are cut or threads share them.
        while limit is None or counts["train"] < limit:
            before = counts.copy()
            for part, tokens, mask in tokenized(islice(documents, LIMIT_EVERY), tokenizer, pool, lengths):
                files[part].write(tokens)
                checksums["both"].update(tokens)
                checksums[part].update(tokens)
                if masked:
                    files[f"{part}.mask"].write(mask)
                    checksums[f"{part}.mask"].update(mask)
                counts[part] += len(tokens)
                bar.update(len(tokens))
            if counts == before:
                break
    return counts, {name: one.hexdigest() for name, one in checksums.items()}


def tokenized(documents: Iterator[Document], tokenizer: tiktoken.Encoding, pool: ThreadPoolExecutor,
              lengths: np.ndarray | None) -> Iterator[Tokens]:
    """Tokenize documents on all threads of a pool, in order, long ones in pieces."""
    waiting = bundles(documents, cuts(tokenizer))
    while some := list(islice(waiting, BUNDLES_AT_ONCE)):
        for done in pool.map(partial(tokenize, tokenizer, lengths), some):
            yield from done


def bundles(documents: Iterator[Document], places: re.Pattern) -> Iterator[list[Document]]:
    """Put documents, and pieces of long ones, together to as much as is worth a thread's while."""
    bundle, characters = [], 0
    for piece in chain.from_iterable(pieces(document, places) for document in documents):
        bundle.append(piece)
        characters += len(piece.text)
        if characters >= BUNDLE or len(bundle) == BUNDLE_DOCUMENTS:
            yield bundle
            bundle, characters = [], 0
    if bundle:
        yield bundle


def pieces(document: Document, places: re.Pattern) -> Iterator[Document]:
    """Cut a document where it may be, once a piece is long enough."""
    start = 0
    while place := places.search(document.text, start + BUNDLE):
        yield excerpt(document, start, place.start())
        start = place.start()
    yield excerpt(document, start, len(document.text))


def excerpt(document: Document, start: int, end: int) -> Document:
    """Take the characters of a document from `start` to `end`."""
    part, text, ends, completion = document
    if completion is not None:
        completion = within(completion, start, end)
    return Document(part, text[start:end], ends and end == len(text), completion)


def cuts(tokenizer: tiktoken.Encoding) -> re.Pattern:
    """Find the places before which a text may be cut: its pieces have the tokens of the whole.

    Where each token is a byte, that is any character. Else it is the last white space ahead of a word: in
    r50k's pattern it can only begin a token, and what is before it, a word or a run of white space, is
    matched up to it whether the text goes on or not. (1C to 1F are white space to Python alone.) Where digits
    are cut out first, blanks before one belong together: there, it is the last ahead of an ASCII character
    that is none.
    """
    if tokenizer.n_vocab == 256:
        return re.compile(r"[\s\S]")
    word = "[!-/:-~]" if r"|\p{N}|" in tokenizer._pat_str else r"\S"
    return re.compile(rf"[^\S\x1c-\x1f](?={word})")


def tokenize(tokenizer: tiktoken.Encoding, lengths: np.ndarray | None,
             bundle: list[Document]) -> list[Tokens]:
    """Tokenize documents and pieces of them; raises UserError where tiktoken cannot.

    With the `lengths` of all tokens in bytes, which of them are of a completion is found, too.
    """
    done = []
    for piece in bundle:
        # A panic of tiktoken's is no Exception. Nor are signals, but no thread of a pool ever gets one.
        try:
            tokens = tokenizer.encode_to_numpy(piece.text, disallowed_special=())
        except MemoryError:
            raise
        except BaseException as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"tokenizer {tokenizer.name} cannot take the {len(piece.text):,} characters from "
                            f"{piece.text[:20]!r} on ({reason}), take them out or give "
                            "--tokenizer bytes") from error

        # Smaller numbers here, in the thread: what waits to be written is held.
        mask = None if lengths is None else completion_mask(piece, lengths[tokens], tokenizer.name)
        end = [end_of_text(tokenizer)] if piece.ends else []
        tokens = np.concatenate([tokens, end], dtype=token_dtype(tokenizer), casting="unsafe")
        done.append(Tokens(piece.part, tokens, mask))
    return done


def completion_mask(piece: Document, lengths: np.ndarray, name: str) -> np.ndarray:
    """Find which tokens of a piece are of a completion, bool (tokens,), by their `lengths` in bytes.

    That is a token with any character of one, and the end of a document that ends in one. Raises UserError if
    tokens and text cannot be laid side by side.
    """
    # From characters to bytes, of which UTF-8 makes one to four each.
    of_characters = np.zeros(len(piece.text), dtype=bool)
    for first, last in piece.completion:
        of_characters[first:last] = True
    codes = np.frombuffer(piece.text.encode("utf-32-le"), np.uint32)
    of_bytes = np.repeat(of_characters, np.digitize(codes, (0, 0x80, 0x800, 0x10000)))

    # From bytes to tokens; some tokenizers leave out what they have no token for.
    ends = np.cumsum(lengths)
    if lengths.sum() != len(of_bytes):
        raise UserError(f"tokenizer {name} leaves out some of the {len(piece.text):,} characters from "
                        f"{piece.text[:20]!r} on, so that its tokens cannot be told to be of a completion or "
                        "not, take them out or give --loss-on all")
    mask = np.logical_or.reduceat(of_bytes, ends - lengths)
    if piece.ends:
        mask = np.append(mask, of_characters[-1])
    return mask


def too_few_documents(name: str) -> str:
    """Say what is wrong with a corpus of which nothing can be held out."""
    return (f"{name} has too few documents to hold any out, "
            "give it more (an empty line ends a document in .txt)")


def new_hash() -> "hashlib.blake2b":
    """Start a checksum."""
    return hashlib.blake2b(digest_size=16)
