"""Corpora of every kind give their documents, and what is wrong with one is said in a line."""

import csv
import gzip
import io
import json
import os
import re
import sys
from pathlib import Path
from random import Random
from unittest.mock import Mock, call

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data import tokens
from data.corpora import open_corpus
from data.embedded import SIZES
from data.sources import HUB, HubSet, find_source, hub_set
from data.tokenizers import load_tokenizer
from run.files import UserError

TEXTS = [f"document {i}: größer als {i * i}" for i in range(40)]
BYTES = load_tokenizer("bytes")


def write(path: Path, rows: list[dict]) -> str:
    """Rows in the format that the path's name says."""
    kind = path.name.lower().split(".")[1]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind in ("csv", "tsv"):
        pack(path, as_table(rows, {"csv": ",", "tsv": "\t"}[kind]).encode())
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        text = {"txt": "\n\n".join(str(row.get("text", "")) for row in rows), "json": json.dumps(rows)}
        pack(path, text.get(kind, lines).encode())
    return str(path)


def as_table(rows: list[dict], delimiter: str) -> str:
    """Rows below a header, quoted where they need to be; lines end in CR LF."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def pack(path: Path, content: bytes) -> str:
    """Write a file, packed as its name says."""
    packing = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix.lower(), bytes)
    path.write_bytes(packing(content))
    return str(path)


def documents(name: object, text_field: str | None = None) -> list[str]:
    return [document.text for document in find_source(str(name), text_field).documents()]


# ---- the kinds of a corpus

def test_the_kind_of_a_corpus_is_decided_by_its_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a"}])
    embedded, local, hub = find_source("web"), find_source(path), find_source("c4")
    assert embedded.is_local and not embedded.files and embedded.revision is None
    assert local.is_local and local.files == (Path(path),) and local.held_out_split is None
    assert not hub.is_local and hub.hub is HUB["c4"] and hub.held_out_split == "validation"
    assert find_source("hub:org/name").hub == HubSet("org/name", (None,))
    assert find_source("hub:org/name:part").hub == HubSet("org/name", ("part",))
    (tmp_path / "README.md").write_text(CARD)
    for name in ("web", path, "c4", "hub:org/name", str(tmp_path)):
        assert find_source(name, "head+body").text_field == "head+body"


def test_a_source_has_another_version_when_its_documents_may_differ(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a"}])
    before = find_source(path).version()
    assert find_source(path).version() == before
    write(tmp_path / "a.jsonl", [{"text": "longer"}])
    assert find_source(path).version() != before
    before = find_source(path).version()
    os.utime(path, ns=(1, 1))                                           # of one length, but written again
    assert find_source(path).version() != before
    assert find_source("web").version() == find_source("music").version()       # one program makes them all
    assert find_source("hub:org/name:a").version() != find_source("hub:org/name:b").version()


# ---- reading

@pytest.mark.parametrize("ending", ("txt txt.gz jsonl jsonl.gz jsonl.zst ndjson json csv tsv parquet "
                                    "csv.gz tsv.zst TXT JSONL NDJSON.GZ jsonl.ZST JSON.GZ CSV TSV CSV.zst "
                                    "CSV.ZST TSV.GZ TSV.ZST").split())
def test_every_format_gives_the_same_documents(tmp_path, ending):
    assert documents(write(tmp_path / f"a.{ending}", [{"text": text} for text in TEXTS])) == TEXTS


@pytest.mark.parametrize("ending", "csv tsv".split())
def test_every_cell_of_a_table_is_text(tmp_path, capsys, ending):
    """Numbers and what others take for nothing, too; quoted, delimiters, quotes and line ends."""
    cells = "NA None null nan N/A 7 1e3 True 2020-01-01".split() + ["a,b\tc", 'a "b"', "a\nb", "a\r\n\r\nb"]
    for texts in ([cell] for cell in cells), [cells]:
        for column in texts:
            rows = [{"question": text, "answer": text} for text in column]
            path = write(tmp_path / f"a.{ending}", rows)
            assert documents(path) == [f"{text}\n{text}" for text in column]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_empty_cell_is_an_empty_text_and_one_that_lacks_is_no_field(tmp_path, capsys, end):
    lines = "\ufeff", "question,answer", "", "Q,", "Q", "Q,A", "", '"Q",""'
    path = pack(tmp_path / "a.csv", end.join(lines).encode())
    assert documents(path) == ["Q", "Q\nA", "Q"]
    assert "4 rows, read question+answer of 3; 1 without text" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no text field in .*a.csv \(it has question\), name one"):
        documents(pack(tmp_path / "a.csv", end.join(["question,answer", "Q", "Q"]).encode()))


def test_a_folder_is_read_in_order_of_names(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.jsonl", [{"text": "second"}])
    write(tmp_path / "a.jsonl.gz", [{"text": "first"}])
    write(tmp_path / "deep" / "c.jsonl", [{"text": "third"}])
    (tmp_path / "README.md").write_bytes("größer, but not a corpus".encode("latin-1"))
    assert documents(tmp_path) == ["first", "second", "third"]


def said(*turns: str) -> list[dict]:
    """Messages of OpenAI's kind: "user: Why?"."""
    return [dict(zip(("role", "content"), turn.split(": ", 1))) for turn in turns]


