"""A corpus becomes token files once, each document in one of them; later stages find the same files again."""

import base64
import json
import shutil
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from data import corpora, tokens
from data.corpora import Corpus, corpus_of, load_corpus, open_corpus
from data.sources import Source, Text, find_source
from data.tokenizer_json import END_OF_TEXT
from data.tokenizers import end_of_text, fingerprint, load_tokenizer, token_dtype
from data.tokens import MIN_HELD_OUT, is_held_out
from run.files import UserError

TEXTS = [f"document {i}: größer als {i * i}" for i in range(40)]
BYTES = load_tokenizer("bytes")


def write(path: Path, texts: list[str]) -> Source:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return find_source(str(path))


def write_vocabulary(path: Path, *merges: bytes) -> str:
    """Write a .tiktoken file of all bytes and some merges."""
    tokens = [bytes([byte]) for byte in range(256)] + list(merges)
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    path.write_text("".join(lines))
    return str(path)


def lineage_of(*corpora: Corpus) -> list[dict]:
    """A stage each that brought a corpus in."""
    args, tokenizer = {"tokenizer": "bytes"}, fingerprint(BYTES)
    return [{"args": args, "tokenizer": tokenizer, "tokens": {one.role: 1}, "corpora": {one.role: one.record}}
            for one in corpora]


# ---- tokenizers

def test_bytes_tokenizer_is_utf8_and_ends_documents_with_a_byte_utf8_never_uses():
    text = "größer → 2 ≤ 3\n" * 20
    assert BYTES.encode_ordinary(text) == list(text.encode()) and BYTES.n_vocab == 256
    assert end_of_text(BYTES) == 255


def test_a_tiktoken_file_is_a_tokenizer(tmp_path):
    path = tmp_path / "bytes.tiktoken"
    tokenizer = load_tokenizer(write_vocabulary(path, b"th", b"the"))
    assert tokenizer.encode_ordinary("the") == [257] and end_of_text(tokenizer) == 258
    assert fingerprint(tokenizer) != fingerprint(BYTES)
    path.write_text(path.read_text().replace(" 257\n", " 300\n"))       # ranks may leave numbers out
    assert end_of_text(load_tokenizer(str(path))) == 301
    with pytest.raises(UserError, match="--tokenizer bytes"):
        load_tokenizer(str(tmp_path / "none.tiktoken"))


# ---- token files

def test_every_token_fits_its_kind_of_integer():
    sizes = [SimpleNamespace(n_vocab=count) for count in (50_257, 2 ** 16, 2 ** 16 + 1)]
    assert list(map(token_dtype, sizes)) == [np.uint16, np.uint16, np.uint32]


def test_token_files_hold_every_document_once(tmp_path):
    texts = [f"{i} " + "x" * 900 for i in range(900)]                  # 1% of it is less than MIN_HELD_OUT
    source = write(tmp_path / "a.jsonl", texts + texts[:50])
    corpus = open_corpus("pre", source, BYTES, folder=tmp_path / "tokens")
    train, held_out = (bytes(part.astype(np.uint8)).decode("latin-1").split("\xff")[:-1]
                       for part in (corpus.train, corpus.held_out))
    assert sorted(train + held_out) == sorted(texts + texts[:50])
    assert not set(train) & set(held_out)
    assert len(corpus.held_out) >= MIN_HELD_OUT
    assert corpus.train.dtype == np.uint16
    meta = json.loads(next((tmp_path / "tokens").glob("*/meta.json")).read_text())
    assert meta["tokens"] == {"train": len(corpus.train), "held_out": len(corpus.held_out)}


def test_a_larger_share_holds_out_more_of_the_same_documents():
    texts = list(map(str, range(2000)))
    one, five, ten = ({text for text in texts if is_held_out(text, share)} for share in (0.01, 0.05, 0.1))
    assert one < five < ten
    assert 150 < len(ten) < 250                                         # of 2,000


def test_two_runs_at_once_tokenize_a_corpus_once(tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", TEXTS)
    prepared, prepare = [], corpora.prepare

    def slowly(source, *others):
        prepared.append(source)
        time.sleep(0.2)
        prepare(source, *others)

    monkeypatch.setattr(corpora, "prepare", slowly)
    with ThreadPoolExecutor() as pool:
        one, other = pool.map(lambda role: open_corpus(role, source, BYTES, folder=tmp_path), ("pre", "post"))
    assert prepared == [source] and one.record == other.record


def test_preparation_holds_few_documents_at_a_time(tmp_path, monkeypatch):
    alive = most = 0

    class Words(str):
        def __new__(cls, text):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, text)

        def __del__(self):
            nonlocal alive
            alive -= 1

    monkeypatch.setattr(Source, "documents", lambda _: (Text(Words(f"{i} " + "y" * 20)) for i in range(5000)))
    open_corpus("pre", find_source("web"), BYTES, folder=tmp_path)
    assert most < 1500


