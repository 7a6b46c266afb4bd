"""A run's folder: finished, unfinished, somebody else's; and files in it that are not what they were."""

import errno
import itertools
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random, random
from types import SimpleNamespace

import pytest
import torch
from matplotlib import pyplot

from run.checkpoint import read_checkpoint, read_progress
from run.files import UserError, lock, write_json
from run.flags import as_user_error
from run.folder import occupy
from run.report import next_command
from tests.conftest import ROOT, SMALL, assert_same, die_at, files_of, log_of, report, weights
from tests.finished_runs import sweep_of_shares
from tests.test_resume import CHAIN, assert_same_run, chain

RESULTS = ROOT / "experiments/early_exposure/results"


# ---- running again

def test_a_finished_stage_is_left_alone(stage):
    stage("pretrain")
    stamp = Path("out/pretrain/ckpt.pt").stat().st_mtime_ns
    again = stage("pretrain")
    assert again.status == 0 and "nothing to do" in again.out
    assert "next: python posttrain.py --init out/pretrain\n" in again.out
    assert stage("pretrain", "--resume --device cpu --save-every 7 --micro-batch 4 --no-compile").status == 0
    other = stage("pretrain", "--lr 0.01")
    assert other.status == 2 and "--lr 0.003" in other.err and "--overwrite" in other.err
    assert Path("out/pretrain/ckpt.pt").stat().st_mtime_ns == stamp
    assert stage("pretrain", "--lr 0.01 --overwrite").status == 0
    assert report("pretrain")["args"]["lr"] == 0.01


def test_a_run_made_before_there_was_a_flag_is_the_same_run(stage):
    later = {"decay", "leave", "go_on", "loss_on", "weights", "lora_rank"}
    for name, flags in (("pretrain", "--tokens 1k"), ("posttrain", "--max-tokens 1k")):
        stage(name, flags)
        record = report(name)
        for args in (record["args"], record["lineage"][-1]["args"]):
            for flag in later & args.keys():
                del args[flag]
        Path(f"out/{name}/run.json").write_text(json.dumps(record))
        assert "nothing to do" in stage(name, flags).out
    other = stage("pretrain", "--tokens 1k --decay 0.1")
    assert other.status == 2 and "holds a finished pretrain run with --decay None, choose" in other.err


def test_a_probe_made_before_it_could_go_back_is_the_same_probe(stage):
    stage("pretrain", "--tokens 1k")
    stage("experiments.noise", "--ft ft.jsonl")
    record = report("noise")
    del record["args"]["back"], record["lineage"][-1]["args"]["back"]
    Path("out/noise/run.json").write_text(json.dumps(record))
    assert "nothing to do" in stage("experiments.noise", "--ft ft.jsonl").out


def test_a_stage_on_another_init_is_another_run(stage):
    stage("pretrain")
    stage("posttrain")
    Path("out/pretrain/ckpt.pt").unlink()                                       # no longer needed
    assert "nothing to do" in stage("posttrain").out
    assert "no checkpoint out/pretrain/ckpt.pt" in stage("posttrain", "--overwrite").err    # but to make it anew
    stage("pretrain", "--seed 9 --overwrite")
    assert "a finished posttrain run from another --init" in stage("posttrain").err
    another = stage("posttrain", "--out out/pretrain")
    assert "--out out/pretrain is the run that --init names, choose another" in another.err
    other = stage("finetune", "--init out/pretrain --out out/posttrain")
    assert "out/posttrain holds a finished posttrain run, choose another" in other.err


def test_a_stage_does_not_care_where_the_one_before_was_made(stage, tmp_path, monkeypatch):
    """Made again from another folder, with the same weights, it is the same --init."""
    stage("pretrain", "--tokens 1k")
    stage("posttrain")
    record, checkpoint = report("pretrain"), torch.load("out/pretrain/ckpt.pt", weights_only=True)
    for lineage in (record["lineage"], checkpoint["lineage"]):
        lineage[0]["folder"] = "elsewhere"
    torch.save(checkpoint, "out/pretrain/ckpt.pt")
    assert "nothing to do" in stage("posttrain").out


