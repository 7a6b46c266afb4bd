"""Corpora as their token files, memory-mapped: opened, made if need be, found again by a later stage."""

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import tiktoken
import torch
from torch import Tensor

from data.sources import Source, find_source
from data.stream import Windows, window
from data.tokenizers import digest, fingerprint, load_tokenizer
from data.tokens import MASKS, PARTS, new_hash, prepare
from run.files import UserError, atomic, turn

HELD_OUT_SEQUENCES = 256                    # every held-out loss is over so many windows
ALWAYS_CHECKED = 2 ** 26                    # bytes of a token file whose checksum every process looks at
RECORD = ("source", "text_field", "limit", "checksum")        # what a checkpoint keeps of a corpus


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
# Token files

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


# ------------------------------------------------------------------------------------------------------------
# The tokenizer

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
