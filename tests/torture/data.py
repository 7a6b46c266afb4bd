"""Corpora that are hard to read, in their real size, each prepared by a process whose memory is measured.

    python -m tests.torture data
    python -m tests.torture.data FILE TOKENIZER     prepares one, prints what it took
"""

import base64
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from data.corpora import open_corpus
from data.sources import find_source
from data.tokenizers import load_tokenizer
from run.flags import launch

ROOT = Path(__file__).parents[2]
SECONDS = 60                      # of processors, that any of them may take
MERGES = [b"  ", b"    ", b"\n\n", b"aa", b"aaaa", b"th", b"the", b" t", b"in", b" a", b"er"]


class Case(NamedTuple):
    """A corpus, and what is to come of it."""
    path: Path
    tokens: int | None            # as counted here; None: it is to be refused
    tokenizer: str = "bytes"
    longest: int = 0              # bytes of its longest document
    further: int = 128            # MB that it may take beyond 3.5 times that: data/README.md promises it


class Took(NamedTuple):
    """What preparing a corpus came to."""
    tokens: int
    megabytes: float              # the most that the process held, beyond what it held before
    seconds: float                # of all processors


def hard_data(random: Random, count: int) -> Iterator[str]:
    """Make each corpus once, whatever the count, have it prepared and say how that went."""
    folder = Path()
    cases = [long_document, million_documents, long_line, long_field, long_runs, half_pairs, line_ends]
    for make in cases:
        yield answer(make(folder, random))

    # What UTF-8 cannot hold is refused, wherever it stands.
    for name, before in (("half.txt", b""), ("half.csv", b"text\n"), ("half.jsonl", b'{"text": "a"}\n')):
        (folder / name).write_bytes(before + words(random, 5000).encode() + b"\xed\xa0\x80")
        yield answer(Case(folder / name, tokens=None))


def answer(case: Case) -> str:
    """Have a corpus prepared by a process of its own, and say whether what came of it is right."""
    command = [sys.executable, "-m", "tests.torture.data", str(case.path.resolve()), case.tokenizer]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wrong = what_is_wrong(case, process)
    copies = on_both_sides(case)

    # The files are large, and of use only where something is wrong.
    if wrong or copies:
        return f"WRONG: {case.path.name}: {wrong or f'{copies} documents are on both sides'}"
    case.path.unlink()
    shutil.rmtree(case.path.parent / "tokens")
    return "right count" if case.tokens else "refused in a line"


def what_is_wrong(case: Case, process: subprocess.CompletedProcess) -> str:
    """Compare what a process said with what it is to say; nothing if it did."""
    if case.tokens is None:
        one_line = process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
        return "" if process.returncode == 2 and one_line else f"not refused in a line: {process.stderr}"
    if process.returncode:
        return f"status {process.returncode}: {process.stderr}"

    # The last line is the process's own, those before it are of what it called.
    took = Took(**json.loads(process.stdout.splitlines()[-1]))
    allowed = 3.5 * case.longest / 1e6 + case.further
    print(f"{case.path.name}: {took.tokens:,} tokens, {took.megabytes:.0f} of {allowed:.0f} MB, "
          f"{took.seconds:.0f} s", file=sys.stderr, flush=True)
    if took.tokens != case.tokens:
        return f"{took.tokens:,} tokens, not {case.tokens:,}"
    if took.megabytes > allowed:
        return f"{took.megabytes:.0f} MB, not {allowed:.0f}"
    return f"{took.seconds:.0f} seconds" if took.seconds > SECONDS else ""


def on_both_sides(case: Case) -> int:
    """Count the documents that are both trained on and held out; of the large corpora that is not asked."""
    parts = list(case.path.parent.glob("tokens/*/*.bin"))
    if case.tokenizer != "bytes" or sum(path.stat().st_size for path in parts) > 2e7:
        return 0
    texts = [set(np.fromfile(path, np.uint16).astype(np.uint8).tobytes().split(b"\xff")) for path in parts]
    return len(set.intersection(*texts) - {b""}) if texts else 0


# ---- the corpora

def words(random: Random, count: int) -> str:
    """Make words of letters."""
    return " ".join("".join(random.choices("etaoinshr", k=random.randint(1, 9))) for _ in range(count))


def parts(random: Random, text: str, count: int) -> list[str]:
    """Take parts of 10 kB of a longer text, each with a number of its own."""
    starts = (random.randrange(len(text) - 10_000) for _ in range(count))
    return [f"{number}{text[start:start + 10_000]}" for number, start in enumerate(starts)]


