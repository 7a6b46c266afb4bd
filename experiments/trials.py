"""Whole runs on this machine, each a process as a user starts it: their times, and that they end alike.

All go into out/ of the current folder, each into another one. `flags` are --device and others that every
stage has.
"""

import base64
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import pretrain
from experiments.sweep import HOUSE
from model import PRESETS
from run.checkpoint import read_checkpoint, read_run
from run.files import UserError

GRACE = 40                                   # seconds to end in: torchrun kills its ranks after 30
SHORT = {                                    # a chain of some hundred steps a stage, saved often
    "pretrain": "--tokens 400k --post-tokens 20k --lam 1 --save-every 20",
    "posttrain": "--max-tokens 100k --replay 0.1 --dropout 0.05 --eval-every 20 --save-every 20",
    "finetune": "--replay 0.1 --save-every 20",
}
AT_SCALE = ("--preset 135m --pre web --post music --tokenizer pairs.tiktoken --batch 64 --tokens 1966080 "
            "--eval-every 15")               # 30 whole steps, three lines of log.jsonl


def whole_run(flags: str) -> str:
    """Time README's Stage 1: seconds, tokens a second, and what took how much of them."""
    run("pretrain", f"--mix 0.05 {flags}")
    record = read_run(Path("out/pretrain"))
    seconds = record["seconds"]
    total = seconds.pop("total")
    shares = ", ".join(f"{activity} {took / total:.1%}" for activity, took in seconds.items())
    return f"{total:.0f} s, {record['tokens_per_second']:,.0f} tokens/s; {shares}"


def beside_training(flags: str) -> str:
    """Tell what evaluation and data take of a run at 135m with the preset's batch and --eval-every."""
    write_pairs(Path("pairs.tiktoken"), size=50_257)
    run("pretrain", f"{AT_SCALE} {flags} --out out/135m")
    record = read_run(Path("out/135m"))
    entry = record["lineage"][-1]

    # The speed of the last steps, because the first ones compile.
    log = [json.loads(line) for line in Path("out/135m/log.jsonl").read_text().splitlines()]
    speed = [line["tokens_per_second"] for line in log if "tokens_per_second" in line][-1]
    data = record["seconds"]["data"] * speed / sum(entry["tokens"].values())

    # What is rare in a run is frequent in this one: it is reckoned over from one evaluation to the next.
    evaluations = entry["steps"] // entry["args"]["eval_every"] + 1
    evaluation = record["seconds"]["evaluate"] / evaluations
    preset = pretrain.parse(["--preset", "135m"])
    training = preset.eval_every * preset.batch * PRESETS["135m"]["context"] / speed
    return (f"evaluation {evaluation / (evaluation + training):.2%} of a run, data {data:.2%} of training, "
            f"at {speed:,.0f} tokens/s")


def resumed(flags: str) -> str:
    """Kill each of three stages after a save, resume it, and compare with what was left alone."""
    for stage, short in SHORT.items():
        run(stage, f"{short} {flags} {after(stage, 'whole')} --out out/whole/{stage}")

        # The killed chain goes on from its own runs.
        killed = f"{short} {flags} {after(stage, 'killed')} --out out/killed/{stage} --resume"
        if not kill(start(stage, killed), saved=Path(f"out/killed/{stage}/last.pt")):
            return f"NOT SEEN: {stage}.py ended before it could be killed"
        run(stage, killed)
        if not same_weights(f"out/whole/{stage}", f"out/killed/{stage}"):
            return f"DIFFERENT: {stage}.py, killed and resumed, ends with other weights"
    return "all three stages, each killed by SIGKILL and resumed, are bit-equal"


def by_torchrun(flags: str) -> str:
    """Train with one rank by torchrun, whose gradients go through NCCL or gloo, and without it."""
    short = f"{SHORT['pretrain']} {flags}"
    run("pretrain", f"{short} --out out/alone")
    run("pretrain", f"{short} --out out/rank",
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"))
    backend = "NCCL" if "--device cuda" in flags else "gloo"
    if same_weights("out/alone", "out/rank"):
        return f"over {backend}, bit-equal to a run without"
    apart = loss_of("out/rank", "L_post") - loss_of("out/alone", "L_post")
    return f"over {backend}, L_post is {apart:+.1e} from that of a run without"


def against_cpu(flags: str) -> str:
    """Train the same run on the CPU and on a GPU, there in float32 and bfloat16: how far apart they end."""
    run("pretrain", f"{SHORT['pretrain']} --device cpu --out out/cpu")
    L_post = loss_of("out/cpu", "L_post")
    apart = []
    for dtype in ("float32", "bfloat16"):
        run("pretrain", f"{SHORT['pretrain']} {flags} --dtype {dtype} --out out/{dtype}")
        difference = loss_of(f"out/{dtype}", "L_post") - L_post
        apart.append(f"{difference:+.1e} in {dtype}")
    return f"L_post {L_post:.4f} on the CPU; on the GPU {', '.join(apart)}"


# ------------------------------------------------------------------------------------------------------------
# Processes, and what they leave

def start(stage: str, flags: str, launcher: tuple[str, ...] = (),
          errors: int = subprocess.DEVNULL) -> subprocess.Popen:
    """Start a stage in the current folder; a pipe for its errors is to be read, or it may wait for that."""
    words = [sys.executable, *launcher, HOUSE / f"{stage}.py", *flags.split()]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors, text=True,
                            start_new_session=True)


def run(stage: str, flags: str, launcher: tuple[str, ...] = ()) -> None:
    """Run a stage to its end; raises UserError, with its last words, if it fails."""
    process = start(stage, flags, launcher, errors=subprocess.PIPE)
    try:
        _, errors = process.communicate()
    finally:
        end(process)
    if process.returncode:
        raise UserError(f"{stage}.py {flags} ended with status {process.returncode}: {last_words(errors)}")


def end(process: subprocess.Popen) -> None:
    """End a process, unless it has ended, and what it has started."""
    # It is asked first, because torchrun's ranks are in groups of their own, and only torchrun ends them.
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_words(errors: str) -> str:
    """Find why a process ended: the last line that names an error, else the last; torchrun's is a rule."""
    lines = errors.splitlines() or ["it says nothing"]
    naming = re.compile(r"(\[rank\d+\]: )?(error|[\w.]*(Error|Exception)): \S")
    return (list(filter(naming.match, lines)) or lines)[-1]


def kill(process: subprocess.Popen, saved: Path) -> bool:
    """Kill a run as soon as it has saved something; returns whether it had not ended before."""
    try:
        while process.poll() is None and not saved.exists():
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    return process.returncode == -signal.SIGKILL


def write_pairs(path: Path, size: int) -> None:
    """Write a tokenizer that needs no network: all bytes, so many pairs of them, and the end of a text."""
    pairs = itertools.islice(itertools.product(range(256), repeat=2), size - 257)
    tokens = map(bytes, itertools.chain(zip(range(256)), pairs))
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    path.write_text("".join(lines))


def after(stage: str, chain: str) -> str:
    """Write which run of a chain a stage starts from."""
    before = {"posttrain": "pretrain", "finetune": "posttrain"}
    return f"--init out/{chain}/{before[stage]}" if stage in before else ""


def same_weights(one: str, other: str) -> bool:
    """Say whether two finished runs have the same weights, bit for bit."""
    mine, others = (read_checkpoint(Path(out, "ckpt.pt")).model for out in (one, other))
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def loss_of(out: str, name: str) -> float:
    """Read a loss of a finished run."""
    return read_run(Path(out))["losses"][name]["mean"]