def test_what_else_lies_in_a_runs_folder_is_let_lie(stage):
    stage("pretrain", "--tokens 1k --out out")                                  # which has out/tokens, too
    stage("posttrain", "--init out --out out/post")
    Path("out/train.log").write_text("of tee")
    assert "nothing to do" in stage("pretrain", "--tokens 1k --out out").out
    assert stage("pretrain", "--tokens 1k --out out --overwrite").status == 0
    assert Path("out/train.log").exists() and Path("out/post/ckpt.pt").exists()


def test_files_of_others_with_our_names_are_not_discarded(stage):
    """A log beside something else is no run's; a run's folder has more of it."""
    Path("mine").mkdir()
    for name in ("log.jsonl", "notes.txt"):
        Path("mine", name).write_text("mine")
    for again in ("", " --overwrite"):
        run = stage("pretrain", f"--tokens 1k --out mine{again}")
        assert run.status == 2 and "mine holds something else (notes.txt)" in run.err


def test_a_folder_may_be_called_like_a_checkpoint_or_with_a_blank(stage):
    stage("pretrain", "--tokens 1k --out out/a.pt")
    assert stage("posttrain", "--init out/a.pt").status == 0
    assert next_command("python posttrain.py --init", Path("out/my run")) == "python posttrain.py --init 'out/my run'"


def test_what_may_not_be_read_is_not_called_damaged(stage, monkeypatch):
    stage("pretrain", "--tokens 1k")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    monkeypatch.setattr("run.checkpoint.zipfile.ZipFile", refuse)
    assert "error: cannot read out/pretrain/ckpt.pt (Permission denied)" in stage("posttrain").err


def test_a_record_without_weights_is_told_the_way_out(stage):
    stage("pretrain")
    Path("out/pretrain/ckpt.pt").unlink()
    assert "run its stage again with --overwrite" in stage("posttrain").err


def test_an_unfinished_stage_needs_resume(stage, monkeypatch):
    assert stage("pretrain", "--resume --out out/fresh").status == 0             # nothing there: starts
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        stage("pretrain")
    assert files_of("pretrain") == {".lock", "last.pt", "log.jsonl"}
    Path("out/pretrain/train.log").write_text("of tee")
    refused = stage("pretrain")
    assert refused.status == 2 and "--resume" in refused.err and "--overwrite" in refused.err
    assert "give the same arguments" in stage("pretrain", "--resume --lr 0.1").err
    assert "its stage has not finished: run it with --resume" in stage("posttrain").err
    Path("hub").mkdir()
    Path("hub/config.json").write_text("{}")
    assert "pretrain.py --weights hub --tokens 0 makes a run of" in stage("posttrain", "--init hub").err
    assert "is of a stage that has not finished" in stage("posttrain", "--init out/pretrain/last.pt").err
    assert stage("pretrain", "--resume").status == 0
    assert_same(weights("pretrain"), weights("fresh"))


def test_a_run_killed_before_its_first_save_starts_afresh(stage, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 3)
        stage("pretrain")
    assert files_of("pretrain") == {".lock", "log.jsonl"}
    Path("out/pretrain/.last.pt.0123abcd.tmp").touch()                          # that save, half written
    assert stage("pretrain", "--resume").status == 0
    assert files_of("pretrain") == {".lock", "ckpt.pt", "run.json", "log.jsonl"}
    assert log_of("pretrain")[0]["step"] == 5 and report("pretrain")["lineage"][0]["steps"] == 32


def test_a_folder_is_written_by_one_run_at_a_time(stage):
    Path("out/pretrain").mkdir(parents=True)
    held = lock(Path("out/pretrain"))
    second = stage("pretrain")
    assert second.status == 2 and "is being written by another run" in second.err
    assert not list(Path("out/pretrain").glob("[!.]*"))
    held.release()
    assert stage("pretrain", "--resume").status == 0

    # Another had it, and has finished while this one read its corpora.
    with pytest.raises(UserError, match="has just been finished by another run"):
        occupy(Path("out/pretrain"), step=0, overwrite=False)
    assert "ckpt.pt" in files_of("pretrain")


# ---- files that are not what they were

