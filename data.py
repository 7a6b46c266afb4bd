"""Corpora → token files → deterministic streams.

A corpus is read one document at a time, split by document hash into a training and a held-out part, tokenized in
parallel and written once as two flat files. Training reads fixed windows of them in a seeded order. Mixing D_post into
Stage 1 and replaying D_pre in Stage 2 are the same thing: `Interleaved`.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken
import torch
from torch import Tensor
from tqdm import tqdm

import corpora
from files import UserError, turn, write_error, write_json

# ---------------------------------------------------------------------------------------------------------------------
# Sources: a name or a path → documents

class HubCorpus(NamedTuple):
    path: str
    configs: tuple[str | None, ...] = (None,)
    revision: str | None = None
    held_out_split: str | None = None          # where there is none, documents are held out by hash


HUB = {  # the paper names no data sets: these, at these revisions, are our choice
    "c4": HubCorpus("allenai/c4", ("en",), "1588ec454efa1a09f29cd18ddd04fe05fc8653a2", "validation"),
    "musicpile": HubCorpus("m-a-p/MusicPile", revision="5930bd7199ddead76ab540901e2187ea4e5fc6a7"),
    "chempile": HubCorpus("jablonkagroup/chempile-education",
                          ("LibreText_Chemistry-default", "mit-ocw-lecture-transcripts-default",
                           "us-olympiad-problems-default", "youtube-transcripts-as-lectures-default"),
                          "c653c3c7bbf599030b80f117b6748ebae406043b"),
    "flan": HubCorpus("Muennighoff/flan"),
}
READERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
TEXT_FIELDS = [("text",), ("prompt", "completion"), ("instruction", "input", "output"), ("instruction", "output"),
               ("inputs", "targets")]


def hub_corpus(source: str) -> HubCorpus | None:
    """What a corpus's name stands for on the hub, None where it does not."""
    if source.startswith("hub:"):
        path, _, config = source.removeprefix("hub:").partition(":")
        return HubCorpus(path, (config or None,))
    return HUB.get(source)


def local_files(source: str) -> list[Path]:
    """The files of a local corpus, sorted; raises UserError if there are none or they cannot be read together."""
    root = Path(source)
    if not root.exists():
        raise UserError(f"no corpus {source!r}, give a file or folder, one of {', '.join(corpora.NAMES)}, "
                        f"{', '.join(HUB)}, or hub:ORG/NAME")
    files = sorted(path for path in root.rglob("*") if reader(path)) if root.is_dir() else [root]
    readers = {reader(path) for path in files}
    if len(readers) != 1 or None in readers:
        found = "files of several kinds" if len(readers) > 1 else "nothing"
        raise UserError(f"{source} holds {found} to read, give {', '.join(READERS)} (also .gz, .zst), "
                        "one kind a folder")
    return files


def reader(path: Path) -> str | None:
    """The `datasets` builder for a file, by its name."""
    stem = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    return READERS.get(stem.suffix)


