"""Corpora of every kind become the same token files; streams keep their promises to the last sequence."""

import gzip
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard

import data
from data import Interleaved, Windows, count_for_share, documents, load_tokenizer, open_corpus, whole_sequences
from files import UserError

TEXTS = [f"document {i}: größer als {i * i}" for i in range(40)]
BYTES = load_tokenizer("bytes")


def write(path: Path, rows: list[dict]) -> str:
    """Rows in the format that the path's name says."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = pa.Table.from_pylist(rows)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if ".parquet" in path.name:
        pq.write_table(table, path)
    elif ".csv" in path.name:
        import csv
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = {"txt": "\n\n".join(row.get("text", "") for row in rows), "json": json.dumps(rows)}
        content = text.get(path.name.split(".")[1], lines).encode()
        pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(content))
    return str(path)


# ---- reading

@pytest.mark.parametrize("name", "a.txt a.txt.gz a.jsonl a.jsonl.gz a.jsonl.zst a.json a.csv a.parquet".split())
def test_every_format_gives_the_same_documents(tmp_path, name):
    assert list(documents(write(tmp_path / name, [{"text": text} for text in TEXTS]))) == TEXTS


def test_a_folder_is_read_in_order_of_names(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.jsonl", [{"text": "second"}])
    write(tmp_path / "a.jsonl.gz", [{"text": "first"}])
    write(tmp_path / "deep" / "c.jsonl", [{"text": "third"}])
    (tmp_path / "README.md").write_text("not a corpus")
    assert list(documents(str(tmp_path))) == ["first", "second", "third"]


@pytest.mark.parametrize("row, text", [
    ({"prompt": "Why?", "completion": "So.<|endoftext|>"}, "Why?\nSo."),
    ({"prompt": "Why?\n", "completion": "So."}, "Why?\nSo."),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n1 2\n3"),
    ({"instruction": "Add.", "input": "", "output": "3"}, "Add.\n3"),
    ({"inputs": "Q", "targets": "A", "task": "t"}, "Q\nA"),
    ({"id": 7, "text": " x "}, "x"),
])
def test_text_fields_are_found_and_joined(tmp_path, row, text):
    assert list(documents(write(tmp_path / "a.jsonl", [row]))) == [text]


def test_text_field_can_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"head": "H", "body": "B", "text": "T"}])
    assert list(documents(path, "body")) == ["B"]
    assert list(documents(path, "head+body")) == ["H\nB"]


def break_file(path: Path, how: str) -> str:
    content = {"empty": b"", "blank": b"\n\n\n", "one": b"only one document",
               "latin": '{"text": "größer"}\n'.encode("latin-1"),
               "broken": b'{"text": "a"\n{{', "no field": b'{"title": "a"}\n',
               "truncated": gzip.compress(b'{"text": "abc"}\n' * 99)[:40]}[how]
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("name, how, says", [
    ("a.jsonl", "empty", "is empty"), ("a.txt", "empty", "is empty"), ("a.txt", "blank", "is empty"),
    ("a.txt", "one", "too few documents"),
    ("a.jsonl", "latin", "not UTF-8"), ("a.txt", "latin", "not UTF-8"), ("a.jsonl", "broken", "cannot read"),
    ("a.jsonl", "no field", "--text-field"), ("a.jsonl.gz", "truncated", "cannot read"),
    ("a.parquet", "empty", "cannot read"),
])
def test_bad_files_are_named_and_leave_nothing(tmp_path, name, how, says):
    with pytest.raises(UserError, match=says) as error:
        open_corpus(break_file(tmp_path / name, how), BYTES, folder=tmp_path / "tokens")
    assert "\n" not in str(error.value)
    assert [path for path in (tmp_path / "tokens").iterdir() if path.suffix != ".lock"] == []


def test_two_runs_at_once_tokenize_a_corpus_once(tmp_path, monkeypatch):
    prepared, prepare = [], data.prepare

    def slowly(*args):
        prepared.append(args[0])
        time.sleep(0.2)
        prepare(*args)

    monkeypatch.setattr(data, "prepare", slowly)
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: open_corpus("music", BYTES, folder=tmp_path), range(2)))
    assert prepared == ["music"] and both[0].record == both[1].record


@pytest.mark.parametrize("name, says", [("none.txt", "no corpus"), ("", "nothing to read")])
def test_missing_corpora_are_named(tmp_path, name, says):
    with pytest.raises(UserError, match=says):
        open_corpus(str(tmp_path / name), BYTES)


# ---- the hub

def test_hub_corpora_go_through_load_dataset(tmp_path, monkeypatch):
    """The same code on local folders in the hub's layouts: configs, a held-out split of its own, inputs and targets."""
    for split, word in (("train", "seen"), ("validation", "held")):
        (tmp_path / "c4" / "en").mkdir(parents=True, exist_ok=True)
        write(tmp_path / "c4" / "en" / f"{split}.parquet", [{"text": f"{word} {i}", "url": "u"} for i in range(50)])
    (tmp_path / "c4" / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/train.parquet\n"
        "  - split: validation\n    path: en/validation.parquet\n---\n")
    (tmp_path / "flan").mkdir()
    write(tmp_path / "flan" / "train.jsonl", [{"inputs": f"Q{i}", "targets": f"A{i}", "task": "t"} for i in range(500)])
    monkeypatch.setitem(data.HUB, "c4", data.HubCorpus(str(tmp_path / "c4"), ("en",), None, "validation"))
    monkeypatch.setitem(data.HUB, "flan", data.HubCorpus(str(tmp_path / "flan")))

    assert open_corpus("flan", BYTES, limit=9, folder=tmp_path / "tokens").record["limit"] is None       # whole
    corpus = open_corpus("c4", BYTES, limit=100, folder=tmp_path / "tokens")
    text = BYTES.decode_bytes(corpus.train.tolist())
    assert text.startswith(b"seen 0\xffseen 1\xff") and b"held" not in text
    assert 100 <= len(corpus.train) < 450                               # not much more than asked for
    assert BYTES.decode_bytes(corpus.held_out.tolist()).startswith(b"held 0\xffheld 1\xff")
    assert next(documents("flan")) == next(documents(f"hub:{tmp_path / 'flan'}")) == "Q0\nA0"


