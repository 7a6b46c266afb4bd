"""A corpus's name or path → its documents. What kind of corpus it is, is decided here and once."""

import csv
import glob
import gzip
import json
import logging
import os
import re
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import IO, NamedTuple

import zstandard

from data import embedded
from run.files import UserError, refusing
from run.flags import positive


Spans = tuple[tuple[int, int], ...]        # of characters: the first, and one beyond the last


class Text(NamedTuple):
    """A document, and which of its characters answer a prompt."""
    text: str
    completion: Spans | None = None            # () if none does, None if that is not marked


class HubSet(NamedTuple):
    """A data set of the hub, and which of its configurations and splits are read, at which revision."""
    path: str
    configs: tuple[str | None, ...] = (None,)
    revision: str | None = None
    held_out_split: str | None = None          # where there is none, documents are held out by hash
    split: str = "train"


HUB = {  # the paper names no data sets: these, at these revisions (none: the latest), are our choice
    "c4": HubSet("allenai/c4", configs=("en",), revision="1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
                 held_out_split="validation"),
    "musicpile": HubSet("m-a-p/MusicPile", revision="5930bd7199ddead76ab540901e2187ea4e5fc6a7"),
    "chempile": HubSet("jablonkagroup/chempile-education",
                       configs=("LibreText_Chemistry-default", "mit-ocw-lecture-transcripts-default",
                                "us-olympiad-problems-default", "youtube-transcripts-as-lectures-default"),
                       revision="c653c3c7bbf599030b80f117b6748ebae406043b"),
    "flan": HubSet("Muennighoff/flan"),
}
READERS = {".txt": "text", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv",
           ".parquet": "parquet"}