# ---- documents that are hard to tokenize

def tokens_of(documents: list[str], tokenizer, folder: Path) -> np.ndarray:
    """What `write_tokens` makes of documents that are all trained on."""
    with_parts = (tokens.Document("train", text) for text in documents)
    tokens.write_tokens(with_parts, tokenizer, None, folder, "hard")
    return np.fromfile(folder / "train.bin", token_dtype(tokenizer))


def hard_text(random: Random) -> str:
    """White space, words, contractions and separators of all kinds, side by side."""
    blanks = "  \n\n\t\r\x0b\x1c\x1f\x85\xa0\u1680\u2028\u3000\u200b"
    parts = [*blanks, *"''stdm7²½aé字e\u0301.!\0😀", "'ll", "the", END_OF_TEXT]
    return "".join(random.choices(parts, k=random.randint(1, 60)))


@pytest.mark.parametrize("seed", range(4))
def test_documents_in_pieces_have_the_tokens_of_the_whole(tmp_path, monkeypatch, seed):
    random = Random(seed)
    monkeypatch.setattr(tokens, "BUNDLE", random.randint(1, 9))
    merges = [b"  ", b"\n\n", b" t", b"th", b"the", b" a", b"'s", b" '"]
    documents = [hard_text(random) for _ in range(500)]
    for tokenizer in (BYTES, load_tokenizer(write_vocabulary(tmp_path / "v.tiktoken", *merges))):
        ends = [end_of_text(tokenizer)]
        whole = [token for text in documents for token in tokenizer.encode_ordinary(text) + ends]
        assert tokens_of(documents, tokenizer, tmp_path).tolist() == whole


@pytest.mark.parametrize("count, length", [(1, 1_000_000), (200, 5000)])
def test_of_long_documents_little_is_held(tmp_path, monkeypatch, count, length):
    monkeypatch.setattr(tokens, "BUNDLE", 1000)
    long = "a" * length
    documents = (tokens.Document("train", long[:length - number]) for number in range(count))
    tracemalloc.start()
    counts, _ = tokens.write_tokens(documents, BYTES, None, tmp_path, "long")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts["train"] == sum(length - number + 1 for number in range(count))
    assert most < 500_000                                               # bytes; either corpus is 1 MB


@pytest.mark.parametrize("character", [" ", "\n", "\t", "\u3000", "a", "7", "!"])
def test_a_million_of_one_character_are_tokenized(tmp_path, character):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "v.tiktoken", b"x", b" x"))
    run = character * 1_000_001
    count = len(f"x{run}x".encode()) + 1 - (character == " ")           # the last blank is one with the word
    assert len(tokens_of([f"x{run}x"], tokenizer, tmp_path)) == count


class Panic(BaseException):
    """As a panic of tiktoken's is: no Exception."""


@pytest.mark.parametrize("error", [Panic("panicked\nat a line"), Panic(), ValueError("stack overflow")])
def test_what_a_tokenizer_cannot_take_is_one_line(tmp_path, monkeypatch, error):
    source, tokenizer = write(tmp_path / "a.jsonl", TEXTS), load_tokenizer("bytes")
    monkeypatch.setattr(tokenizer, "encode_to_numpy", Mock(side_effect=error))
    with pytest.raises(UserError, match="bytes cannot take the .* characters from 'document") as told:
        open_corpus("pre", source, tokenizer, folder=tmp_path / "tokens")
    assert "\n" not in str(told.value)
    assert [path for path in (tmp_path / "tokens").iterdir() if path.suffix != ".lock"] == []
    monkeypatch.setattr(tokenizer, "encode_to_numpy", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):                                    # which is no fault of the text
        open_corpus("pre", source, tokenizer, folder=tmp_path / "tokens")


def test_white_space_that_overflows_the_pattern_is_one_line(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "v.tiktoken", b"  "))
    with pytest.raises(UserError, match="cannot take the 1,000,012 characters"):
        tokens_of(["x" + " " * 1_000_010 + "\x1c"], tokenizer, tmp_path)   # white space to Python alone