def test_an_unreachable_hub_names_the_ways_out(tmp_path, monkeypatch):
    import datasets
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="embedded corpus .*web.* or a local file"):
        open_corpus("c4", BYTES, limit=1000, folder=tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_hub_revisions_are_pinned():
    assert data.HUB["c4"][:3] == ("allenai/c4", ("en",), "1588ec454efa1a09f29cd18ddd04fe05fc8653a2")
    assert data.HUB["musicpile"].revision == "5930bd7199ddead76ab540901e2187ea4e5fc6a7"
    assert data.HUB["chempile"].revision == "c653c3c7bbf599030b80f117b6748ebae406043b"


# ---- tokenizers and token files

def test_bytes_tokenizer_is_utf8_and_ends_documents_with_a_byte_utf8_never_uses():
    text = "größer → 2 ≤ 3\n" * 20
    assert BYTES.encode_ordinary(text) == list(text.encode()) and BYTES.n_vocab == 256
    assert data.end_of_text(BYTES) == 255


def test_a_tiktoken_file_is_a_tokenizer(tmp_path):
    import base64
    ranks = [bytes([byte]) for byte in range(256)] + [b"th", b"the"]
    path = tmp_path / "small.tiktoken"
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)))
    tokenizer = load_tokenizer(str(path))
    assert tokenizer.encode_ordinary("the") == [257] and data.end_of_text(tokenizer) == 258
    assert data.fingerprint(tokenizer) != data.fingerprint(BYTES)
    with pytest.raises(UserError, match="--tokenizer bytes"):
        load_tokenizer(str(tmp_path / "none.tiktoken"))