def in_parts(*texts: str) -> list[dict]:
    """What a message says, as a list of parts."""
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("row, text", [
    ({"prompt": "Why?", "completion": "So.<|endoftext|>"}, "Why?\nSo."),
    ({"prompt": "Why?\n", "completion": "So."}, "Why?\nSo."),
    ({"prompt": "The sky is", "completion": " blue."}, "The sky is blue."),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n1 2\n3"),
    ({"instruction": "Add.", "input": "", "output": "3"}, "Add.\n3"),
    ({"inputs": "Q", "targets": "A", "task": "t"}, "Q\nA"),
    ({"question": "Q", "answer": "A", "id": "7"}, "Q\nA"),
    ({"instruction": "Add.", "context": "1 2", "response": "3", "category": "sums"}, "Add.\n1 2\n3"),
    ({"instruction": "Add.", "response": "3"}, "Add.\n3"),
    ({"query": "Q", "response": "A"}, "Q\nA"),
    ({"content": "C", "url": "u"}, "C"),
    ({"id": 7, "text": " x "}, "x"),
    ({"messages": said("system: Be brief.", "user: Why?\n", "assistant: So.")},
     "system: Be brief.\nuser: Why?\nassistant: So."),
    ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
     "user: Why?\nassistant: So."),
    ({"prompt": said("user: Why?"), "completion": said("assistant: So.")}, "user: Why?\nassistant: So."),
    ({"messages": [{"role": "user", "content": in_parts(" Wh", "y?\n")}, *said("assistant: So."),
                   {"role": "user", "content": in_parts()}]}, "user: Why?\nassistant: So.\nuser:"),
])
def test_text_fields_are_found_and_joined(tmp_path, row, text):
    assert documents(write(tmp_path / "a.jsonl", [row])) == [text]


def test_text_field_can_be_named(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [{"head": "H", "body": "B", "text": "T"}])
    assert documents(path, "body") == ["B"]
    assert documents(path, "head+body") == ["H\nB"] and capsys.readouterr().out == ""
    assert documents(path, "foot") == ["T"]                             # D_pre and D_post share the flag
    assert "1 rows, none has text in foot, read text of 1; 0 without text" in capsys.readouterr().out


CHAT = [{"messages": said(f"user: {text}?", f"assistant: {text}!"), "id": "7"} for text in TEXTS]
PICTURE = {"type": "image", "text": "a.png"}


@pytest.mark.parametrize("ending", "jsonl json parquet".split())
def test_every_format_gives_the_same_messages(tmp_path, ending):
    texts = [f"user: {text}?\nassistant: {text}!" for text in TEXTS]
    assert documents(write(tmp_path / f"a.{ending}", CHAT)) == texts