@pytest.mark.parametrize("seed", range(2))
def test_copies_fall_on_the_same_side_however_they_are_spelled(tmp_path, seed):
    """As JSON spells them: with halves of surrogate pairs, white space around them, characters escaped."""
    random, lines = Random(seed), []
    for number in range(300):
        text = f"{number}{''.join(random.choices('ab é😀', k=9))}x" + random.choice("\ud800\udfff")
        copies = [text, text[:-1] + "\udc00", f" {text}\r\n", text + "<|endoftext|>"]
        lines += [json.dumps({"text": copy}, ensure_ascii=True) for copy in copies]
    random.shuffle(lines)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = open_corpus("pre", find_source(str(tmp_path / "a.jsonl")), BYTES, folder=tmp_path / "tokens")
    train, held_out = (part.astype(np.uint8).tobytes().split(b"\xff")[:-1]
                       for part in (corpus.train, corpus.held_out))
    assert len(train) + len(held_out) == len(lines) and held_out
    assert not set(train) & set(held_out) and len(set(train) | set(held_out)) == 300


# ---- the corpora of a checkpoint

def test_a_prepared_corpus_is_not_read_again_but_a_changed_one_is(tmp_path, monkeypatch):
    source, folder = write(tmp_path / "a.jsonl", TEXTS), tmp_path / "tokens"
    first = open_corpus("post", source, BYTES, folder=folder)
    with monkeypatch.context() as patch:
        patch.setattr(Source, "documents", None)
        assert np.array_equal(open_corpus("post", source, BYTES, folder=folder).train, first.train)

    # The token files that a checkpoint names still are what they were, but nobody else gets them any more.
    source = write(tmp_path / "a.jsonl", [text + "!" for text in TEXTS])
    assert np.array_equal(corpus_of(lineage_of(first), "post", folder).train, first.train)
    assert not np.array_equal(open_corpus("post", source, BYTES, folder=folder).train, first.train)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="a.jsonl has changed"):
        corpus_of(lineage_of(first), "post", folder)

    # Without its token files a corpus is prepared again where it has not changed.
    write(tmp_path / "a.jsonl", TEXTS)
    assert np.array_equal(corpus_of(lineage_of(first), "post", folder).train, first.train)


def test_the_last_corpus_of_a_role_is_the_one_that_counts(tmp_path):
    sources = [write(tmp_path / f"{name}.jsonl", [name + text for text in TEXTS]) for name in "abc"]
    pre, ft, other_ft = (open_corpus(role, source, BYTES, folder=tmp_path / "tokens")
                         for role, source in zip(("pre", "ft", "ft"), sources))
    lineage = lineage_of(pre, ft, other_ft)
    assert corpus_of(lineage, "ft", tmp_path / "tokens").record == other_ft.record
    assert corpus_of(lineage, "pre", tmp_path / "tokens").record == pre.record
    assert corpus_of(lineage, "ft", tmp_path / "tokens").role == "ft"


def test_a_clone_of_a_data_set_is_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "clone").mkdir()
    write(tmp_path / "clone" / "train.jsonl", TEXTS)
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus("pre", find_source("hub:clone"), BYTES, folder=tmp_path / "first")
    (entry,) = lineage_of(corpus)
    monkeypatch.chdir(tmp_path / "clone")
    assert corpus_of([entry | {"folder": str(tmp_path)}], "pre", tmp_path / "tokens").record == corpus.record


# ---- windows of a corpus

def test_a_limit_chooses_windows_all_over_the_corpus_and_smaller_limits_parts_of_larger(tmp_path):
    source = write(tmp_path / "a.jsonl", [f"{i} " + "x" * 400 for i in range(300)])
    corpus = open_corpus("post", source, BYTES, folder=tmp_path / "tokens")
    large, small = (set(corpus.windows(64, 8, seed=1, stage=1, limit=limit).chosen.tolist())
                    for limit in (32_000, 6_400))
    assert len(large) == 500 and len(small) == 100 and small < large
    assert max(small) > 0.9 * len(corpus.train) / 64
    assert corpus.windows(64, 8, seed=1, stage=1).role == "post"


def test_held_out_windows_are_spread_evenly_and_at_most_256():
    def corpus(held_out: int) -> Corpus:
        return Corpus("pre", np.arange(9), np.arange(held_out), {"source": "numbers", "checksum": ""})
    assert corpus(13).held_out_sequences(4).tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    many = corpus(4 * 512 + 1).held_out_sequences(4)                    # every other of 512
    assert len(many) == 256 and many[:, 0].tolist() == list(range(0, 4 * 512, 8))
    with pytest.raises(UserError, match="numbers holds out 8 tokens, less than two sequences of 4"):
        corpus(8).held_out_sequences(4)                                 # one has no standard error


def test_a_corpus_ends_with_the_last_whole_window_and_may_be_one_batch():
    """A window of 4 inputs needs a fifth token, the last target."""
    def windows(train: int, at_least: int) -> int:
        corpus = Corpus("pre", np.arange(train), np.arange(9), {"source": "numbers", "checksum": ""})
        return len(corpus.windows(4, at_least, seed=1, stage=1))
    assert [windows(train, 2) for train in (9, 12, 13)] == [2, 2, 3]
    with pytest.raises(UserError, match="numbers is shorter than one batch: 2 sequences of 4 tokens, not 3"):
        windows(12, 3)