def test_token_files_hold_every_document_once(tmp_path):
    texts = [f"{i} " + "x" * 900 for i in range(900)]                  # 1% of it is less than MIN_HELD_OUT
    path = write(tmp_path / "a.jsonl", [{"text": text} for text in texts + texts[:50]])
    corpus = open_corpus(path, BYTES, folder=tmp_path / "tokens")
    train, held_out = (bytes(part.astype(np.uint8)).decode("latin-1").split("\xff")[:-1]
                       for part in (corpus.train, corpus.held_out))
    assert sorted(train + held_out) == sorted(texts + texts[:50])
    assert not set(train) & set(held_out)
    assert len(corpus.held_out) >= data.MIN_HELD_OUT
    assert corpus.train.dtype == np.uint16
    meta = json.loads(next((tmp_path / "tokens").glob("*/meta.json")).read_text())
    assert meta["tokens"] == {"train": len(corpus.train), "held_out": len(corpus.held_out)}


def test_a_prepared_corpus_is_not_read_again_but_a_changed_one_is(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    first = open_corpus(path, BYTES, folder=tmp_path / "tokens")
    with monkeypatch.context() as patch:
        patch.setattr(data, "documents", None)
        again = open_corpus(path, BYTES, folder=tmp_path / "tokens", checksum=first.record["checksum"])
        assert np.array_equal(first.train, again.train)
    write(tmp_path / "a.jsonl", [{"text": text + "!"} for text in TEXTS])
    checksum = first.record["checksum"]                                # the token files still are what they were
    assert np.array_equal(open_corpus(path, BYTES, folder=tmp_path / "tokens", checksum=checksum).train, first.train)
    assert not np.array_equal(open_corpus(path, BYTES, folder=tmp_path / "tokens").train, first.train)
    shutil.rmtree(tmp_path / "tokens")
    with pytest.raises(UserError, match="has changed"):
        open_corpus(path, BYTES, folder=tmp_path / "tokens", checksum=first.record["checksum"])


def test_preparation_holds_few_documents_at_a_time(tmp_path, monkeypatch):
    alive = most = 0

    class Text(str):
        def __new__(cls, text):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, text)

        def __del__(self):
            nonlocal alive
            alive -= 1

    monkeypatch.setattr(data, "documents", lambda *_, **__: (Text(f"{i} " + "y" * 200) for i in range(5000)))
    open_corpus("web", BYTES, folder=tmp_path)
    assert most < 1500


