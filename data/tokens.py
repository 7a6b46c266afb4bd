"""A source → token files, prepared once and memory-mapped, and the held-out part of every corpus."""

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken
import torch
from torch import Tensor
from tiktoken_ext.openai_public import r50k_pat_str
from tqdm import tqdm

from data.sources import Source, Spans, empty, find_source, tell, within
from data.stream import Windows, window
from data.tokenizer_json import BYTES_PATTERN, END_OF_TEXT, read_tokenizer
from run.files import UserError, atomic, cannot_write, turn, write_json

HELD_OUT_SHARES = (0.01, 0.02, 0.05, 0.1)   # of documents: the first that leaves MIN_HELD_OUT, else the last
MIN_HELD_OUT = 2 ** 16                      # tokens, so that a held-out loss is stable
HELD_OUT_DOCUMENTS = 2000                   # read of a held-out split that a corpus brings
HELD_OUT_SEQUENCES = 256                    # every held-out loss is over so many windows
LIMIT_EVERY = 512                           # documents, after which it is seen whether the limit is reached
BUNDLE = 2 ** 17                            # characters that a thread tokenizes at a time,
BUNDLE_DOCUMENTS = 16                       # or documents
BUNDLES_AT_ONCE = 32                        # held in memory while tokenizing
ALWAYS_CHECKED = 2 ** 26                    # bytes of a token file whose checksum every process looks at
PARTS = ("train", "held_out")
MASKS = ("train.mask", "held_out.mask")     # beside them: a byte a token, 1 if it counts
RECORD = ("source", "text_field", "limit", "checksum")        # what a checkpoint keeps of a corpus


# ------------------------------------------------------------------------------------------------------------
# Corpora