def change(path: Path, **parts: object) -> None:
    """Write some parts of a checkpoint anew."""
    torch.save(torch.load(path, weights_only=True) | parts, path)


@pytest.mark.parametrize("break_it, says", [
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged or not a checkpoint"),
    (lambda path: path.write_bytes(b""), "damaged or not a checkpoint"),
    (lambda path: torch.save({"state_dict": {}}, path), "another program"),
    (lambda path: torch.save([1], path), "another program"),
    (lambda path: change(path, model={"norm.weight": 1}), "another program"),
    (lambda path: change(path, lineage=[{"stage": "pretrain"}]), "another program"),
    (lambda path: change(path, config=path), "damaged or not a checkpoint"),      # of a kind that brings code
    (lambda path: change(path, lineage=[]), "does not say how it came about"),
    (lambda path: path.unlink(), "no checkpoint"),
])
def test_bad_checkpoints_are_named(stage, break_it, says):
    stage("pretrain", "--tokens 1k")
    break_it(Path("out/pretrain/ckpt.pt"))
    run = stage("posttrain")
    assert run.status == 2 and says in run.err and run.err.count("\n") == 1
    assert not Path("out/posttrain").exists()


def test_weights_that_are_not_the_configurations_are_refused(stage):
    stage("pretrain", "--tokens 1k")
    path = Path("out/pretrain/ckpt.pt")
    change(path, config=read_checkpoint(path).config | {"width": 64})
    run = stage("posttrain")
    assert run.status == 2 and "do not have the shapes" in run.err and run.err.count("\n") == 1
    assert "do not have the shapes" in stage("evaluate", "out/pretrain").err


def test_a_last_pt_that_is_not_an_unfinished_stages_is_refused(stage, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        stage("pretrain")
    last = Path("out/pretrain/last.pt")
    checkpoint, _ = read_progress(last)
    torch.save(checkpoint._asdict(), last)                                      # without its progress
    run = stage("pretrain", "--resume")
    assert run.status == 2 and "is not an unfinished stage's" in run.err and run.err.count("\n") == 1
    assert stage("pretrain", "--overwrite").status == 0


def test_a_corpus_that_has_changed_since_the_run_was_interrupted_is_refused(stage, monkeypatch):
    """An older last.pt does not say what it was trained on."""
    stage("pretrain")
    stage("posttrain")
    shutil.copy("ft.jsonl", "whole.jsonl")
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        stage("finetune")
    Path("ft.jsonl").write_text(Path("whole.jsonl").read_text().replace("acid", "ACID"))
    run = stage("finetune", "--resume")
    assert run.status == 2 and "the corpora are not those that out/finetune/last.pt was trained on" in run.err
    shutil.copy("whole.jsonl", "ft.jsonl")
    old = torch.load("out/finetune/last.pt")
    del old["made_of"]
    torch.save(old, "out/finetune/last.pt")
    assert stage("finetune", "--resume").status == 0


def test_what_another_run_has_begun_meanwhile_is_not_discarded(stage, monkeypatch):
    def begin(out, *rest):
        out.mkdir(parents=True)
        (out / "last.pt").write_text("another's")
        return occupy(out, *rest)
    monkeypatch.setattr("run.folder.occupy", begin)
    run = stage("pretrain")
    assert run.status == 2 and "out/pretrain has just been begun by another run" in run.err
    assert Path("out/pretrain/last.pt").read_text() == "another's"


def test_checkpoints_of_another_stage_tokenizer_or_corpus_are_refused(stage):
    stage("pretrain", "--tokens 1k")
    lineage = read_checkpoint(Path("out/pretrain/ckpt.pt")).lineage
    shutil.copy("out/pretrain/ckpt.pt", "other.pt")
    change(Path("other.pt"), lineage=[lineage[0] | {"tokenizer": "another"}])
    assert "is not the one of the checkpoint" in stage("posttrain", "--init other.pt").err

    Path("post.jsonl").rename("moved.jsonl")
    assert stage("posttrain", "--max-tokens 1k --out out/moved").status == 0  # its tokens are still there
    shutil.rmtree("out/tokens")
    assert "no corpus 'post.jsonl'" in stage("posttrain").err
    Path("post.jsonl").write_text(Path("moved.jsonl").read_text() + '{"text": "one more"}\n')
    assert "post.jsonl has changed" in stage("posttrain").err


def test_a_torn_log_line_is_dropped(stage, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 19)
        stage("pretrain")
    with open("out/pretrain/log.jsonl", "a") as log:
        log.write('{"step": 1')
    assert stage("pretrain", "--resume").status == 0
    assert [line["step"] for line in log_of("pretrain")] == [5, 10, 15, 20, 25, 30, 32]


def test_a_full_disk_leaves_no_torn_file(stage):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    corpora_ready = stage("pretrain", "--tokens 1k --out out/first")
    assert corpora_ready.status == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))               # a checkpoint is larger
    try:
        run = stage("pretrain", "--tokens 1k")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.status == 2 and "no space left" in run.err and run.err.count("\n") == 1
    assert files_of("pretrain") == {".lock", "log.jsonl"}
    assert stage("pretrain", "--tokens 1k --resume").status == 0