def test_a_limit_chooses_windows_all_over_the_corpus_and_smaller_limits_parts_of_larger(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": f"{i} " + "x" * 400} for i in range(300)])
    corpus = open_corpus(path, BYTES, folder=tmp_path / "tokens")
    large, small = (set(corpus.windows(64, 8, seed=1, stage=1, limit=limit).chosen.tolist())
                    for limit in (32_000, 6_400))
    assert len(large) == 500 and len(small) == 100 and small < large
    assert max(small) > 0.9 * len(corpus.train) / 64
    held_out = corpus.held_out_sequences(64)
    assert len(held_out) == (len(corpus.held_out) - 1) // 64 or len(held_out) == 256


# ---- streams

def windows_of(count: int, seed: int = 42, stage: int = 1, context: int = 4) -> Windows:
    """`count` windows whose tokens say which window they are: window i holds i, i, i, i."""
    return Windows(np.repeat(np.arange(count + 1), context)[:count * context + 1], context, seed, stage,
                   np.arange(count, dtype=np.uint32))


def sequences(stream: Interleaved) -> list[int]:
    return [int(stream.sequence(slot)[0]) for slot in range(stream.length)]


@pytest.mark.parametrize("lam, mixed", [(0, 0), (0.25, 73_242), (0.5, 146_484), (0.75, 219_726), (1, 292_968)])
def test_token_counts_of_the_135m_setting(lam, mixed):
    """8.7B + λ · 300M tokens in windows of 1,024: by hand 8,496,093 and λ · 292,968 sequences, 512 a step."""
    n_pre, n_post = 8_700_000_000 // 1024, 300_000_000 // 1024
    stream = Interleaved(windows_of(1), windows_of(1), n_pre, round(lam * n_post), 512)
    assert stream.seen(stream.steps) == (8_496_093, mixed)
    assert stream.steps == -(-(8_496_093 + mixed) // 512)
    assert sum(stream.sequences_in(step) for step in (0, stream.steps - 1)) == 512 + (8_496_093 + mixed - 1) % 512 + 1
    gaps = np.diff([slot for slot in range(100_000) if stream.minor_before(slot + 1) > stream.minor_before(slot)])
    assert len(set(gaps)) <= 2 and (len(gaps) == 0 or max(gaps) - min(gaps) <= 1)


def test_windows_do_not_overlap_and_targets_are_one_further():
    tokens = np.arange(20, dtype=np.uint16)
    assert data.window(tokens, 0, 4).tolist() == [0, 1, 2, 3, 4]
    assert data.window(tokens, 1, 4).tolist() == [4, 5, 6, 7, 8]
    windows = Windows(tokens, 4, 0, 1, np.arange(4))
    inputs, targets = Interleaved(windows, windows, 4, 0, 2).batch(0)
    assert torch.equal(inputs + 1, targets)


def test_each_pass_reads_every_window_once_in_a_fresh_order():
    windows = windows_of(50)
    passes = [[int(windows[p * 50 + i][0]) for i in range(50)] for p in range(3)]
    assert all(sorted(order) == list(range(50)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] == [int(windows_of(50)[i][0]) for i in range(50)]
    assert passes[0] != [int(windows_of(50, stage=2)[i][0]) for i in range(50)]


def test_the_order_of_either_corpus_does_not_depend_on_the_share():
    major, minor = windows_of(60), windows_of(30, seed=7)
    minor = replace(minor, tokens=minor.tokens + 1000)
    for n_minor in (0, 1, 7, 30, 200):
        seen = sequences(Interleaved(major, minor, 60, n_minor, 8))
        assert [i for i in seen if i < 1000] == [int(major[i][0]) for i in range(60)]
        assert [i for i in seen if i >= 1000] == [int(minor[i][0]) for i in range(len(seen) - 60)]


def test_minor_slots_by_hand():
    """3 among 20 are 3/23 of the slots: a third each of 23, and in the middle of its third."""
    stream = Interleaved(windows_of(20), windows_of(3), 20, 3, 8)
    assert [slot for slot in range(23) if stream.minor_before(slot + 1) > stream.minor_before(slot)] == [3, 11, 19]


def test_a_share_of_the_stream_by_hand():
    """1% of the stream: 9,900 sequences become 10,000; 3/10: 70 become 100."""
    assert [count_for_share(0.01, 9_900), count_for_share(0.3, 70), count_for_share(0, 50)] == [100, 30, 0]
    with pytest.raises(UserError, match="less than one sequence"):
        whole_sequences(127, 128)


def test_batches_are_the_same_for_any_number_of_ranks_and_the_last_is_short():
    stream = Interleaved(windows_of(20), windows_of(9, seed=3), 20, 3, 8)
    whole = [stream.batch(step) for step in range(stream.steps)]
    for step, (inputs, targets) in enumerate(whole):
        halves = [stream.batch(step, rank, 2) for rank in (0, 1)]
        assert torch.equal(torch.cat([half[0] for half in halves]), inputs)
        assert torch.equal(torch.cat([half[1] for half in halves]), targets)
    assert stream.steps == 3 and stream.sequences_in(2) == 7
    assert (whole[2][1][7] == -1).all() and (whole[2][1][:7] >= 0).all()
    assert stream.batch(1)[0].dtype == torch.int64


def test_streams_hold_no_more_than_an_index_per_window():
    """At 8.7B tokens: the windows' numbers and one order of them, four bytes each."""
    windows = Windows(np.broadcast_to(np.uint16(0), 8_700_000_001), 1024, 42, 1, np.arange(8_496_093, dtype=np.uint32))
    order = windows.permutation(0)
    assert order.nbytes == windows.chosen.nbytes == 4 * 8_496_093
    assert Interleaved(windows, windows, 8_496_093, 0, 512).batch(16_593)[0].shape == (512, 1024)