@dataclass(frozen=True)
class Corpus:
    """Memory-mapped token files. `record` is what a checkpoint keeps to find the same corpus again."""
    role: str                 # what it is here: pre, post, ft
    train: np.ndarray         # (tokens,) uint16 or uint32
    held_out: np.ndarray
    record: dict              # its RECORD
    train_mask: np.ndarray | None = None        # (tokens,) bool: which tokens count; None: all
    held_out_mask: np.ndarray | None = None

    def held_out_sequences(self, context: int) -> Tensor:
        """Cut the windows of every held-out loss, evenly spread over what is held out.

        Returns int64 (sequences, context + 1), as `window` has them. Raises UserError if they are fewer than
        two, of which a mean has a standard error, or nothing in them counts.
        """
        total = (len(self.held_out) - 1) // context
        if total < 2:
            raise UserError(f"{self.record['source']} holds out {len(self.held_out)} tokens, less than two "
                            f"sequences of {context}, give it more text or a smaller --context")
        count = min(HELD_OUT_SEQUENCES, total)
        places = (i * total // count for i in range(count))
        sequences = torch.stack([window(self.held_out, i, context, self.held_out_mask) for i in places])
        if not (sequences[:, 1:] >= 0).any():
            raise UserError(f"{self.record['source']} holds out no completion, give it more or --loss-on all")
        return sequences

    def windows(self, context: int, at_least: int, seed: int, stage: int,
                limit: int | None = None) -> Windows:
        """Cut the training tokens, or `limit` tokens of them, into windows of `context` tokens.

        Which ones depends on the corpus alone. Raises UserError if there are fewer than `at_least`, or
        nothing is held out.
        """
        # What cannot be measured is refused before it is trained on.
        self.held_out_sequences(context)
        total = (len(self.train) - 1) // context
        chosen = np.arange(total, dtype=np.uint32)

        # All over the corpus, and so that the smaller of two limits chooses a part of the larger's.
        if limit and limit // context < total:
            chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:limit // context])
        if len(chosen) < at_least:
            short = self.record["source"]
            if len(chosen) < total:                  # by the limit
                short = f"what was asked for of {short}, {limit} tokens,"
            raise UserError(f"{short} is shorter than one batch: {len(chosen)} sequences of {context} "
                            f"tokens, not {at_least}; give more, or a smaller --batch or --context")
        return Windows(self.role, self.train, context, seed, stage, chosen, self.train_mask,
                       self.record["checksum"])


def open_corpus(role: str, source: Source, tokenizer: tiktoken.Encoding, limit: int | None = None,
                folder: Path = Path("out/tokens"), loss_on: str = "all") -> Corpus:
    """Open the token files of a corpus, prepared first if need be; of which tokens the loss counts, too.

    `limit` (tokens) bounds what is read of a corpus with a held-out split of its own (C4). Others are read
    whole, so that what is held out does not depend on it. Raises UserError if there is no text to be read, or
    only a completion's loss is to count and the corpus marks none.
    """
    if not source.held_out_split:
        limit = None
    slug = re.sub(r"[\W_]", "-", Path(source.name).name.split(".")[0])
    slug = slug.encode()[:100].decode(errors="ignore")       # the name of a file has 255 bytes
    key = digest(source.name, source.version(), source.text_field, limit, fingerprint(tokenizer))
    masked = loss_on == "completion"
    suffix = "-completion" if masked else ""
    home = folder / f"{slug}-{tokenizer.name}-{key}{suffix}"

    # Several runs may start at once: one prepares, or mends what is damaged, the others find it done.
    corpus = load_corpus(role, home, masked)
    if corpus is None:
        with turn(folder / f".{home.name}.lock"):
            corpus = load_corpus(role, home, masked)
            if corpus is None:
                prepare(source, tokenizer, limit, home, masked)
                corpus = load_corpus(role, home, masked)
    return corpus


def corpus_of(lineage: list[dict], role: str, folder: Path = Path("out/tokens"),
              loss_on: str | None = None, run: Path | None = None) -> Corpus:
    """Open D_pre, D_post or D_ft (`pre`, `post`, `ft`) of a checkpoint, as the last stage with it read it.

    That goes for the tokens that count, too, unless `loss_on` says which. While the token files are there,
    here or above the folder `run` of the checkpoint, the corpus need not be. Raises UserError if it is needed
    and has changed.
    """
    tokenizer = tokenizer_of(lineage, run)
    entries = [entry for entry in lineage if role in entry["corpora"]]
    if not entries or not is_record(entries[-1]["corpora"][role]):
        raise UserError(f"the checkpoint does not say what its D_{role} is, make it again or name another")

    # Its token files may be here, where that stage ran, or above a run that was moved; without masks they
    # do only where every token counts.
    record = entries[-1]["corpora"][role]
    loss_on = loss_on or loss_was_on(lineage, role)
    masked = loss_on == "completion"
    places = working_folders(entries[-1], run)
    there = (sorted(home.glob("*/meta.json")) for home in token_folders(folder, places))
    for path in chain.from_iterable(there):
        meta = read_meta(path.parent)
        same = meta.get("checksum") == record["checksum"]
        if masked:                           # other rows of the same text may mark other completions
            same = same and meta.get("masked") and all(meta[name] == record[name] for name in RECORD)
        if same:
            corpus = load_corpus(role, path.parent, masked)
            if corpus:
                return corpus

    # Deleted or damaged token files are made again, and are of use only if they come out the same.
    name = record["source"]
    path = name.removeprefix("hub:").partition(":")[0]
    source = find_source(name, record["text_field"], where(path, places))
    corpus = open_corpus(role, source, tokenizer, record["limit"], folder, loss_on)
    if corpus.record["checksum"] != record["checksum"]:
        raise UserError(f"{name} has changed since an earlier stage read it, "
                        "restore it or start from pretrain.py")
    return corpus


def loss_was_on(lineage: list[dict], role: str) -> str:
    """Tell which tokens of a corpus counted when last trained on: all or completion. Of D_pre all do."""
    said = [entry["args"].get("loss_on", "all") for entry in lineage if role in entry["tokens"]]
    return said[-1] if said and role != "pre" else "all"


def working_folders(entry: dict, run: Path | None) -> list[Path]:
    """List where the relative names of a finished stage may start: where it ran, here, or above its folder.

    What was made before stages noted where they ran, or was moved since, is found by the last two.
    """
    noted = [Path(entry["folder"])] if "folder" in entry else []
    above = list(run.resolve().parents) if run else []
    return [*noted, Path(), *above]


def token_folders(here: Path, places: list[Path]) -> list[Path]:
    """List the folders of token files that are there: here, then those of stages, and beside moved runs."""
    theirs = [place / name for place in places for name in ("out/tokens", "tokens")]
    return list(filter(os.path.isdir, [here, *theirs]))       # which takes no offence at others' folders


def where(path: str, places: list[Path]) -> Path:
    """Find the first of the places from which a path leads somewhere; here, if there is none."""
    return next((place for place in places if os.path.exists(place / path)), Path())


def is_record(record: object) -> bool:
    """Tell whether a value is what a checkpoint keeps of a corpus."""
    return isinstance(record, dict) and set(RECORD) <= record.keys() and isinstance(record["source"], str)


# ------------------------------------------------------------------------------------------------------------
# Token files that are there

def load_corpus(role: str, home: Path, masked: bool = False) -> Corpus | None:
    """Map the token files in a folder that `prepare` has written; None if they are not there or not whole."""
    if not (home / "meta.json").exists():
        return None
    meta = read_meta(home)
    damage = what_is_damaged(home, meta)
    if damage:
        print(f"{home} is damaged ({damage}), it is not used", flush=True)
        return None
    files = [np.memmap(home / f"{part}.bin", dtype=meta["dtype"], mode="r") for part in PARTS]
    masks = [np.memmap(home / f"{part}.bin", dtype=bool, mode="r") for part in MASKS if masked]
    return Corpus(role, *files, {key: meta[key] for key in RECORD}, *masks)


def read_meta(home: Path) -> dict:
    """Read meta.json; empty if it is not what `prepare` writes."""
    try:
        meta = json.loads((home / "meta.json").read_text())
        sizes = sizes_of(meta)
        known = is_record(meta) and min(sizes.values()) > 0 and meta["dtype"] in ("uint16", "uint32")
        known = known and isinstance(meta.get("checksums", {}), dict)
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return meta if known else {}


def sizes_of(meta: dict) -> dict[str, int]:
    """Tell the files that meta.json speaks of, by what is before .bin, and their bytes."""
    sizes = {part: meta["tokens"][part] * np.dtype(meta["dtype"]).itemsize for part in PARTS}
    if meta.get("masked"):
        sizes |= {mask: meta["tokens"][part] for mask, part in zip(MASKS, PARTS)}
    return sizes


def what_is_damaged(home: Path, meta: dict) -> str:
    """Say which of the token files is not what meta.json says of it; nothing if all are.

    Sizes are always looked at. Checksums are of files of up to 64 MiB; of larger ones the first time, and
    again when their size or time of change is another: hundreds of GB must not hold up every start.
    """
    if not meta:
        return "meta.json"
    for part, size in sizes_of(meta).items():
        path = home / f"{part}.bin"
        if not path.exists() or path.stat().st_size != size:
            return path.name
        if part not in meta.get("checksums", {}):           # written before there were any
            continue

        # What was found whole is noted with the state that it was in.
        stamp = home / f".{part}.verified"
        state = f"{path.stat().st_size} {path.stat().st_mtime_ns}"
        large = path.stat().st_size > ALWAYS_CHECKED
        if large and stamp.exists() and stamp.read_text() == state:
            continue
        with open(path, "rb") as file:
            if hashlib.file_digest(file, new_hash).hexdigest() != meta["checksums"][part]:
                return path.name
        if large:
            with suppress(UserError), atomic(stamp) as file:       # where nothing can be written: each time
                file.write(state.encode())
    return ""


def new_hash() -> "hashlib.blake2b":
    """Start a checksum."""
    return hashlib.blake2b(digest_size=16)


# ------------------------------------------------------------------------------------------------------------
# Token files that are made

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


def token_lengths(tokenizer: tiktoken.Encoding) -> np.ndarray:
    """Measure the tokens of text, in bytes: int64, by their numbers."""
    lengths = np.zeros(tokenizer.n_vocab, dtype=np.int64)
    for token, number in tokenizer._mergeable_ranks.items():
        lengths[number] = len(token)
    return lengths


def token_dtype(tokenizer: tiktoken.Encoding) -> np.dtype:
    """Choose the smallest kind of integer that holds every token."""
    return np.dtype(np.uint16 if tokenizer.n_vocab <= 2 ** 16 else np.uint32)


def too_few_documents(name: str) -> str:
    """Say what is wrong with a corpus of which nothing can be held out."""
    return (f"{name} has too few documents to hold any out, "
            "give it more (an empty line ends a document in .txt)")


# ------------------------------------------------------------------------------------------------------------
# Tokenizers

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


def tokenizer_of(lineage: list[dict], run: Path | None = None) -> tiktoken.Encoding:
    """Load the tokenizer of a checkpoint's first stage, found as a corpus is.

    Raises UserError if it is no longer the same.
    """
    name = lineage[0]["args"].get("tokenizer")
    if not isinstance(name, str):
        raise UserError("the checkpoint does not say what its tokenizer is, make it again or name another")
    if name not in ("bytes", "gpt2"):
        name = str(where(name, working_folders(lineage[0], run)) / name)
    tokenizer = load_tokenizer(name)
    if fingerprint(tokenizer) != lineage[0].get("tokenizer"):
        raise UserError(f"tokenizer {name} is not the one of the checkpoint, restore it")
    return tokenizer


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


def digest(*values: object) -> str:
    """Make twelve digits that differ where the values, as text, do."""
    return hashlib.blake2b(repr(values).encode(), digest_size=6).hexdigest()