READ_HERE = {".txt", ".jsonl", ".ndjson", ".json"}         # and tables; all others are read by `datasets`
DELIMITERS = {".csv": ",", ".tsv": "\t"}
UNPACK = {".gz": gzip.open, ".zst": zstandard.open}
TRAIN = {"train", "training"}              # words in the names of a data set's files, as for `datasets`
HELD_OUT = {"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
NO_NUMBER = ["", "NA", "N/A", "NaN", "nan", "null"]          # what a cell of a column of numbers may say
HALF_PAIR = re.compile("[\ud800-\udfff]")  # of surrogates: JSON can spell one, UTF-8 and tokenizers cannot
TEXT_FIELDS = [  # the first that a row has are read, of several the last is the completion
    ("text",), ("prompt", "completion"), ("instruction", "input", "output"), ("instruction", "output"),
    ("inputs", "targets"), ("messages",), ("conversations",), ("question", "answer"),
    ("instruction", "context", "response"), ("instruction", "response"), ("query", "response"), ("content",)]
ROLES = {  # others' names for OpenAI's
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
HELP = ("a file, a folder, hub:ORG/NAME[:CONFIG[/SPLIT]][@REVISION], or one of "
        + " ".join((*embedded.NAMES, *HUB)) + "; web:20M, as long as that; web75music25, a mixture")


@dataclass(frozen=True)
class Source:
    """Where documents come from: an embedded corpus, a data set of the hub, or local files."""
    name: str                                  # as the user wrote it
    text_field: str | None = None              # as the user wrote it, several as A+B
    hub: HubSet | None = None
    files: tuple[Path, ...] = ()               # neither hub nor files: embedded
    size: int | None = None                    # characters of an embedded corpus, if not its own size
    left_out: int = 0                          # files of a folder beside those called train

    @property
    def is_local(self) -> bool:
        """Say whether nothing has to be downloaded."""
        return self.hub is None or Path(self.hub.path).is_dir()

    @property
    def held_out_split(self) -> str | None:
        """Name the split that a corpus brings to be held out, if it does."""
        return self.hub and self.hub.held_out_split

    @property
    def revision(self) -> str | None:
        """Name the revision that is pinned, if one is."""
        return self.hub and self.hub.revision

    def version(self) -> object:
        """Return what differs, as text, where the documents may."""
        state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        if self.hub:
            return (*self.hub, state) if state else self.hub
        if self.files:
            return state
        return embedded.version()

    def documents(self, held_out: bool = False) -> Iterator[Text]:
        """Read the documents in order; `held_out` reads the split that a corpus brings for that.

        Raises UserError, one line with a way out, whatever is wrong with the corpus.
        """
        # What is generated needs no mending.
        if not self.hub and not self.files:
            if self.text_field:
                tell(f"{self.name}: is generated and has no fields, --text-field is not for it")
            yield from map(Text, embedded.documents(self.name.partition(":")[0], self.size))
            return

        # Rows of one corpus may differ in their fields; what has no text is counted and told.
        rows = mended = 0                                  # halves of surrogate pairs, too
        used = {}                                          # fields → the rows that have their text in them
        shown = {}                                         # a row without text, to name its fields
        try:
            for row in self._rows(held_out):
                rows += 1
                fields = find_fields(row, self.text_field)
                if not fields:
                    shown = shown or row
                    continue

                # Of its fields one text, without what UTF-8 cannot spell.
                joined = join_fields(row, fields)
                text, halves = mend(joined.text)
                mended += halves
                used[fields] = used.get(fields, 0) + bool(text)
                if text:
                    yield Text(text, joined.completion)

            # A corpus without any text is a mistake, a row without text is told.
            if rows and not used:
                raise UserError(no_text(self.name, shown, self.text_field))

        # Whatever a reader raises becomes one line.
        except UserError:
            raise
        except StopIteration as error:                     # how datasets meets a JSON file without a row
            raise UserError(empty(self.name)) from error
        except Exception as error:                         # datasets raises a different kind for every reader
            raise UserError(self._what_is_wrong(error)) from error
        self._tell(rows, used, mended)

    def _tell(self, rows: int, used: dict[tuple[str, ...], int], mended: int) -> None:
        """Say what was left out or mended, and which fields were read where it is not one and the same."""
        named = tuple(self.text_field.split("+")) if self.text_field else None
        left_out = rows - sum(used.values())
        lacking = f"none has text in {self.text_field}, " if named and named not in used else ""
        if left_out or len(used) > 1 or lacking:
            read = ", ".join(f"{'+'.join(fields)} of {count:,}" for fields, count in used.items())
            tell(f"{self.name}: {rows:,} rows, {lacking}read {read}; {left_out:,} without text")
        if self.left_out:
            tell(f"{self.name}: {len(self.files):,} files are called train, the other {self.left_out:,} are "
                 "not read")
        if mended:
            tell(f"{self.name}: replaced {mended:,} halves of surrogate pairs by U+FFFD")

    def _rows(self, held_out: bool) -> Iterator[dict]:
        """Rows, streamed: nothing is downloaded or held beyond what is read."""
        for path in self.files:
            if ending(path) == ".zst":
                require_whole(path)
        endings = {ending(unpacked(path)) for path in self.files}
        if not self.hub and endings <= READ_HERE:
            return chain.from_iterable(map(rows_of_text, self.files))
        if not self.hub and endings <= DELIMITERS.keys():
            return chain.from_iterable(map(rows_of_table, self.files))

        # Here: what does not need it need not wait seconds for it.
        import datasets
        datasets.disable_progress_bars()
        for noisy in ("huggingface_hub", "datasets"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)

        # A configuration is opened when its turn comes: the last may never be needed.
        if self.hub:
            split = self.hub.held_out_split if held_out else self.hub.split
            if not self.is_local:
                tell(f"reading {self.hub.path} from the hub …")
            builders = (datasets.load_dataset_builder(self.hub.path, config, revision=self.hub.revision)
                        for config in self.hub.configs)
            return chain.from_iterable(streamed(builder, split) for builder in builders)

        # All files are of one kind, as `local_files` has seen to. A name is no pattern.
        kind, names = reader(self.files[0]), [glob.escape(str(path)) for path in self.files]
        return iter(datasets.load_dataset(kind, data_files=names, split="train", streaming=True))

    def _what_is_wrong(self, error: Exception) -> str:
        """Say in one line what a reader raised."""
        # The reason that a user can mend is often at the bottom of a stack of other libraries' errors.
        causes = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        if any(isinstance(cause, UnicodeDecodeError) or "UTF8" in str(cause) for cause in causes):
            return f"{self.name} is not UTF-8, convert it first (iconv -t utf-8)"

        # Else its first line, or its kind where it says nothing, and a way out.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if reason.startswith("BatchSize must be greater than 0"):      # of a .parquet without a row
            return empty(self.name)
        if self.hub and self.is_local:
            return (f"cannot read {self.name} as a data set ({reason}), "
                    "give one of its files, or a folder of those to read")
        if self.hub:
            return (f"cannot read {self.name} from the hub ({reason}), use an embedded corpus "
                    f"({', '.join(embedded.NAMES)}) or a local file instead")
        return f"cannot read {self.name} ({reason}), check that it is what its name says"


def streamed(builder, split: str) -> Iterable[dict]:
    """Stream a split of what `datasets` builds, read as it is here.

    Of text an empty line ends a document, and of a table a cell that says NA is a text. A .json with a field
    of several kinds, text and numbers, is refused: of an array `datasets` makes JSON then, quotes and all.
    """
    config = builder.config
    if hasattr(config, "sample_by"):
        config.sample_by = "paragraph"
    if hasattr(config, "on_mixed_types"):
        names = chain.from_iterable((config.data_files or {}).values())
        if any(ending(unpacked(Path(name))) == ".json" for name in names):
            config.on_mixed_types = None

    # But of numbers, where the card says that a column has those, such a cell is none.
    if hasattr(config, "keep_default_na"):
        kinds = {name: getattr(kind, "dtype", "") for name, kind in (builder.info.features or {}).items()}
        config.keep_default_na = False
        config.na_values = {name: NO_NUMBER for name, kind in kinds.items() if "string" not in kind}
    return builder.as_streaming_dataset(split=split)


@cache
def tell(line: str) -> None:
    """Print a line once: a small corpus is read several times, until enough of it is held out."""
    print(line, flush=True)


def find_source(name: str, text_field: str | None = None, folder: Path = Path()) -> Source:
    """Decide what a corpus's name, or its path from a folder, stands for; raises UserError if for nothing."""
    if not name:
        raise UserError("the name of a corpus is empty, give a file, a folder or one of "
                        f"{', '.join(embedded.NAMES)}")

    # Names come before paths: a file called web is ./web.
    corpus, colon, size = name.partition(":")
    if embedded.shares(corpus):
        with refusing(ArgumentTypeError):
            return Source(name, text_field, size=positive(size) if colon else None)
    if name.startswith("hub:"):
        hub = hub_set(name.removeprefix("hub:"), folder)
        return Source(name, text_field, hub=hub, files=of_data_set(Path(hub.path)))
    if name in HUB:
        return Source(name, text_field, hub=HUB[name])

    # A folder with a card is read by that, any other by what its files are called.
    path = folder / name
    if is_data_set(path):
        return Source(name, text_field, hub=HubSet(str(path)), files=of_data_set(path))
    files, left_out = local_files(name, path)
    return Source(name, text_field, files=files, left_out=left_out)


def hub_set(name: str, folder: Path = Path()) -> HubSet:
    """Read ORG/NAME[:CONFIG[/SPLIT]][@REVISION], of the hub or, where that is there, below a folder.

    Raises UserError if a revision is asked of a folder, of which there is only what is there now.
    """
    name, _, revision = name.partition("@")
    path, _, config = name.partition(":")
    config, _, split = config.partition("/")
    if (folder / path).is_dir():
        if revision:
            raise UserError(f"{path} is a folder here, check {revision} out and leave out @{revision}")
        path = str(folder / path)
    return HubSet(path, (config or None,), revision=revision or None, split=split or "train")


def is_data_set(root: Path) -> bool:
    """Tell whether a folder has a card that names configurations or splits, for `datasets` to read."""
    card = root / "README.md"
    return card.is_file() and "\nconfigs:" in card.read_text(errors="replace")


def of_data_set(root: Path) -> tuple[Path, ...]:
    """List what a local data set's documents depend on, the files to read and its card."""
    return tuple(path for path in visible(root) if reader(path) or path == root / "README.md")


def local_files(name: str, root: Path) -> tuple[tuple[Path, ...], int]:
    """Find the files of a local corpus at `root`, sorted; count those left out beside others called train.

    Raises UserError if there are none that go together.
    """
    if not root.exists():
        raise UserError(f"no corpus {name!r}, give a file or folder, one of {', '.join(embedded.NAMES)}, "
                        f"{', '.join(HUB)}, or hub:ORG/NAME")

    if (root / "state.json").exists() or (root / "dataset_dict.json").exists():
        raise UserError(f"{name} is what save_to_disk of `datasets` wrote, write it by to_json or to_parquet")

    # One reader takes them all; a file that was named must have one, others in a folder need not.
    found = tuple(filter(reader, visible(root))) if root.is_dir() else (root,)
    files = to_train_on(found, root)
    readers = {reader(path) for path in files}
    if len(readers) != 1 or None in readers:
        what = "files of several kinds" if len(readers) > 1 else "nothing"
        raise UserError(f"{name} holds {what} to read, give {', '.join(READERS)} (also .gz, .zst), "
                        "one kind a folder")
    return files, len(found) - len(files)


def to_train_on(files: tuple[Path, ...], root: Path) -> tuple[Path, ...]:
    """Keep only those called train where others are called test or validation, they or their folders."""
    words = {path: set(re.split("[-._ =/0-9]+", path.relative_to(root).as_posix().lower())) for path in files}
    train = tuple(path for path in files if words[path] & TRAIN)
    held_out = any(words[path] & HELD_OUT and not words[path] & TRAIN for path in files)
    return train if train and held_out else files


def visible(root: Path) -> tuple[Path, ...]:
    """List a folder's files, sorted, in linked folders too; none where there is no folder.

    Hidden ones are left out, and what stages wrote.
    """
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        # A link may lead to a folder that it is in.
        real = os.path.realpath(folder)
        if real in seen or {"train.bin", "meta.json"} <= set(names) or {".lock", "log.jsonl"} <= set(names):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return tuple(sorted(path for path in found if path.is_file()))


def reader(path: Path) -> str | None:
    """Name what reads a file by its ending; None for one that nothing reads."""
    return READERS.get(ending(unpacked(path)))


def unpacked(path: Path) -> Path:
    """Name a file as it would be without .gz or .zst."""
    return path.with_suffix("") if ending(path) in UNPACK else path


def ending(path: Path) -> str:
    """Read a file's ending, which may be in capitals: .jsonl."""
    return path.suffix.lower()


def rows_of_text(path: Path) -> Iterator[dict]:
    """Read the rows of a .txt, .jsonl, .ndjson or .json file, packed or not.

    Raises ValueError if one is none. Not by `datasets`, which holds a long row several times over, refuses a
    file for half a surrogate pair and makes JSON of all rows where a field is not text in one.
    """
    with open_text(path) as file:
        # An empty line ends a document; as text, LF, CR LF and CR are one and the same.
        if reader(path) == "text":
            for is_empty, lines in groupby(file, lambda line: line == "\n"):
                if not is_empty:
                    yield {"text": "".join(lines)}
            return

        # A .json may be an array, which is held whole.
        numbered = ((number, line) for number, line in enumerate(file, start=1) if not line.isspace())
        number, first = next(numbered, (0, ""))
        if not first:
            return
        if ending(unpacked(path)) == ".json" and first.lstrip().startswith("["):
            whole = "\n" * (number - 1) + first + file.read()
            for row in read_json(whole, path.name):
                yield require_row(row, path.name)
            return

        # Else a row is a line, whose number is what a user needs to find the one that is wrong.
        for number, line in chain([(number, first)], numbered):
            place = f"line {number} of {path.name}"
            yield require_row(read_json(line, place), place)


def read_json(text: str, place: str) -> object:
    """Read JSON; raises ValueError that names the place if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from error


def require_row(row: object, place: str) -> dict:
    """Return a row; raises ValueError that names the place if it is no JSON object."""
    if not isinstance(row, dict):
        raise ValueError(f"{place}: no JSON object")
    return row


def rows_of_table(path: Path) -> Iterator[dict]:
    """Read the rows of a .csv or .tsv file, packed or not; raises ValueError if one is none.

    An empty cell is an empty text, one that lacks at a row's end is no field. Not by `datasets`, for which
    numbers and what looks like NA are no text.
    """
    # A document may be long, and have line ends; but where a quote lacks, all that follows would be one.
    csv.field_size_limit(2 ** 31 - 1)                      # the most that every platform takes
    with open_text(path, newline="") as file:
        table = csv.reader(file, delimiter=DELIMITERS[ending(unpacked(path))], strict=True)

        # Of a row that is wrong its first line is named: there a quote lacks, wherever the next one is.
        names = []
        number = 1
        try:
            for cells in table:
                if not names:
                    names = header(cells)
                elif len(cells) > len(names):
                    raise csv.Error(f"{len(cells)} cells, but {len(names)} in the header")
                elif cells:                                # else an empty line
                    yield dict(zip(names, cells))
                number = table.line_num + 1
        except csv.Error as error:
            raise ValueError(f"line {number} of {path.name}: {error}") from error


def header(names: list[str]) -> list[str]:
    """Return the names of columns; raises csv.Error if two, empty ones aside, are the same."""
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise csv.Error(f"the header has {twice[0]!r} twice")
    return names


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """Open a file, packed or not, as text."""
    return UNPACK.get(ending(path), open)(path, "rt", encoding="utf-8-sig", newline=newline)


def require_whole(path: Path) -> None:
    """Raise EOFError if a .zst file is cut off: reading it would end there as if that were all."""
    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    with open(path, "rb") as file:
        while block := file.read(2 ** 16):
            # A file may have several frames, one after another.
            while block:
                frame.decompress(block)
                block, begun = frame.unused_data, not frame.eof
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    if begun:
        raise EOFError("it is cut off")


def find_fields(row: dict, text_field: str | None) -> tuple[str, ...] | None:
    """Decide which fields of `row` make up a document, of text or of messages; None if it has neither."""
    for fields in text_fields(text_field):
        values = [row.get(field) for field in fields]
        if all(isinstance(value, str) for value in values) or all(map(is_chat, values)):
            return fields
    return None


def text_fields(text_field: str | None) -> list[tuple[str, ...]]:
    """List the fields to look for: what is named, and then others, for D_pre and D_post share the flag."""
    named = [tuple(text_field.split("+"))] if text_field else []
    return named + TEXT_FIELDS


def is_chat(value: object) -> bool:
    """Tell whether a field is a list of messages."""
    return isinstance(value, list) and bool(value) and all(map(read_message, value))


def read_message(message: object) -> tuple[str, str] | None:
    """Read who says what in a message of OpenAI's kind (role, content) or ShareGPT's (from, value).

    None if it is neither, or calls a tool: what it does then is no text.
    """
    if not isinstance(message, dict) or message.get("tool_calls") or message.get("function_call"):
        return None
    for who, what in (("role", "content"), ("from", "value")):
        role, said = message.get(who), join_content(message.get(what))
        if isinstance(role, str) and isinstance(said, str):
            return ROLES.get(role, role), said.strip()
    return None


def join_content(content: object) -> object:
    """Join a list of parts of text, as the template in hf/folder.py does; return all else as it is."""
    if isinstance(content, list) and all(map(is_text_part, content)):
        return "".join(part["text"] for part in content)
    return content


def is_text_part(part: object) -> bool:
    """Tell whether a part of a message is text, not a picture or a call of a tool."""
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def join_fields(row: dict, fields: tuple[str, ...]) -> Text:
    """Join the fields in order, each on a line of its own unless there is white space between them already.

    Of several, the last is the completion; of one with messages, what the assistant says in it.
    """
    text, completion = "", []
    for part, begins in parts(row, fields):
        if text and not text[-1].isspace() and not part[:1].isspace():
            text += "\n"
        if begins is not None:
            completion.append((len(text) + begins, len(text) + len(part)))
        text += part

    # Some published corpora spell the separator out.
    joined = text.strip().removesuffix("<|endoftext|>")
    if len(fields) == 1 and isinstance(row[fields[0]], str):
        return Text(joined)
    start = len(text) - len(text.lstrip())
    return Text(joined, within(completion, start, start + len(joined)))


def parts(row: dict, fields: tuple[str, ...]) -> Iterator[tuple[str, int | None]]:
    """List the parts of a document, each with where in it a completion begins, if one does."""
    for field in fields:
        is_last = field == fields[-1] and len(fields) > 1
        if isinstance(row[field], str):
            if row[field]:
                yield row[field], 0 if is_last else None
            continue

        # The blank before an answer, with which tokenizers begin its first word, and the line's end are its.
        for role, said in map(read_message, row[field]):
            answers = is_last or (len(fields) == 1 and role == "assistant")
            yield f"{role}: {said}\n", len(role) + 1 if answers else None


def within(spans: Iterable[tuple[int, int]], start: int, end: int) -> Spans:
    """Keep what of the spans is among the characters from `start` to `end`, counted from `start`."""
    cut = ((max(first, start) - start, min(last, end) - start) for first, last in spans)
    return tuple((first, last) for first, last in cut if first < last)


def mend(text: str) -> tuple[str, int]:
    """Replace halves of surrogate pairs by U+FFFD; returns how many there were, too."""
    return (text, 0) if text.isascii() else HALF_PAIR.subn("\ufffd", text)


def no_text(name: str, row: dict, text_field: str | None) -> str:
    """Say what is wrong with a corpus no row of which has text, by one of them."""
    for fields in text_fields(text_field):
        if row.keys() >= set(fields):
            return (f"no text in {'+'.join(fields)} of {name} (null, numbers, pictures, calls of tools are "
                    "none), give some or name other fields with --text-field")
    fields = ", ".join(shown_field(field) for field in row)
    return f"no text field in {name} (it has {fields}), name one with --text-field, several as A+B"


def shown_field(field: str) -> str:
    """Show the name of a field, which without a header is a whole document, in a line of an error."""
    return field if len(field) < 40 and field.isprintable() else f"{field[:40]!r}…"


def empty(name: str) -> str:
    """Say what is wrong with a corpus without a document."""
    return f"{name} is empty, give a corpus with text in it"