def rows(source: str, held_out: bool) -> Iterator[dict]:
    """Rows of a local or hub corpus, streamed: nothing is downloaded or held beyond what is read."""
    import datasets                                        # here: embedded corpora need not wait seconds for it
    datasets.disable_progress_bars()
    for noisy in ("huggingface_hub", "datasets"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if hub := hub_corpus(source):
        split = hub.held_out_split if held_out else "train"
        print(f"reading {hub.path} from the hub …", flush=True)
        return chain.from_iterable(
            datasets.load_dataset(hub.path, config, revision=hub.revision, split=split, streaming=True)
            for config in hub.configs)
    files = local_files(source)
    options = {"sample_by": "paragraph"} if reader(files[0]) == "text" else {}          # a blank line ends a document
    return iter(datasets.load_dataset(reader(files[0]), data_files=[str(path) for path in files], split="train",
                                      streaming=True, **options))


def find_fields(row: dict, text_field: str | None, source: str) -> tuple[str, ...]:
    """Which fields of `row` make up a document; raises UserError if none is known."""
    named = [tuple(text_field.split("+"))] if text_field else []
    for fields in named + TEXT_FIELDS:
        if all(isinstance(row.get(field), str) for field in fields):
            if named and fields != named[0]:               # D_pre and D_post share the flag
                print(f"{source} has no field {text_field}, reading {'+'.join(fields)}")
            return fields
    raise UserError(f"no text field in {source} (it has {', '.join(map(str, row))}), name one with --text-field, "
                    "several as A+B")


def join_fields(row: dict, fields: tuple[str, ...]) -> str:
    """One document: the fields in order, each on a line of its own unless the one before ends in white space."""
    text = ""
    for part in filter(None, map(row.get, fields)):
        text += part if not text or text[-1].isspace() else "\n" + part
    return text.strip().removesuffix("<|endoftext|>")      # some published corpora spell the separator out


def documents(source: str, text_field: str | None = None, held_out: bool = False) -> Iterator[str]:
    """The documents of a corpus in order; `held_out` reads the held-out split that some hub corpora bring.

    Raises UserError, one line with a way out, whatever is wrong with the corpus.
    """
    if source in corpora.NAMES:
        yield from corpora.documents(source)
        return
    try:
        fields = None
        for row in rows(source, held_out):
            fields = fields or find_fields(row, text_field, source)
            if text := join_fields(row, fields):
                yield text
    except UserError:
        raise
    except StopIteration as error:                         # how datasets meets a JSON file without a row
        raise UserError(empty(source)) from error
    except Exception as error:                             # datasets raises a different kind for every reader
        causes = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        if any(isinstance(cause, UnicodeDecodeError) or "UTF8" in str(cause) for cause in causes):
            raise UserError(f"{source} is not UTF-8, convert it first (iconv -t utf-8)") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if hub_corpus(source):
            raise UserError(f"cannot read {source} from the hub ({reason}), use an embedded corpus "
                            f"({', '.join(corpora.NAMES)}) or a local file instead") from error
        raise UserError(f"cannot read {source} ({reason}), check that it is what its name says") from error


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers

END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(name: str) -> tiktoken.Encoding:
    """`gpt2`, `bytes` (no download; the paper's method at toy size), or the path of a .tiktoken file."""
    if name == "bytes":
        # Pieces of 64 characters only bound the work of a merge search that can find nothing to merge.
        return tiktoken.Encoding("bytes", pat_str=r"[\s\S]{1,64}", special_tokens={},
                                 mergeable_ranks={bytes([byte]): byte for byte in range(256)})
    from tiktoken.load import load_tiktoken_bpe
    from tiktoken_ext.openai_public import r50k_pat_str
    if name != "gpt2" and not Path(name).exists():
        raise UserError(f"no tokenizer {name!r}, give bytes, gpt2 or the path of a .tiktoken file (--tokenizer bytes)")
    try:
        if name == "gpt2":
            return tiktoken.get_encoding("gpt2")
        ranks = load_tiktoken_bpe(name)
        return tiktoken.Encoding(Path(name).stem, pat_str=r50k_pat_str, mergeable_ranks=ranks,
                                 special_tokens={END_OF_TEXT: max(ranks.values()) + 1})
    except Exception as error:
        raise UserError(f"cannot load tokenizer {name} ({type(error).__name__}; tiktoken downloads gpt2 once), "
                        "use --tokenizer bytes or the path of a .tiktoken file") from error


def end_of_text(tokenizer: tiktoken.Encoding) -> int:
    """The token that ends every document. For `bytes` it is 255, a byte that UTF-8 never uses."""
    return 255 if tokenizer.name == "bytes" else tokenizer._special_tokens[END_OF_TEXT]


def fingerprint(tokenizer: tiktoken.Encoding) -> str:
    """Differs where two tokenizers do."""
    return digest(tokenizer._pat_str, sorted(tokenizer._mergeable_ranks.items()))


def digest(*values: object) -> str:
    return hashlib.blake2b(repr(values).encode(), digest_size=6).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Token files

HELD_OUT_SHARES = (0.01, 0.02, 0.05, 0.1)   # of documents: the first that leaves MIN_HELD_OUT tokens, at most the last
MIN_HELD_OUT = 2 ** 16                      # tokens, so that a held-out loss is stable
HELD_OUT_DOCUMENTS = 2000                   # read of a held-out split that a corpus brings
HELD_OUT_SEQUENCES = 256                    # every held-out loss is over so many windows


@dataclass(frozen=True)
class Corpus:
    """Memory-mapped token files. `record` is what a checkpoint keeps to find the same corpus again."""
    train: np.ndarray         # (tokens,) uint16 or uint32
    held_out: np.ndarray
    record: dict              # source, text_field, limit, checksum

    def held_out_sequences(self, context: int) -> Tensor:
        """(sequences, context + 1) int64: the windows of every held-out loss, evenly spread over what is held out."""
        total = (len(self.held_out) - 1) // context
        if total < 1:
            raise UserError(too_few_documents(self.record["source"]))
        count = min(HELD_OUT_SEQUENCES, total)
        return torch.stack([window(self.held_out, i * total // count, context) for i in range(count)])

    def windows(self, context: int, batch: int, seed: int, stage: int, limit: int | None = None) -> "Windows":
        """The training tokens as windows, or `limit` tokens of them: a choice that depends on the corpus alone.

        Raises UserError if they are fewer than a batch of sequences, or nothing is held out.
        """
        self.held_out_sequences(context)
        total = (len(self.train) - 1) // context
        chosen = np.arange(total, dtype=np.uint32)
        if limit and limit // context < total:           # the smaller of two limits chooses a part of the larger's
            chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:limit // context])
        if len(chosen) < batch:
            raise UserError(f"{self.record['source']} is shorter than one batch: {len(chosen)} sequences of {context} "
                            f"tokens, --batch {batch}; give more text or a smaller --batch")
        return Windows(self.train, context, seed, stage, chosen)


def open_corpus(source: str, tokenizer: tiktoken.Encoding, text_field: str | None = None, limit: int | None = None,
                checksum: str | None = None, folder: Path = Path("out/tokens")) -> Corpus:
    """The token files of a corpus, prepared first if need be.

    `limit` (tokens) bounds what is read of a corpus with a held-out split of its own (C4); others are prepared whole,
    so that what is held out does not depend on it. `checksum` asks for the files that a checkpoint was trained on;
    while they are there, the corpus need not be. Raises UserError if it is needed and empty, unreadable or changed.
    """
    for meta in folder.glob("*/meta.json") if checksum else ():
        if json.loads(meta.read_text())["checksum"] == checksum:
            return load_corpus(meta.parent)
    hub = hub_corpus(source)
    limit = limit if hub and hub.held_out_split else None
    if source in corpora.NAMES:
        version = [Path(corpora.__file__).with_suffix(suffix).read_bytes() for suffix in (".py", ".txt")]
    else:
        version = hub or [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in local_files(source)]
    slug = "".join(c if c.isalnum() else "-" for c in Path(source).name.split(".")[0])
    home = folder / f"{slug}-{tokenizer.name}-{digest(source, version, text_field, limit, fingerprint(tokenizer))}"
    if not (home / "meta.json").exists():
        with turn(folder / f".{home.name}.lock"):
            if not (home / "meta.json").exists():          # else another run has just prepared the same
                prepare(source, tokenizer, text_field, limit, home)
    corpus = load_corpus(home)
    if checksum not in (None, corpus.record["checksum"]):
        raise UserError(f"{source} has changed since an earlier stage read it, restore it or start from pretrain.py")
    return corpus


def load_corpus(home: Path) -> Corpus:
    """The token files in a folder that `prepare` has written."""
    meta = json.loads((home / "meta.json").read_text())
    train, held_out = (np.memmap(home / f"{part}.bin", dtype=meta["dtype"], mode="r") for part in ("train", "held_out"))
    return Corpus(train, held_out, {key: meta[key] for key in ("source", "text_field", "limit", "checksum")})


def prepare(source: str, tokenizer: tiktoken.Encoding, text_field: str | None, limit: int | None, home: Path) -> None:
    """Write train.bin, held_out.bin and meta.json into `home`, all or nothing."""
    temporary = home.with_name(f".{home.name}.partial")     # the caller sees to it that nobody else writes it
    hub = hub_corpus(source) or HubCorpus(source)          # any other corpus has no revision and no split either
    try:
        for share in HELD_OUT_SHARES:
            temporary.mkdir(parents=True, exist_ok=True)
            texts = documents(source, text_field)
            if hub.held_out_split:
                held_out = islice(documents(source, text_field, held_out=True), HELD_OUT_DOCUMENTS)
                labelled = chain(((True, text) for text in held_out), ((False, text) for text in texts))
            else:
                labelled = ((is_held_out(text, share), text) for text in texts)
            counts, checksum = write_tokens(labelled, tokenizer, limit, temporary, source)
            if counts["held_out"] >= MIN_HELD_OUT or hub.held_out_split:
                break
        if not sum(counts.values()):
            raise UserError(empty(source))
        if not all(counts.values()):
            raise UserError(too_few_documents(source))
        write_json(temporary / "meta.json", {
            "source": source, "text_field": text_field, "limit": limit, "revision": hub.revision,
            "tokenizer": tokenizer.name, "dtype": token_dtype(tokenizer).name, "tokens": counts,
            "held_out": hub.held_out_split or share, "checksum": checksum})
        os.replace(temporary, home)
        print(f"{source}: {counts['train']:,} tokens, {counts['held_out']:,} held out → {home}", flush=True)
    except OSError as error:
        raise write_error(home, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def empty(source: str) -> str:
    return f"{source} is empty, give a corpus with text in it"


def too_few_documents(source: str) -> str:
    return f"{source} has too few documents to hold any out, give it more (a blank line ends a document in .txt)"


def is_held_out(text: str, share: float) -> bool:
    """Decided by the document alone, so that copies of one fall on the same side and a larger share only adds."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()) < share * 2 ** 64


def token_dtype(tokenizer: tiktoken.Encoding) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.n_vocab <= 2 ** 16 else np.uint32)


def write_tokens(labelled: Iterator[tuple[bool, str]], tokenizer: tiktoken.Encoding, limit: int | None, folder: Path,
                 source: str) -> tuple[dict[str, int], str]:
    """Tokenize (held out?, document) pairs on all cores into train.bin and held_out.bin, up to `limit` training tokens.

    Returns the tokens written to each and a checksum over both. Holds no more than 512 documents at a time.
    """
    counts, checksum = {"train": 0, "held_out": 0}, hashlib.blake2b(digest_size=16)
    with (open(folder / "train.bin", "wb") as train, open(folder / "held_out.bin", "wb") as held_out,
          ThreadPoolExecutor() as pool,
          tqdm(total=limit, desc=f"tokenize {source}", unit="tok", unit_scale=True, disable=None, leave=False) as bar):
        files = {"train": train, "held_out": held_out}
        while (limit is None or counts["train"] < limit) and (some := list(islice(labelled, 512))):
            encoded = pool.map(lambda pair: tokenizer.encode_to_numpy(pair[1], disallowed_special=()), some)
            for (held, _), tokens in zip(some, encoded):
                part = "held_out" if held else "train"
                tokens = np.append(tokens, end_of_text(tokenizer)).astype(token_dtype(tokenizer))
                files[part].write(tokens)
                checksum.update(tokens)
                counts[part] += len(tokens)
                bar.update(len(tokens))
    return counts, checksum.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Streams

def window(tokens: np.ndarray, index: int, context: int) -> Tensor:
    """The index-th non-overlapping window, int64 (context + 1,): `context` inputs and, one further, their targets."""
    return torch.from_numpy(tokens[index * context:(index + 1) * context + 1].astype(np.int64))


@dataclass(frozen=True, eq=False)
class Windows:
    """A corpus cut into windows and read in passes, each a fresh permutation seeded by (seed, stage, pass)."""
    tokens: np.ndarray
    context: int
    seed: int
    stage: int
    chosen: np.ndarray          # (windows,) uint32: the numbers of those that a pass reads

    def __len__(self) -> int:
        return len(self.chosen)

    @lru_cache(maxsize=4)                                  # two corpora, each where a batch straddles two passes
    def permutation(self, number: int) -> np.ndarray:
        """The order of a pass, as window numbers."""
        return np.random.default_rng([self.seed, self.stage, number]).permutation(self.chosen)

    def __getitem__(self, position: int) -> Tensor:
        """The window at a position counted over all passes."""
        number, offset = divmod(position, len(self))
        return window(self.tokens, int(self.permutation(number)[offset]), self.context)


@dataclass(frozen=True)
class Interleaved:
    """The sequences of one stage, a pure function of the step: nothing to save, nothing to restore.

    Mixing and replay both: all sequences of the major corpus, and between them, evenly spaced, those of the minor one.
    Slot s holds the next minor sequence where `minor_before` grows from s to s + 1, else the next major one; so the
    order of either corpus does not depend on how much there is of the other.
    """
    major: Windows
    minor: Windows
    n_major: int                 # sequences
    n_minor: int
    batch_size: int              # sequences a step, over all ranks and accumulation

    @property
    def steps(self) -> int:
        """The last one may be short: every slot is trained on, none is invented."""
        return -(-self.length // self.batch_size)

    @property
    def length(self) -> int:
        return self.n_major + self.n_minor

    def minor_before(self, slot: int) -> int:
        """How many of the slots before `slot` are the minor corpus's: slot · n_minor / length, rounded."""
        return (slot * self.n_minor + self.length // 2) // max(self.length, 1)

    def seen(self, steps: int) -> tuple[int, int]:
        """(major, minor) sequences in the first `steps` steps."""
        slots = min(steps * self.batch_size, self.length)
        return slots - self.minor_before(slots), self.minor_before(slots)

    def sequence(self, slot: int) -> Tensor:
        """The (context + 1,) tokens at a slot."""
        before = self.minor_before(slot)
        return self.minor[before] if self.minor_before(slot + 1) > before else self.major[slot - before]

    def sequences_in(self, step: int) -> int:
        """How many sequences the step trains on: `batch_size`, or what is left for the last."""
        return min(self.batch_size, self.length - step * self.batch_size)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a rank's slice, int64 (batch_size / world, context); short steps end in targets -1."""
        size = self.batch_size // world
        first = step * self.batch_size + rank * size
        sequences = torch.full((size, self.major.context + 1), -1)
        for row, slot in enumerate(range(first, min(first + size, self.length))):
            sequences[row] = self.sequence(slot)
        return sequences[:, :-1].clamp(min=0), sequences[:, 1:]


def whole_sequences(tokens: int, context: int) -> int:
    """How many sequences a budget of tokens is; raises UserError if it is none."""
    if tokens < context:
        raise UserError(f"{tokens} tokens are less than one sequence of {context}, give a larger budget")
    return tokens // context


def count_for_share(share: float, n_major: int) -> int:
    """How many minor sequences make up `share` of a stream with `n_major` others: it grows by 1 / (1 − share)."""
    return round(n_major * share / (1 - share))


# ---------------------------------------------------------------------------------------------------------------------
# The corpora of a checkpoint

def tokenizer_of(lineage: list[dict]) -> tiktoken.Encoding:
    """The tokenizer that a checkpoint's first stage used; raises UserError if it is no longer the same."""
    first = lineage[0]
    tokenizer = load_tokenizer(first["args"]["tokenizer"])
    if fingerprint(tokenizer) != first["tokenizer"]:
        raise UserError(f"tokenizer {first['args']['tokenizer']} is not the one of the checkpoint, restore it")
    return tokenizer


def corpus_of(lineage: list[dict], role: str) -> Corpus:
    """D_pre, D_post or D_ft (`pre`, `post`, `ft`) of a checkpoint, as the stage that brought it in read it."""
    record = next(entry["corpora"][role] for entry in lineage if role in entry["corpora"])
    return open_corpus(tokenizer=tokenizer_of(lineage), **record)