# ---- damage

def prepared(tmp_path):
    """A corpus whose token files are there, and their folder."""
    source = write(tmp_path / "a.jsonl", [f"document {number} " + "x" * 40 for number in range(100)])
    corpus = open_corpus("pre", source, BYTES, folder=tmp_path / "tokens")
    return source, corpus, next((tmp_path / "tokens").glob("*/meta.json")).parent


def flip(path: Path, seed: int) -> None:
    """Change a byte somewhere."""
    content = bytearray(path.read_bytes())
    place = Random(seed).randrange(len(content))
    content[place] ^= 1 + Random(seed + 1).randrange(255)
    path.write_bytes(content)


DAMAGE = [lambda path: path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2]),
          lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(b""),
          lambda path: path.unlink(), *[partial(flip, seed=seed) for seed in range(4)]]


@pytest.mark.parametrize("name", ["train.bin", "held_out.bin"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_token_files_are_prepared_again(tmp_path, capsys, name, damage):
    source, corpus, home = prepared(tmp_path)
    whole = corpus.train.tobytes(), corpus.held_out.tobytes()
    damage(home / name)
    again = open_corpus("pre", source, BYTES, folder=tmp_path / "tokens")
    assert (again.train.tobytes(), again.held_out.tobytes()) == whole
    assert f"{home} is damaged ({name}), it is not used" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "7", '{"tokens": 3}', "without checksums"])
def test_a_damaged_meta_json_is_made_again(tmp_path, text):
    source, corpus, home = prepared(tmp_path)
    if text == "without checksums":
        text = json.dumps(json.loads((home / "meta.json").read_text()) | {"checksums": None})
    (home / "meta.json").write_text(text)
    again = open_corpus("pre", source, BYTES, folder=tmp_path / "tokens")
    assert again.record == corpus.record


def test_token_files_of_before_there_were_checksums_are_of_use(tmp_path):
    *_, home = prepared(tmp_path)
    meta = json.loads((home / "meta.json").read_text())
    del meta["checksums"]
    (home / "meta.json").write_text(json.dumps(meta))
    assert load_corpus("pre", home)


def test_large_token_files_are_checked_once_and_when_they_change(tmp_path, monkeypatch):
    source, corpus, home = prepared(tmp_path)
    monkeypatch.setattr(corpora, "ALWAYS_CHECKED", 0)
    open_corpus("pre", source, BYTES, folder=tmp_path / "tokens")
    monkeypatch.setattr(corpora, "new_hash", None)                  # to look again would fail
    open_corpus("pre", source, BYTES, folder=tmp_path / "tokens")
    monkeypatch.undo()
    monkeypatch.setattr(corpora, "ALWAYS_CHECKED", 0)
    flip(home / "train.bin", 1)
    assert load_corpus("pre", home) is None


@pytest.mark.parametrize("content, says", [
    (b"not base64 0\n", "line 1 of .* is not a token"), (b"YQ==\n", "line 1 of"),
    (b"YQ== 0\n", "has no token for 255 bytes"), (b"", "has no token for 256 bytes"),
    (b"Y!Q== 0\n", "line 1 of"),
    (b"".join(base64.b64encode(bytes([byte])) + b" 7\n" for byte in range(256)), "one rank to several"),
])
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path, content, says):
    (tmp_path / "v.tiktoken").write_bytes(content)
    with pytest.raises(UserError, match=says):
        load_tokenizer(str(tmp_path / "v.tiktoken"))


def test_the_name_of_a_corpus_may_be_as_long_as_a_files(tmp_path):
    path = tmp_path / ("字" * 80 + ".txt")
    path.write_text("\n\n".join(f"document {number}" for number in range(99)))
    assert len(open_corpus("ft", find_source(str(path)), BYTES, folder=tmp_path / "tokens").train)


def test_of_two_tokenizers_of_one_name_each_is_read(tmp_path, monkeypatch):
    for name, merges in (("one", [b"th", b"the"]), ("two", [b"an"])):
        (tmp_path / name).mkdir()
        write_vocabulary(tmp_path / name / "v.tiktoken", *merges)
    source = write(tmp_path / "a.jsonl", [text + " the" for text in TEXTS])
    for name, the in (("one", [257]), ("two", [116, 104, 101])):
        monkeypatch.chdir(tmp_path / name)
        tokenizer = load_tokenizer("v.tiktoken")
        corpus = open_corpus("pre", source, tokenizer, folder=tmp_path / "tokens")
        assert corpus.train[-1 - len(the):].tolist() == [*the, end_of_text(tokenizer)]