def test_what_is_not_a_list_of_messages_is_left_out_and_told(tmp_path, capsys):
    said_by_user = None, ["x"], [{"type": "text", "text": None}], [*in_parts("Q"), PICTURE]
    values = [], 7, ["x"], [{"role": "user"}], *([{"role": "user", "content": one}] for one in said_by_user)
    calls = [[*said("user: a"), {"role": "assistant", "content": "", name: [{}]}] for name in ("tool_calls", "function_call")]
    rows = [{"messages": value} for value in (*values, *calls)]
    assert documents(write_lines(tmp_path / "a.jsonl", [*rows, {"messages": said("user: a")}])) == ["user: a"]
    assert "11 rows, read messages of 1; 10 without text" in capsys.readouterr().out


@pytest.mark.parametrize("row, fields", [
    ({"messages": [{"role": "user", "content": [*in_parts("Q"), PICTURE]}], "id": 7}, "messages"),
    ({"id": "7", "question": 1, "answer": None}, "question+answer"), ({"text": 3, "content": None}, "text"),
])
def test_fields_that_are_there_but_hold_no_text_are_not_said_to_lack(tmp_path, row, fields):
    path = write_lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(UserError, match=f"^no text in {re.escape(fields)} of .*a.jsonl .* or name other"):
        documents(path)
    with pytest.raises(UserError, match="no text in id of "):
        documents(write_lines(tmp_path / "a.jsonl", [{"id": 7}]), "id")


# ---- what of a document is a completion

@pytest.mark.parametrize("row, completion", [
    ({"text": "T"}, None), ({"content": "C"}, None),
    ({"prompt": " Why?", "completion": " So.\n<|endoftext|>"}, [" So.\n"]),
    ({"prompt": "\n", "completion": "So. "}, ["So."]),
    ({"prompt": "The sky is", "completion": " blue."}, [" blue."]),
    ({"prompt": "Why?", "completion": ""}, []),
    ({"instruction": "Add.", "input": "", "output": "3"}, ["3"]),
    ({"instruction": "3", "context": "3", "response": "3"}, ["3"]),
    ({"messages": said("user: a", "assistant: b", "user: c", "assistant: d")}, [" b\n", " d"]),
    ({"messages": said("assistant: a", "user: b")}, [" a\n"]),
    ({"messages": said("system: a", "user: b")}, []),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, [" b"]),
    ({"conversations": [{"from": "bot", "value": "a"}, {"from": "chatgpt", "value": "b"}]}, [" a\n", " b"]),
    ({"messages": said("user: a", "model: b")}, [" b"]),
    ({"prompt": said("user: a", "assistant: b", "user: c"), "completion": said("assistant: d")}, [" d"]),
])
def test_the_completion_is_the_last_field_or_what_the_assistant_says(tmp_path, row, completion):
    (document,) = find_source(write_lines(tmp_path / "a.jsonl", [row])).documents()
    spans = document.completion
    marked = None if spans is None else [document.text[first:last] for first, last in spans]
    assert marked == completion


def test_of_named_fields_the_last_is_the_completion(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"head": "größer", "body": "😀\ud800"}])
    assert [document.completion for document in find_source(path, "head+body").documents()] == [((7, 9),)]
    assert [document.completion for document in find_source(path, "body").documents()] == [None]


# ---- text that is hard to read

@pytest.mark.parametrize("seed", range(3))
def test_halves_of_surrogate_pairs_are_replaced_and_told(tmp_path, capsys, seed):
    random = Random(seed)
    spelled = ["".join(random.choices(["a", "é", "\\ud800", "\\udfff", "\\ud83d\\ude00", "\\u0000"], k=9))
               for _ in range(200)]
    path = pack(tmp_path / "a.jsonl", "".join(f'{{"text": "a{text}b"}}\n' for text in spelled).encode())
    read = documents(path)

    # UTF-16 knows what is a pair and what is half of one.
    units = [json.loads(f'"a{text}b"').encode("utf-16", "surrogatepass") for text in spelled]
    assert read == [text.decode("utf-16", "replace") for text in units]
    halves = sum(text.count("\ufffd") for text in read)
    assert f"{path}: replaced {halves} halves of surrogate pairs by U+FFFD" in capsys.readouterr().out


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("seed", range(3))
def test_an_empty_line_ends_a_document_whatever_ends_the_line(tmp_path, seed, packing):
    random, ends, content = Random(seed), ["\n", "\r\n"], ""
    texts = [[f"{number}\0", *random.choices(["word", "é", " x"], k=number % 4)] for number in range(300)]
    for lines in texts:
        content += "".join(line + random.choice(ends) for line in lines)
        content += "".join(random.choices(ends, k=random.randint(1, 4)))
    read = documents(pack(tmp_path / f"a.txt{packing}", content.encode()))
    assert read == ["\n".join(lines) for lines in texts]