def test_the_folder_of_another_stage_is_no_finished_run_of_this(stage):
    stage("pretrain", "--tokens 1k")
    run = stage("posttrain", "--init out/none --out out/pretrain")
    assert run.status == 2 and "no checkpoint out/none/ckpt.pt" in run.err and run.err.count("\n") == 1


def test_a_damaged_record_is_one_line(stage):
    stage("pretrain", "--tokens 1k")
    whole = Path("out/pretrain/run.json").read_text()
    for text in ("", "{", "[]", "{}", '{"stage": "pretrain"}', '{"stage": 1, "args": 2, "lineage": 3}',
                 '{"stage": "pretrain", "args": {}, "lineage": [{}]}', whole.replace("pretrain", "posttrain", 1)):
        Path("out/pretrain/run.json").write_text(text)
        run = stage("pretrain", "--tokens 1k")
        assert run.status == 2 and "out/pretrain/run.json is damaged" in run.err and run.err.count("\n") == 1


def test_a_finished_run_that_lost_a_file_is_not_made_again_in_silence(stage):
    stage("pretrain", "--tokens 1k")
    record, whole = Path("out/pretrain/run.json"), Path("out/pretrain/ckpt.pt").read_bytes()

    # Without its run.json it looks unfinished, but --resume must not throw the weights away.
    record.rename("kept.json")
    for again in ("", " --resume"):
        run = stage("pretrain", f"--tokens 1k{again}")
        assert run.status == 2 and "ckpt.pt without its run.json, restore" in run.err
    assert Path("out/pretrain/ckpt.pt").read_bytes() == whole

    # "Nothing to do" is not said of weights that the next stage cannot read.
    Path("kept.json").rename(record)
    Path("out/pretrain/ckpt.pt").write_bytes(whole[:-100])
    assert "ckpt.pt is damaged" in stage("pretrain", "--tokens 1k").err
    assert stage("pretrain", "--tokens 1k --overwrite").status == 0


def test_of_many_flags_that_differ_three_are_told(stage):
    stage("pretrain", "--tokens 1k")
    run = stage("pretrain", "--tokens 2k --lam 1 --lr 1 --warmup 1 --seed 1")
    assert run.err.count("--") == 5 and "and 2 other flags, choose" in run.err


# ---- what is changed behind a run's back