def rows(path: Path, texts: Iterator[str]) -> Path:
    """Write a .jsonl file, in ASCII."""
    with open(path, "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return path


def vocabulary(folder: Path) -> str:
    """Write a tokenizer's file with some merges."""
    path = folder / "merges.tiktoken"
    tokens = [bytes([byte]) for byte in range(256)] + MERGES
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    path.write_text("".join(lines))
    return str(path)


def long_document(folder: Path, random: Random) -> Case:
    """One document of 200 MB, after 2,000 of 10 kB. A line break before a word is a token of its own."""
    path, tokenizer, megabytes = folder / "long.txt", vocabulary(folder), 200
    encoding = load_tokenizer(tokenizer)
    lines = [words(random, 15) for _ in range(2000)]
    lengths = {line: 1 + len(encoding.encode_ordinary(line)) for line in lines}
    tokens = size = 0
    with open(path, "w") as file:
        for document in range(2000):
            some = random.choices(lines, k=120)
            file.write("\n".join(some) + "\n\n")
            tokens += sum(map(lengths.get, some))
        while size < megabytes * 10 ** 6:
            some = random.choices(lines, k=1000)
            size += file.write("\n".join(some) + "\n")
            tokens += sum(map(lengths.get, some))
    return Case(path, tokens, tokenizer, longest=size)


def million_documents(folder: Path, random: Random) -> Case:
    """A million documents of ten bytes."""
    texts = (f"{random.randrange(10 ** 10):010d}" for _ in range(10 ** 6))
    return Case(rows(folder / "million.jsonl", texts), tokens=11 * 10 ** 6)


def long_line(folder: Path, random: Random) -> Case:
    """A line of 50 MB without a space, after 2,000 of 10 kB."""
    small = parts(random, words(random, 20_000).replace(" ", ""), 2000)
    large = "".join(random.choices(small, k=5000))
    tokens = sum(len(text) + 1 for text in [*small, large])
    return Case(rows(folder / "line.jsonl", [*small, large]), tokens, longest=len(large))


def long_field(folder: Path, random: Random) -> Case:
    """The same in a table, with quotes and line breaks. csv holds four bytes more of each character."""
    small = parts(random, words(random, 20_000), 2000)
    large = '\n"'.join(random.choices(small, k=5000))
    path = folder / "field.csv"
    with open(path, "w") as file:
        file.write("text\n")
        file.writelines('"{}"\n'.format(text.replace('"', '""')) for text in [*small, large])
    tokens = sum(len(text.strip()) + 1 for text in [*small, large])
    return Case(path, tokens, longest=len(large), further=256)


def long_runs(folder: Path, random: Random) -> Case:
    """A million and more of one character, which a tokenizer with merges takes whole in each thread."""
    tokenizer = vocabulary(folder)
    encode = load_tokenizer(tokenizer).encode_ordinary
    texts, tokens = [words(random, 20) for _ in range(40)], 0
    for character in " \n\t\u3000a7!é'":
        run = character * random.randint(1_000_001, 1_100_000)
        texts.append(f"x{run}x")

        # White space splits before its last character, if that is a space it goes with the word.
        parts = ["x" + run, "x"]
        if character.isspace():
            parts = ["x", run[1:], character + "x"]
        if character == "a":
            parts = [f"x{run}x"]
        tokens += sum(len(encode(part)) for part in parts) + 1
    tokens += sum(len(encode(text)) + 1 for text in texts[:40])
    return Case(rows(folder / "runs.jsonl", texts), tokens, tokenizer, longest=4_400_000, further=640)


def half_pairs(folder: Path, random: Random) -> Case:
    """Halves of surrogate pairs, which are replaced by a character of three bytes, among whole ones."""
    texts = []
    for number in range(20_000):
        text = "".join(random.choices("ab\ud800\udfff😀é\0", k=random.randint(1, 30)))
        texts.append(f"{number}{text}x".encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"))
    tokens = sum(len(text.encode(errors="surrogatepass")) + 1 for text in texts)
    return Case(rows(folder / "halves.jsonl", texts), tokens)


def line_ends(folder: Path, random: Random) -> Case:
    """Documents with all kinds of line ends and NUL bytes, each there three times."""
    ends, path = ["\n", "\r\n", "\r"], folder / "ends.txt"
    texts = [[f"{number}\0"] + words(random, 9).split() for number in range(20_000)] * 3
    random.shuffle(texts)
    with open(path, "w", newline="") as file:
        for lines in texts:
            file.write("".join(line + random.choice(ends) for line in lines))
            file.write("".join(random.choices(ends, k=random.randint(1, 3))))
    return Case(path, sum(len("\n".join(lines)) + 1 for lines in texts))


# ---- in a process of its own

def main() -> None:
    """Prepare a corpus and print what it took."""
    idle = peak()
    path, tokenizer = Path(sys.argv[1]), load_tokenizer(sys.argv[2])
    corpus = open_corpus("pre", find_source(str(path)), tokenizer, folder=path.parent / "tokens")
    tokens = len(corpus.train) + len(corpus.held_out)
    took = Took(tokens, (peak() - idle) / 1e6, time.process_time())
    print(json.dumps(took._asdict()))


def peak() -> int:
    """Read the most bytes that this process has held; getrusage may give those of its parent instead."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    launch(main)