@pytest.mark.parametrize("ending", "txt jsonl json csv parquet".split())
def test_nul_bytes_are_text(tmp_path, ending):
    texts = ["\0", "a\0b", "\0" * 9 + "c"]
    assert documents(write(tmp_path / f"a.{ending}", [{"text": text} for text in texts])) == texts


@pytest.mark.parametrize("ending", "txt jsonl csv".split())
@pytest.mark.parametrize("half", [b"\xed\xa0\x80", b"\xed\xbf\xbf"])
def test_halves_of_surrogate_pairs_as_bytes_are_refused(tmp_path, ending, half):
    path = Path(write(tmp_path / f"a.{ending}", [{"text": text} for text in ("a", "half", "b")]))
    with pytest.raises(UserError, match="is not UTF-8, convert it"):
        documents(pack(path, path.read_bytes().replace(b"half", half)))


@pytest.mark.parametrize("line, says", [
    ('{"text": "a\0b"}', "Invalid control character"), ('{"text": "a', "Invalid control character"),
    ('[{"text": "a"}]', "no JSON object"), ("7", "no JSON object"), ("\0" * 9, "Expecting value"),
    ('{"text": "a"} {"text": "b"}', "Extra data"), ("[" * 100_000, "recursion"),
])
def test_a_line_that_is_no_row_is_named(tmp_path, line, says):
    content = '\ufeff{"text": "a"}\n \t\r\n' + line + '\n{"text": "b"}\n'
    with pytest.raises(UserError, match=f"line 3 of a.jsonl.*{says}") as error:
        documents(pack(tmp_path / "a.jsonl", content.encode()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("row, says", [
    ("a,1,2", "3 cells, but 2 in the header"), ("a,1,", "3 cells, but 2"), ('"a" b,1', "',' expected after"),
    ('"a,1\nb,2', "unexpected end of data"), ('"a,1\nb,2\n"c",3', "',' expected after"),
])
def test_a_row_of_a_table_that_is_none_is_named_by_its_first_line(tmp_path, row, says):
    path = pack(tmp_path / "a.csv", f'\ntext,id\n\n"b\nb",1\n{row}\n'.encode())
    with pytest.raises(UserError, match=f"line 6 of a.csv: .*{says}") as error:
        documents(path)
    assert "\n" not in str(error.value)


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 1 of a.csv: the header has 'text' twice"):
        documents(pack(tmp_path / "a.csv", b"text,text\na,b\n"))
    assert documents(pack(tmp_path / "a.csv", b"text,,\na,b,c\n")) == ["a"]


@pytest.mark.parametrize("ending", ["txt.gz", "txt.ZST", "jsonl.zst", "csv.zst"])
def test_a_packed_file_that_is_cut_off_is_refused(tmp_path, ending):
    path = Path(write(tmp_path / f"a.{ending}", [{"text": text} for text in TEXTS]))
    whole = path.read_bytes()
    for cut in (3, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UserError, match="cannot read .*a."):
            documents(str(path))


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
def test_packed_files_may_follow_each_other_in_one(tmp_path, ending):
    path = Path(write(tmp_path / f"a.{ending}", [{"text": text} for text in TEXTS]))
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    assert documents(str(path)) == 2 * TEXTS
    path.write_bytes(whole + whole[:-3])
    with pytest.raises(UserError, match="cannot read .*a.jsonl"):
        documents(str(path))


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert documents(pack(tmp_path / "a.txt", "\ufeffa\n\nb\n".encode())) == ["a", "b"]
    assert documents(pack(tmp_path / "a.csv", '\ufeff"text",id\na,1\n'.encode())) == ["a"]


def test_a_line_may_be_long_and_datasets_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)                  # to import it would fail
    texts = ["a", "b " * 1_000_000 + "c", "d"]
    for name in ("a.jsonl.gz", "a.txt.zst", "a.csv", "a.tsv.gz"):
        assert documents(write(tmp_path / name, [{"text": text} for text in texts])) == texts


# ---- what is wrong with a corpus

def break_file(path: Path, how: str) -> str:
    content = {"empty": b"", "blank": b"\n\n\n", "one": b"only one document",
               "latin": '{"text": "größer"}\n'.encode("latin-1"),
               "broken": b'{"text": "a"\n{{', "no field": b'{"title": "a"}\n',
               "truncated": gzip.compress(b'{"text": "abc"}\n' * 99)[:40]}[how]
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("name, how, says", [
    ("a.jsonl", "empty", "is empty"), ("a.txt", "empty", "is empty"), ("a.txt", "blank", "is empty"),
    ("a.csv", "empty", "is empty"), ("a.csv", "blank", "is empty"), ("a.csv", "one", "is empty"),
    ("a.txt", "one", "too few documents"),
    ("a.jsonl", "latin", "not UTF-8"), ("a.txt", "latin", "not UTF-8"), ("a.jsonl", "broken", "cannot read"),
    ("a.jsonl", "no field", "--text-field"), ("a.jsonl.gz", "truncated", "cannot read"),
    ("a.parquet", "empty", "cannot read"), ("a.json", "empty", "is empty"),
])
def test_bad_files_are_named_and_leave_nothing(tmp_path, name, how, says):
    source = find_source(break_file(tmp_path / name, how))
    with pytest.raises(UserError, match=says) as error:
        open_corpus("pre", source, BYTES, folder=tmp_path / "tokens")
    assert "\n" not in str(error.value)
    assert [path for path in (tmp_path / "tokens").iterdir() if path.suffix != ".lock"] == []


def test_an_embedded_corpus_goes_on_to_the_size_in_its_name(monkeypatch):
    monkeypatch.setitem(SIZES, "chem", 20_000)
    monkeypatch.setattr("data.embedded.MIXTURE_SIZE", 25_000)
    names = "chem:10k", "chem", "chem:30k", "web75music25"
    short, whole, long, mixture = ("".join(documents(name)) for name in names)
    assert long.startswith(whole) and whole.startswith(short)
    for text, size in ((short, 10_000), (whole, 20_000), (long, 30_000), (mixture, 25_000)):
        assert 0 <= len(text) - size < 1500


@pytest.mark.parametrize("name, says", [("web:much", "'much' is not a count"), ("web:1e5000", "not a count"), ("web:1e9999999999", "not a count"),
                                        ("web:", "'' is not a count"),
                                        ("chem:0", "at least 1"), ("wob:1M", "no corpus 'wob:1M'")])
def test_a_size_that_is_none_is_said(name, says):
    with pytest.raises(UserError, match=says):
        find_source(name)


@pytest.mark.parametrize("name, says", [("none.txt", "no corpus"), ("", "nothing to read")])
def test_missing_corpora_are_named(tmp_path, name, says):
    with pytest.raises(UserError, match=says):
        find_source(str(tmp_path / name))


def test_files_of_several_kinds_are_refused(tmp_path):
    for name in ("a.jsonl", "b.csv"):
        write(tmp_path / name, [{"text": "a"}])
    with pytest.raises(UserError, match="files of several kinds"):
        find_source(str(tmp_path))


# ---- the hub

def test_hub_corpora_go_through_load_dataset(tmp_path, monkeypatch):
    """The same code on local folders laid out like the hub's: configs, a held-out split, two fields."""
    for split, word in (("train", "seen"), ("validation", "held")):
        (tmp_path / "c4" / "en").mkdir(parents=True, exist_ok=True)
        rows = [{"text": f"{word} {i}", "url": "u"} for i in range(50)]
        write(tmp_path / "c4" / "en" / f"{split}.parquet", rows)
    (tmp_path / "c4" / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/train.parquet\n"
        "  - split: validation\n    path: en/validation.parquet\n---\n")
    (tmp_path / "flan").mkdir()
    rows = [{"inputs": f"Q{i}", "targets": f"A{i}", "task": "t"} for i in range(500)]
    write(tmp_path / "flan" / "train.jsonl", rows)
    monkeypatch.setitem(HUB, "c4", HubSet(str(tmp_path / "c4"), ("en",), None, "validation"))
    monkeypatch.setitem(HUB, "flan", HubSet(str(tmp_path / "flan")))
    monkeypatch.setattr(tokens, "LIMIT_EVERY", 10)
    monkeypatch.setattr(tokens, "HELD_OUT_DOCUMENTS", 20)
    monkeypatch.setattr(tokens, "HELD_OUT_SHARES", (0.5,))

    whole = open_corpus("post", find_source("flan"), BYTES, limit=9, folder=tmp_path / "tokens")
    assert whole.record["limit"] is None
    corpus = open_corpus("pre", find_source("c4"), BYTES, limit=100, folder=tmp_path / "tokens")
    text = BYTES.decode_bytes(corpus.train.tolist())
    assert text.startswith(b"seen 0\xffseen 1\xff") and b"held" not in text
    assert text.endswith(b"seen 19\xff")                                # ten at a time, until there are 100
    held_out = BYTES.decode_bytes(corpus.held_out.tolist())
    assert held_out.startswith(b"held 0\xffheld 1\xff") and held_out.endswith(b"held 19\xff")
    assert b"seen" not in held_out
    more = open_corpus("pre", find_source("c4"), BYTES, limit=200, folder=tmp_path / "tokens")
    assert len(more.train) >= 200 and np.array_equal(more.train[:len(corpus.train)], corpus.train)
    assert documents("flan")[0] == documents(f"hub:{tmp_path / 'flan'}")[0] == "Q0\nA0"


def test_every_configuration_is_read_at_the_revision_that_is_pinned(monkeypatch):
    data = Mock(config=None)
    data.as_streaming_dataset.side_effect = lambda split: [{"text": split}]
    build = Mock(return_value=data)
    monkeypatch.setattr("datasets.load_dataset_builder", build)
    assert documents("chempile") == ["train"] * 4
    path, configs, revision, *_ = HUB["chempile"]
    assert build.call_args_list == [call(path, config, revision=revision) for config in configs]


def test_an_unreachable_hub_names_the_ways_out(tmp_path, monkeypatch):
    import datasets
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="embedded corpus .*web.* or a local file"):
        open_corpus("pre", find_source("c4"), BYTES, limit=1000, folder=tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_hub_revisions_are_pinned():
    assert HUB["c4"][:3] == ("allenai/c4", ("en",), "1588ec454efa1a09f29cd18ddd04fe05fc8653a2")
    assert HUB["musicpile"].revision == "5930bd7199ddead76ab540901e2187ea4e5fc6a7"
    assert HUB["chempile"].revision == "c653c3c7bbf599030b80f117b6748ebae406043b"


# ---- rows and folders that are read wrongly in silence

def test_rows_of_an_empty_text_are_told(tmp_path, capsys):
    assert documents(write_lines(tmp_path / "a.jsonl", [{"text": text} for text in ("abc", "", "  ")])) == ["abc"]
    assert "3 rows, read text of 1; 2 without text" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("latest", "strain"), ("notes", "training"), ("notes", "test")])