@pytest.mark.parametrize("part, damage", [
    ("config", lambda config: config | {"depth": 3}), ("config", lambda config: {"layers": 2}),
    ("config", lambda config: config | {"width": "32"}), ("config", lambda config: config | {"width": 10 ** 12}),
    ("config", lambda config: config | {"layers": 10 ** 12}), ("config", lambda config: config | {"heads": 0}),
    ("config", lambda config: list(config)),
    ("model", lambda weights: dict(list(weights.items())[1:])), ("model", lambda weights: weights | {"more": 1}),
    ("model", lambda weights: weights | {"norm.weight": torch.ones(3)}),
    ("model", lambda weights: weights | {"norm.weight": torch.full((32,), torch.nan)}),
    ("lineage", lambda lineage: []), ("lineage", lambda lineage: "pretrain"),
    ("lineage", lambda lineage: [lineage[0] | {"args": {}}]),
    ("lineage", lambda lineage: [lineage[0] | {"corpora": {}}]),
    ("lineage", lambda lineage: [lineage[0] | {"corpora": {"pre": {"source": 1}, "post": 2}}]),
    ("lineage", lambda lineage: [{name: lineage[0][name] for name in lineage[0] if name != "args"}]),
])
def test_a_changed_checkpoint_is_refused_in_one_line(stage, part, damage):
    stage("pretrain", "--tokens 1k")
    path = Path("out/pretrain/ckpt.pt")
    parts = torch.load(path, weights_only=True)
    torch.save(parts | {part: damage(parts[part])}, path)
    for run in (stage("posttrain"), stage("evaluate", settings="out/pretrain")):
        assert run.status == 2 and run.err.startswith("error: ") and run.err.count("\n") == 1, run.err
    assert not Path("out/posttrain").exists()


def test_a_changed_byte_of_a_checkpoint_is_refused_or_changes_nothing(stage):
    stage("pretrain", "--tokens 1k")
    path = Path("out/pretrain/ckpt.pt")
    whole, before = path.read_bytes(), weights("pretrain")
    refused = 0
    for seed in range(60):
        random = Random(seed)
        content = bytearray(whole)
        content[random.randrange(len(whole))] ^= random.randrange(1, 256)
        path.write_bytes(content)
        try:
            assert_same(weights("pretrain"), before)
        except UserError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [b"garbage\n", b"[]\n", b"\x00\xff\xfe\n", b'{"step": "x"}\n'])
def test_a_damaged_log_is_set_aside_and_the_run_goes_on(stage, monkeypatch, content):
    with monkeypatch.context() as patch:
        die_at(patch, 19)
        stage("pretrain")
    Path("out/pretrain/log.jsonl").write_bytes(content)
    run = stage("pretrain", "--resume")
    assert run.status == 0 and "log.jsonl is damaged, it is now log.damaged.jsonl" in run.out
    assert Path("out/pretrain/log.damaged.jsonl").read_bytes() == content
    assert log_of("pretrain")[-1]["step"] == 32


def test_a_last_pt_that_is_a_checkpoint_is_refused(stage, monkeypatch):
    stage("pretrain", "--out out/whole")
    with monkeypatch.context() as patch:
        die_at(patch, 19)
        stage("pretrain")
    Path("out/whole/ckpt.pt").rename("out/pretrain/last.pt")
    run = stage("pretrain", "--resume")
    assert run.status == 2 and "is not an unfinished stage's" in run.err and run.err.count("\n") == 1


# ---- disks that are full, read-only, broken or gone

def spoiled(trouble: Callable[[], None], run: Callable[[], SimpleNamespace]) -> SimpleNamespace:
    """Call `run` in a child forked here, where `trouble` has done something to the disk; returns what it did.

    It must have ended well, or with one line and status 2, or without a word where nobody listens.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            trouble()
            done = run()
            sys.stdout.flush()
            os.write(writer, json.dumps(vars(done)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    assert answer, "the child ended with a traceback"

    # A line is for people: it has neither a number nor a temporary name in it.
    done = SimpleNamespace(**json.loads(answer))
    if done.status == 2:
        assert done.err.startswith("error: ") and done.err.count("\n") == 1 and "Errno" not in done.err
    else:
        assert done.status in (0, 141) and done.err == ""
    return done


def full(size: int) -> Callable[[], None]:
    """A disk on which no file can get larger than so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def before_change(number: int, act: Callable[[], None], again: bool) -> Callable[[], None]:
    """A disk to which something happens before the number-th change below out/, or all from it on."""
    changes = itertools.count(1)

    def looking(event: str, details: tuple) -> None:
        opened = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR)
        if opened or event in ("os.rename", "os.remove", "os.mkdir"):
            if f"{details[0]}/".startswith(("out/", f"{Path.cwd()}/out/")):
                count = next(changes)
                if count == number or again and count > number:
                    act()
    return lambda: sys.addaudithook(looking)


def broken(number: int, kind: int) -> Callable[[], None]:
    """A disk that takes no more changes from the number-th on."""
    def refuse():
        raise OSError(kind, os.strerror(kind), "out")
    return before_change(number, refuse, again=True)


def gone(number: int, folder: str) -> Callable[[], None]:
    """A disk from which a folder vanishes before the number-th change."""
    return before_change(number, lambda: shutil.rmtree(folder, ignore_errors=True), again=False)


def unread() -> None:
    """Print to a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    sys.stdout = open(writer, "w", buffering=1)


def print_to_full() -> None:
    """Print to a file on a full disk."""
    sys.stdout = open("/dev/full", "w", buffering=1)


def any_trouble(random: Random) -> Callable[[], None]:
    """A disk that is full, takes no changes or loses a folder, sooner or later."""
    size, number = int(10 ** random.uniform(1, 5.5)), random.randrange(1, 30)
    kind = random.choice((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES))
    folder = random.choice(("out", "out/tokens", "out/spoiled"))
    return random.choice((full(size), broken(number, kind), gone(number, folder)))


@pytest.mark.parametrize("name, flags", [("pretrain", "--lam 2"), ("posttrain", "--eval-every 2"),
                                         ("posttrain", "--lora"), ("finetune", "")])
def test_whatever_is_wrong_with_a_disk_nothing_is_lost(chain, name, flags):
    """A line says so, and once that is mended, --resume ends as if nothing had been."""
    assert chain(name, f"{flags} --out whole").status == 0
    answers = set()
    for trial in range(3):
        if name == "pretrain":
            shutil.rmtree("out/tokens", ignore_errors=True)
        shutil.rmtree("out/spoiled", ignore_errors=True)
        trouble = any_trouble(Random(f"{name} {flags} {trial}"))
        answers.add(spoiled(trouble, lambda: chain(name, f"{flags} --out out/spoiled")).status)
        again = chain(name, f"{flags} --out out/spoiled --resume")
        assert again.status == 0, again.err
        assert_same_run("spoiled", "../whole")
        assert not [path for path in Path("out").rglob("*") if path.suffix in (".tmp", ".partial")]
    assert 2 in answers


def test_what_is_finished_is_of_use_on_a_disk_that_cannot_be_written(chain, stage, monkeypatch):
    def read_only(*words):
        return spoiled(broken(1, errno.EROFS), lambda: chain(*words))

    assert chain("finetune").status == 0
    monkeypatch.setattr("data.corpora.ALWAYS_CHECKED", 0)            # as if its token files were large
    for name in CHAIN:
        Path(f"out/{name}/last.pt").touch()                           # killed just before it was gone
        assert "nothing to do" in read_only(name).out
        assert "nothing to do" in read_only(name, "--resume").out
        assert read_only(name, f"--out elsewhere/{name}").status == 0
        assert_same(weights(name), weights(f"../elsewhere/{name}"))
        refused = read_only(name, "--overwrite")
        assert refused.status == 2 and f"cannot write out/{name} (Read-only file system)" in refused.err
    assert spoiled(broken(1, errno.EROFS), lambda: stage("evaluate", "out/finetune")).status == 0


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """Power that fails between the two would leave it empty under its name."""
    done = []
    monkeypatch.setattr("os.fsync", lambda file: done.append(os.fstat(file).st_size))
    monkeypatch.setattr("os.replace", lambda *names: done.append("named"))
    write_json(tmp_path / "a.json", "x")
    assert done == [len('"x"\n'), "named"]


def test_a_run_is_finished_though_its_last_pt_cannot_be_removed(stage, monkeypatch):
    def refuse(path, missing_ok=False):
        if path.exists():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        run = stage("pretrain")
        assert (run.status, run.err) == (0, "") and "last.pt" in files_of("pretrain")

    # One that was killed just before its run.json had that name differs in nothing else, and is continued.
    shutil.copytree("out/pretrain", "out/killed")
    Path("out/killed/run.json").rename("out/killed/.run.json.0123abcd.tmp")
    assert stage("pretrain", "--resume --out out/killed").status == 0
    assert files_of("killed") == {".lock", "ckpt.pt", "run.json", "log.jsonl"}
    assert "nothing to do" in stage("pretrain").out and "last.pt" not in files_of("pretrain")


def test_no_run_is_called_finished_whose_checkpoint_is_discarded(stage):
    stage("pretrain", "--tokens 1k --out whole")
    for number in range(1, 7):
        shutil.copytree("whole", "out/pretrain")
        spoiled(broken(number, errno.EIO), lambda: stage("pretrain", "--tokens 1k --overwrite"))
        assert "ckpt.pt" in files_of("pretrain") or "run.json" not in files_of("pretrain")
        shutil.rmtree("out/pretrain")


def test_what_a_killed_preparation_left_is_not_taken_over(stage):
    stage("pretrain", "--tokens 1k")
    (home,) = Path("out/tokens").glob("pre-*")
    shutil.rmtree(home)
    left = home.with_name(f".{home.name}.partial") / ".meta.json.0123abcd.tmp"
    left.parent.mkdir()
    left.touch()
    assert stage("pretrain", "--tokens 1k --overwrite").status == 0
    assert {path.name for path in home.iterdir()} == {"train.bin", "held_out.bin", "meta.json"}


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_on_a_full_disk_each_file_of_a_figure_is_as_it_was_or_whole(stage, kind):
    def draw():
        return stage("experiments.__main__", settings=f"fig3a --runs runs --picture figures/a.{kind}")

    sweep_of_shares("runs", 1)
    assert draw().status == 0
    whole = {path: path.read_bytes() for path in Path("figures").iterdir()}
    for trial in range(3):
        for path in whole:
            path.write_bytes(b"as it was")
        run = spoiled(full(int(10 ** Random(trial).uniform(1, 4.5))), draw)
        left = {path: path.read_bytes() for path in Path("figures").iterdir()}
        assert left.keys() == whole.keys()
        for path, content in left.items():
            assert content == b"as it was" or content[-5:] == whole[path][-5:]
        assert run.status == 0 or "no space left to write figures/a." in run.err


def test_a_figure_that_cannot_be_written_is_not_kept_in_memory(stage):
    sweep_of_shares("runs", 1)
    Path("a.png").mkdir()
    run = stage("experiments.__main__", settings="fig3a --runs runs --picture a.png")
    assert run.status == 2 and "cannot write a.png (Is a directory)" in run.err
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("row", ["", '{"x": 1}\n'])                  # what has no text is told
def test_a_preparation_that_nobody_listens_to_ends_without_a_word(stage, row):
    Path("pre.jsonl").write_text(row + Path("pre.jsonl").read_text())
    assert spoiled(unread, lambda: stage("pretrain")).status == 141


@pytest.mark.parametrize("command, settings", [
    ("pretrain", "--tokens 1k --out out/new"), ("pretrain", "--tokens 1k"), ("evaluate", "out/pretrain"),
    ("evaluate", "out/pretrain --json"), ("evaluate", "out/pretrain --sample 1 --length 9"),
    ("experiments.__main__", "fig3a --list"), ("experiments.verdicts", f"{RESULTS}/real"),
])
def test_what_cannot_be_printed_ends_with_one_line_or_without_a_word(stage, command, settings):
    stage("pretrain", "--tokens 1k")
    full = spoiled(print_to_full, lambda: stage(command, settings))
    assert full.status == 2 and "no space left to write what is printed" in full.err
    assert spoiled(unread, lambda: stage(command, settings)).status == 141


def test_outputs_may_be_closed(stage):
    def close():
        sys.stdout = sys.stderr = None
    assert spoiled(close, lambda: stage("pretrain", "--tokens 1k")).status == 0


def print_to_windows() -> None:
    """Print as Python does into a pipe on Windows, which knows no λ."""
    sys.stdout, sys.stderr = (open(name, "w", encoding="cp1252") for name in ("printed", "told"))


@pytest.mark.parametrize("command, settings, says", [
    ("pretrain", "--help", "λ: passes over D_post"),
    ("pretrain", f"{SMALL['pretrain']} --tokens 1k --out out/new", "λ = 0, α = 0"),
    ("evaluate", "out/pretrain", "λ"), ("experiments.noise", "--help", "γ: standard deviation"),
    ("experiments.verdicts", f"{RESULTS}/real", "| 3a | L_ret falls in λ | seen |"),
    ("theory.__main__", "--help", "λ_reg, how much Stage 2"),
])
def test_greek_is_printed_where_the_encoding_has_none(stage, command, settings, says):
    """In UTF-8, where it was a UnicodeEncodeError."""
    stage("pretrain", "--tokens 1k")
    assert spoiled(print_to_windows, lambda: stage(command, settings)).status == 0
    assert says in Path("printed").read_text("utf-8")


class CompileError(RuntimeError):
    """As torch.compile raises."""
    __module__ = "torch._dynamo.exc"

    def __init__(self, inner_exception: Exception):
        super().__init__(f"backend='inductor' raised:\n{inner_exception}")
        self.inner_exception = inner_exception


@pytest.mark.parametrize("error, says", [
    (CompileError(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/toy/.compiled/a.cpp")),
     "no space left to write out/toy/.compiled/a.cpp"),
    (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "a"), "no space left to write a, free some"),
    (PermissionError(errno.EACCES, "Permission denied", "a"), "cannot read or write a (Permission denied)"),
])
def test_whatever_else_is_wrong_with_a_file_is_one_line(stage, monkeypatch, error, says):
    def main():
        raise error
    monkeypatch.setattr("pretrain.main", main)
    run = stage("pretrain")
    assert run.status == 2 and says in run.err and run.err.count("\n") == 1


@pytest.mark.parametrize("error, says", [
    (CompileError(RuntimeError("no compiler\nset CXX")),
     "torch.compile fails (no compiler), mend that or use --no-compile"),
    (CompileError(FileNotFoundError(errno.ENOENT, "No file", "cc")), "No file: 'cc'), mend that"),
    (CompileError(torch.OutOfMemoryError("CUDA out of memory")), "lower --micro-batch"),
    (RuntimeError("Python 3.99+ not yet supported for torch.compile"), "use --no-compile"),
])
def test_a_compiler_that_fails_is_one_line(error, says):
    assert says in str(as_user_error(error))


def test_theory_says_in_one_line_what_cannot_be_written_or_printed(stage, monkeypatch):
    def tell():
        return stage("theory.__main__", settings="--out figures --eta 0.02")

    monkeypatch.setattr("theory.figures.MAP", 8)
    for trial in range(2):
        run = spoiled(full(Random(trial).randrange(20_000)), tell)
        assert run.status == 2 and "choose another --out" in run.err
        assert not list(Path("figures").iterdir())
    assert "cannot print (No space left on device)" in spoiled(print_to_full, tell).err
    assert spoiled(unread, tell).status == 141


# ---- clocks

@pytest.mark.parametrize("clock", [lambda: 7.0, lambda: 1e9 * random() - 1e9])
def test_no_clock_is_trusted(stage, monkeypatch, clock):
    """Neither that of the wall, which may jump, nor the times of files; another may be coarse."""
    stage("pretrain", "--out out/whole")
    with monkeypatch.context() as patch:
        die_at(patch, 12)
        stage("pretrain")
    for path in Path().rglob("*"):
        os.utime(path, (0, Random(str(path)).choice((-1, 0, 2 ** 33))))
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr("tqdm.std.time", clock)
    monkeypatch.setattr("time.monotonic", lambda: 7.0)
    assert stage("pretrain", "--resume").status == 0
    assert_same_run("pretrain", "whole")


def test_a_resumed_run_speaks_however_young_the_machines_clock_is(stage, monkeypatch):
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        stage("pretrain")
    last = Path("out/pretrain/last.pt")
    seconds = read_progress(last)[1].seconds
    assert seconds["total"] > 0
    change(last, seconds=seconds | {"evaluate": 1e9, "total": 2e9})              # more than it has been up
    assert "pretrain step 10/32  loss" in stage("pretrain", "--resume").out
    assert report("pretrain")["seconds"]["total"] > 2e9                          # those before are counted