def test_a_folder_without_both_of_a_train_and_a_test_file_is_read_whole(tmp_path, names):
    for name in names:
        (tmp_path / f"{name}.txt").write_text(f"{name}\nin two lines\n")
    assert [text.strip() for text in documents(tmp_path)] == [f"{name}\nin two lines" for name in names]


def test_files_left_out_beside_those_called_train_are_told(tmp_path, capsys):
    """They, or their folders."""
    for name in ("train/a.txt", "train/unit test.txt", "more/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert len(documents(tmp_path)) == 3 and "not read" not in capsys.readouterr().out
    (tmp_path / "more").rename(tmp_path / "split=validation")
    (tmp_path / "train/unit test.txt").rename(tmp_path / "test.txt")
    assert documents(tmp_path) == ["train/a.txt"]
    assert "1 files are called train, the other 2 are not read" in capsys.readouterr().out


def test_linked_folders_are_read_once_and_what_stages_wrote_is_no_corpus(tmp_path):
    own, far, run, tokens = (tmp_path / name for name in ("own", "far", "own/out/run", "own/out/tokens"))
    for folder, names in ((own, ["a.jsonl"]), (far, ["b.jsonl"]), (run, [".lock", "log.jsonl", "run.json"]),
                          (tokens, ["train.bin", "meta.json"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(json.dumps({"text": name}))
    (own / "linked").symlink_to(far)
    (far / "back").symlink_to(own)
    assert documents(own) == ["a.jsonl", "b.jsonl"]


def test_the_name_of_a_file_is_no_pattern(tmp_path):
    for name in ("data[1].parquet", "data1.parquet", "d*.parquet"):
        write(tmp_path / name, [{"text": name}])
        assert documents(tmp_path / name) == [name]


def test_a_field_that_is_no_text_in_one_row_of_an_array_changes_no_other(tmp_path, capsys):
    rows = [{"text": 'He said "no".\nThen'}, {"text": 7}]
    assert documents(write(tmp_path / "a.json", rows)) == ['He said "no".\nThen']
    assert "2 rows, read text of 1; 1 without text" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"a.json: Expecting ',' delimiter: line 1"):
        documents(pack(tmp_path / "a.json", b'[{"text": "a"}'))
    (tmp_path / "README.md").write_text(CARD.replace("jsonl", "json"))
    for name in ("part-a.json", "part-b.json"):
        write(tmp_path / name, rows)
    with pytest.raises(UserError, match="as a data set"):
        documents(tmp_path)
    write(tmp_path / "part-a.json", rows[:1])
    assert documents(tmp_path) == ['He said "no".\nThen']

    # What is no text may be of any kind, where a row is a line.
    (tmp_path / "README.md").write_text(CARD)
    for name in ("part-a.jsonl", "part-b.jsonl"):
        write(tmp_path / name, [{"text": "a", "id": 1}, {"text": "b", "id": "two"}])
    assert documents(tmp_path) == ["a", "b"]


def test_a_json_may_have_a_row_a_line(tmp_path):
    path = pack(tmp_path / "a.json.gz", b'\n {"text": "a"}\n\n{"text": "b"}\n')
    assert documents(path) == ["a", "b"]


def test_what_has_no_text_for_a_reason_is_told_it(tmp_path, capsys):
    documents("chem:2k", "head")
    assert "chem:2k: is generated and has no fields, --text-field is not for it" in capsys.readouterr().out
    with pytest.raises(UserError, match="the name of a corpus is empty"):
        find_source("")
    with pytest.raises(UserError, match="is empty, give a corpus with text in it"):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
        documents(tmp_path / "a.parquet")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="what save_to_disk of `datasets` wrote"):
        find_source(str(tmp_path))


def test_rows_that_differ_in_their_fields_are_all_read(tmp_path, capsys):
    rows = [{"text": None, "prompt": "P", "completion": "C"}, {"text": "T"}, {"id": "7"}] * 2
    assert documents(write_lines(tmp_path / "a.jsonl", rows)) == ["P\nC", "T"] * 2
    assert "6 rows, read prompt+completion of 2, text of 2; 2 without text" in capsys.readouterr().out
    assert documents(write_lines(tmp_path / "b.jsonl", rows[:2])) == ["P\nC", "T"]
    assert "2 rows, read prompt+completion of 1, text of 1; 0 without text" in capsys.readouterr().out


def write_lines(path, rows):
    """Write rows as they are: a table would give all of them the same fields."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


CARD = ("---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: part-a.jsonl\n"
        "  - split: test\n    path: part-b.jsonl\n---\n")


@pytest.mark.parametrize("card", [CARD, None])
def test_of_a_cloned_data_set_only_the_training_split_is_text(tmp_path, card):
    names = ("part-a", "part-b") if card else ("train", "test")
    for name, word in zip(names, ("seen", "held")):
        write(tmp_path / f"{name}.jsonl", [{"text": f"{word} {number}"} for number in range(3)])
    if card:
        (tmp_path / "README.md").write_text(card)
    source = find_source(str(tmp_path))
    assert documents(tmp_path) == ["seen 0", "seen 1", "seen 2"] and source.is_local
    before = source.version()
    named = find_source(f"hub:{tmp_path}").version()
    if card:
        (tmp_path / "README.md").write_text(card + "\nAnd more.")
        assert find_source(str(tmp_path)).version() != before
        before = find_source(str(tmp_path)).version()
    write(tmp_path / f"{names[0]}.jsonl", [{"text": "other"}])
    assert find_source(str(tmp_path)).version() != before and find_source(f"hub:{tmp_path}").version() != named


@pytest.mark.parametrize("train, test", [("train.JSONL", "test.JSONL"), ("TRAIN.jsonl", "Test2.jsonl"),
                                         ("training.csv", "validation.csv"), ("a-train.TSV.ZST", "dev.tsv")])
def test_splits_are_known_however_their_names_are_spelled(tmp_path, train, test):
    """Or the files' endings; what a program hid in the folder is no file of it."""
    (tmp_path / ".old").mkdir()
    texts = {train: "NA", test: "held", "more.jsonl": "of no split", f".old/{train}": "hidden"}
    for name, text in texts.items():
        write(tmp_path / name, [{"text": text}])
    assert documents(tmp_path) == ["NA"]


def test_a_local_data_set_is_not_said_to_be_of_the_hub(tmp_path):
    write(tmp_path / "train.JSONL", [{"text": "a"}])
    with pytest.raises(UserError, match="cannot read .* as a data set .*, give one of its files") as error:
        documents(f"hub:{tmp_path}")
    assert "from the hub" not in str(error.value)


@pytest.mark.parametrize("card", [CARD.replace("jsonl", "txt"), ""])
def test_documents_of_a_split_of_text_end_at_empty_lines(tmp_path, card):
    """As those of the same file alone do, so that no document is on both sides of what is held out."""
    (tmp_path / "README.md").write_text(card.replace("part-a", "train").replace("part-b", "test"))
    (tmp_path / "train.txt").write_text("a\nb\n\nc\n")
    (tmp_path / "test.txt").write_text("d\n")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "about.json").write_text("{}")
    assert [text.strip() for text in documents(tmp_path)] == ["a\nb", "c"]


KINDS = "dataset_info:\n  features:\n  - {name: text, dtype: string}\n  - {name: score, dtype: float64}\n"


@pytest.mark.parametrize("kinds", ["", KINDS], ids=["", "kinds"])
def test_a_cell_of_a_data_set_that_says_NA_is_a_text_and_no_number(tmp_path, kinds):
    """As in the same table alone."""
    (tmp_path / "README.md").write_text(CARD.replace("jsonl", "csv").removesuffix("---\n") + kinds + "---\n")
    for name in ("part-a.csv", "part-b.csv"):
        (tmp_path / name).write_text("text,score\nNA,1.5\nabc,\nnull,NA\n")
    assert documents(tmp_path) == documents(tmp_path / "part-a.csv") == ["NA", "abc", "null"]


def test_configuration_split_and_revision_can_be_named(tmp_path):
    assert hub_set("org/name") == HubSet("org/name")
    assert hub_set("clone:en", tmp_path.parent) == HubSet("clone", ("en",))
    (tmp_path / "clone").mkdir()
    assert hub_set("clone:en", tmp_path) == HubSet(f"{tmp_path}/clone", ("en",))
    with pytest.raises(UserError, match="clone is a folder here, check v1 out and leave out @v1"):
        hub_set("clone:en@v1", tmp_path)
    chosen = HubSet("org/name", ("en",), revision="v1", split="train_sft")
    assert hub_set("org/name:en/train_sft@v1") == chosen
    assert hub_set("org/name:/train_sft") == HubSet("org/name", (None,), split="train_sft")
