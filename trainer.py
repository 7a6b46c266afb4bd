"""What every stage does the same way: ranks and devices, schedule, step, save, resume, log.

A stage script builds its model and stream, then writes its own loop over `Trainer.steps`. Whatever a step draws at
random (batch, dropout) is a function of (seed, step): continuing bit for bit takes no loader or generator state.
"""

import argparse
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from cli import Parser, pick_device
from data import Corpus, Interleaved
from evaluate import MEANING, Loss, autocast, held_out_loss
from files import (UserError, atomic, checkpoint_path, load_checkpoint, lock, read_run, save_checkpoint, write_error,
                   write_json)
from model import GPT, adamw, load_model

STAGES = {"pretrain": ("pre", "post"), "posttrain": ("post", "pre"), "finetune": ("ft", "pre")}   # major, minor corpus
LOG_EVERY = 10                           # steps between lines of log.jsonl


def take_up(init: Path, stage: str) -> dict:
    """The checkpoint that `stage` starts from, its predecessor's."""
    path = checkpoint_path(init)
    checkpoint = load_checkpoint(path)
    done = tuple(entry["stage"] for entry in checkpoint["lineage"])
    wanted = tuple(STAGES)[:list(STAGES).index(stage)]
    if done != wanted or "optimizer" in checkpoint:
        raise UserError(f"{path} is a checkpoint after {' and '.join(done) or 'part of a stage'}, "
                        f"{stage}.py takes one after {' and '.join(wanted)}")
    return checkpoint


def parse_and_take_up(stage: str, parser: Parser, argv: list[str] | None) -> tuple[argparse.Namespace, GPT, list]:
    """The arguments of a later stage, with its checkpoint's preset, and that checkpoint's model and lineage."""
    args = parser.parse_args(argv)
    if not checkpoint_path(args.init).exists() and (args.out / "run.json").exists():
        lineage, model = read_run(args.out)["lineage"][:-1], None          # finished: --init is not needed any more
    else:
        checkpoint = take_up(args.init, stage)
        lineage, model = checkpoint["lineage"], load_model(checkpoint)
    return parser.parse(argv, lineage[0]["args"]["preset"]), model, lineage


def learning_rate(step: int, steps: int, peak: float, minimum: float, warmup: int) -> float:
    """Linear warm-up to `peak` over `warmup` steps, then a cosine down to `minimum` at the last; a lower peak stays."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    minimum = min(minimum, peak)
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * progress)) / 2


class Trainer:
    """One stage's run: its ranks and device, its folder, its model and optimizer, and what they have done so far."""

    def __init__(self, stage: str, args: argparse.Namespace, lineage: list[dict] = ()):
        """Join the other ranks, check the arguments and decide about the folder; `lineage` is that of --init.

        Ends the process with status 0 if the same run is already finished. Raises UserError if the folder holds
        something else, the batch does not divide or the device is not there. Nothing is written yet.
        """
        self.stage, self.args, self.lineage = stage, args, list(lineage)
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device, args.dtype = pick_device(args.device, args.dtype)
        args.compile = self.device.type == "cuda" if args.compile is None else args.compile
        self.micro_batch = self._micro_batch()
        if self.device.type == "cuda":          # bitwise repeatable; costs some speed in the attention's backward pass
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False
        self.saved = self._check_folder()       # last.pt, if it is to be continued
        self.wandb = self._wandb() if args.wandb and self.rank == 0 else None
        if self.world > 1:
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(days=1))      # tokenizing C4 takes hours
        self.seconds = {"total": 0.0, "data": 0.0, "evaluate": 0.0, "save": 0.0, "log": 0.0}

    def _micro_batch(self) -> int:
        args, per_rank = self.args, self.args.batch // self.world
        if args.batch % self.world:
            raise UserError(f"--batch {args.batch} does not divide among {self.world} ranks, choose a multiple")
        if args.micro_batch is None:
            at_most = per_rank if args.preset == "toy" else 8
            return max(size for size in range(1, at_most + 1) if per_rank % size == 0)
        if per_rank % args.micro_batch:
            raise UserError(f"--batch {args.batch} over {self.world} ranks does not divide into micro-batches of "
                            f"{args.micro_batch}, choose a divisor of {per_rank}")
        return args.micro_batch

    def _wandb(self):
        try:
            import wandb
        except ImportError:
            raise UserError("--wandb needs the wandb package, pip install wandb") from None
        return wandb.init(project="early-data-exposure", name=str(self.args.out), config=self._arguments())

    # -----------------------------------------------------------------------------------------------------------------
    # The run's folder

    def _arguments(self) -> dict:
        """The arguments that make the result what it is; --init counts by its lineage, --out and the machine do not."""
        others = ("init", "out", "device", "micro_batch", "compile", "save_every", "resume", "overwrite", "wandb")
        return {name: str(value) if isinstance(value, Path) else value
                for name, value in vars(self.args).items() if name not in others}

    def _require_same(self, run: dict, lineage: list[dict], state: str, way_out: str) -> None:
        """Raise UserError unless `run` (a run.json or last.pt) is of this stage, these arguments and this --init."""
        differing = [f"--{name.replace('_', '-')} {run['args'].get(name)}" for name, value in self._arguments().items()
                     if run["args"].get(name) != value]
        if run["stage"] != self.stage:
            how = ""
        elif differing:
            how = f" with {', '.join(differing)}"
        elif lineage != self.lineage:
            how = " from another --init"
        else:
            return
        raise UserError(f"{self.args.out} holds {state} {run['stage']} run{how}, {way_out}")

    def _check_folder(self) -> dict | None:
        out, args = self.args.out, self.args
        ours = {"ckpt.pt", "last.pt", "log.jsonl", "run.json"}
        held = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
        if out.exists() and not out.is_dir() or held - ours:
            raise UserError(f"{out} holds something else ({', '.join(sorted(held - ours)) or 'a file'}), "
                            "choose another --out")
        if not held or args.overwrite:
            return None
        if "run.json" in held:
            run = read_run(out)
            self._require_same(run, run["lineage"][:-1], "a finished",
                               "choose another --out or discard it with --overwrite")
            if self.rank == 0:
                print(f"{out} is finished with these arguments, nothing to do")
                print(self._next_command())
            sys.exit(0)
        if not args.resume:
            raise UserError(f"{out} holds an unfinished run, continue it with --resume or discard it with --overwrite")
        if "last.pt" not in held:
            return None
        saved = load_checkpoint(out / "last.pt", mmap=False)     # it will be replaced while its parts are in use
        self._require_same(saved, saved["lineage"], "an unfinished", "give the same arguments or --overwrite")
        return saved

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Rank 0 prepares the token files in the body of the `with`; the others wait and find them there."""
        if self.rank > 0:
            dist.all_reduce(torch.zeros(1))      # on the CPU, by gloo: may take hours, and must not hold a GPU
        yield
        if self.rank == 0 and self.world > 1:
            dist.all_reduce(torch.zeros(1))

    # -----------------------------------------------------------------------------------------------------------------
    # The loop

    def begin(self, model: GPT, stream: Interleaved) -> None:
        """Take up the model and the stream, or what last.pt says of them; from here on the folder is this run's."""
        args = self.args
        self.model, self.stream = model.to(self.device), stream
        self.optimizer = adamw(self.model, args.lr, args.weight_decay)
        self.step = 0
        self.best = None                         # {"loss", "since": evaluations since then, "model": its weights}
        if self.saved:
            self.model.load_state_dict(self.saved["model"])
            self.optimizer.load_state_dict(self.saved["optimizer"])
            self.step, self.best, self.seconds = (self.saved[name] for name in ("step", "best", "seconds"))
        self.started = time.monotonic() - self.seconds["total"]
        self.noted = (self._training_time(), self.step)
        self.shown = 0.0
        self.network = self.model
        if self.world > 1:
            steps = torch.zeros(self.world, dtype=torch.int64)
            steps[self.rank] = self.step
            dist.all_reduce(steps)
            if steps.min() < steps.max():
                raise UserError(f"ranks find different checkpoints in {args.out}, put it on a disk that all share")
            self.network = DistributedDataParallel(self.network, forward_sync_buffers=False)
        if args.compile:
            self.network = torch.compile(self.network)
        self.ahead = (-1, None)                  # (step, its batch on the device)
        self.history = []                        # (loss, gradient norm) of the steps since the last note
        self.signal = None
        if self.rank == 0:
            self._open_folder()
        for role, windows, planned in zip(STAGES[self.stage], (stream.major, stream.minor), stream.seen(stream.steps)):
            if planned > len(windows):
                self.say(f"up to {planned / len(windows):.3g} passes over D_{role}, which has "
                         f"{len(windows) * windows.context:,} tokens")
        self.bar = tqdm(total=stream.steps, initial=self.step, desc=self.stage, unit="step", dynamic_ncols=True,
                        disable=None if self.rank == 0 else True)

    def _open_folder(self) -> None:
        out = self.args.out
        log = out / "log.jsonl"
        try:
            out.mkdir(parents=True, exist_ok=True)
            self.lock = lock(out)
            if (out / "run.json").exists() and not self.args.overwrite:
                raise UserError(f"{out} has just been finished by another run, there is nothing left to do")
            if not self.saved:
                for name in ("ckpt.pt", "last.pt", "run.json", "log.jsonl"):
                    (out / name).unlink(missing_ok=True)
            for leftover in out.glob(".*.tmp"):
                leftover.unlink()
            lines = log.read_text().splitlines(keepends=True) if log.exists() else []
            with atomic(log) as file:            # lines after the last save are about to be written again
                for line in lines:
                    if not line.endswith("\n") or json.loads(line)["step"] > self.step:
                        break
                    file.write(line.encode())
        except OSError as error:
            raise write_error(out, error) from error

    def steps(self) -> Iterator[int]:
        """The steps that are left, with what must happen between them: log, save, obey SIGTERM and Ctrl-C."""
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self.step < self.stream.steps:
                yield self.step
                stop = self._any_rank_signalled()
                saving = stop or self.due(self.args.save_every)
                if saving or self.due(LOG_EVERY) or self.step == self.stream.steps:
                    self._log_training()
                if saving:
                    self.save()
                if stop:
                    self.bar.close()
                    name = signal.Signals(stop).name
                    self.say(f"stopped by {name}, saved at step {self.step}, continue with --resume")
                    sys.exit(128 + stop)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self.signal = number

    def _any_rank_signalled(self) -> int:
        """The signal that any rank has received, so that all stop after the same step; 0 if none."""
        number = torch.tensor(self.signal or 0)
        if self.world > 1:
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def due(self, every: int) -> bool:
        """Whether what is done every so many steps is to be done now."""
        return self.step % every == 0

    def train_step(self) -> None:
        """One AdamW update on the mean loss over all tokens of the step's batch, however it is divided."""
        args, step = self.args, self.step
        inputs, targets = self._batch(step)
        tokens = self.stream.sequences_in(step) * inputs.shape[1]
        torch.manual_seed((args.seed << 32) + step * self.world + self.rank)         # dropout
        micro_batches = list(zip(inputs.split(self.micro_batch), targets.split(self.micro_batch)))
        loss = torch.zeros((), device=self.device)
        for number, (x, y) in enumerate(micro_batches, start=1):
            with self._averaging_gradients(number == len(micro_batches)):
                with autocast(self.device, args.dtype):
                    part = self.network(x, y).sum() / tokens
                (part * self.world).backward()       # ranks are averaged, their parts must add up
            loss += part.detach()
        gradient_norm = clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.stream.steps, args.lr, args.min_lr, args.warmup)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.history.append(torch.stack((loss, gradient_norm)))
        self.step += 1
        self.bar.update()
        if self.step < self.stream.steps:
            self._batch(self.step)                   # while the device is still busy

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's inputs and targets on the device, read ahead if asked for before."""
        if self.ahead[0] != step:
            with self._clock("data"):
                batch = self.stream.batch(step, self.rank, self.world)
                if self.device.type == "cuda":
                    batch = [part.pin_memory() for part in batch]
                self.ahead = (step, [part.to(self.device, non_blocking=True) for part in batch])
        return self.ahead[1]

    def _averaging_gradients(self, now: bool):
        """Ranks exchange gradients once a step, with the last micro-batch."""
        return self.network.no_sync() if self.world > 1 and not now else nullcontext()

    @contextmanager
    def _clock(self, activity: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[activity] += time.monotonic() - started

    def _training_time(self) -> float:
        """A clock that stands still during evaluation and saving, so that the speed shown is that of training."""
        return time.monotonic() - self.seconds["evaluate"] - self.seconds["save"]

    def evaluate(self, **held_out: Corpus) -> dict[str, Loss]:
        """Held-out losses by name: `run.evaluate(L_pre=pre)`."""
        with self._clock("evaluate"):
            context = self.model.config.context
            losses = {name: held_out_loss(self.model, corpus.held_out_sequences(context), self.args.dtype)
                      for name, corpus in held_out.items()}
        for name, loss in losses.items():
            if not math.isfinite(loss.mean):
                raise UserError(f"{name} is not finite after step {self.step}, lower --lr; {self._last_good()}")
        return losses

    def keep_best(self, loss: Loss) -> int:
        """Keep the weights if `loss` is the lowest so far; returns the number of evaluations since the lowest."""
        if self.best is None or loss.mean < self.best["loss"]:
            weights = {name: weight.detach().to("cpu", copy=True) for name, weight in self.model.state_dict().items()}
            self.best = {"loss": loss.mean, "since": 0, "model": weights}
        else:
            self.best["since"] += 1
        return self.best["since"]

    def restore_best(self) -> None:
        self.model.load_state_dict(self.best["model"])

    def loss_before(self, name: str) -> Loss:
        """A held-out loss of the stage before this one."""
        return Loss(**self.lineage[-1]["losses"][name])

    # -----------------------------------------------------------------------------------------------------------------
    # Reporting and saving

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)

    def log(self, losses: dict[str, Loss]) -> None:
        """Note held-out losses."""
        self._note({"step": self.step} | {name: loss.mean for name, loss in losses.items()})
        if self.rank == 0:
            shown = "  ".join(f"{name} {loss.mean:.3f}" for name, loss in losses.items())
            self.bar.write(f"{self._progress()}  {shown}", file=sys.stdout)

    def _progress(self) -> str:
        return f"{self.stage} step {self.step:,}/{self.stream.steps:,}"

    def _log_training(self) -> None:
        """Note the mean training loss since the last such note; ends the run if a loss was not finite."""
        with self._clock("log"):
            history = torch.stack(self.history).cpu()                       # (steps, 2): loss, gradient norm
            if self.world > 1:
                losses = history[:, 0].contiguous()
                dist.all_reduce(losses)
                history[:, 0] = losses
            finite = history.isfinite().all(dim=1).tolist()
            if not all(finite):
                step = self.step - len(finite) + finite.index(False) + 1
                raise UserError(f"the loss is not finite at step {step}, lower --lr; {self._last_good()}")
            loss, gradient_norm = history.mean(dim=0).tolist()
            self.history = []
            now = self._training_time()
            steps, seconds = self.step - self.noted[1], now - self.noted[0]
            speed = steps * self.args.batch * self.model.config.context / seconds
            self.noted = (now, self.step)
            self._note({"step": self.step, "loss": loss, "gradient_norm": gradient_norm,
                        "lr": self.optimizer.param_groups[0]["lr"], "tokens_per_second": speed})
            self.bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s")
            if self.rank == 0 and self.bar.disable and now - self.shown > 5:          # not a terminal: plain lines
                self.shown = now
                left = timedelta(seconds=round(seconds / steps * (self.stream.steps - self.step)))
                print(f"{self._progress()}  loss {loss:.3f}  {speed:,.0f} tokens/s  {left} left", flush=True)

    def _last_good(self) -> str:
        last = self.args.out / "last.pt"
        if last.exists():
            return f"the last good checkpoint is {last}, of step {load_checkpoint(last)['step']}"
        return f"the last good checkpoint is {self.args.init}" if "init" in self.args else "no checkpoint was saved yet"

    def _note(self, line: dict) -> None:
        """Add a line to log.jsonl."""
        if self.rank == 0:
            try:
                with open(self.args.out / "log.jsonl", "a") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise write_error(self.args.out, error) from error
            if self.wandb:
                self.wandb.log({name: value for name, value in line.items() if name != "step"}, step=line["step"])

    def save(self) -> None:
        """Write last.pt: all that an interrupted run needs to continue bit for bit."""
        with self._clock("save"):
            self.seconds["total"] = time.monotonic() - self.started
            if self.rank == 0:
                save_checkpoint(self.args.out / "last.pt", stage=self.stage, args=self._arguments(),
                                lineage=self.lineage, config=asdict(self.model.config), model=self.model.state_dict(),
                                optimizer=self.optimizer.state_dict(), step=self.step, best=self.best,
                                seconds=self.seconds)

    def finish(self, losses: dict[str, Loss], corpora: dict[str, Corpus] = {}, **facts: object) -> None:
        """Write ckpt.pt and run.json, drop last.pt and say what came out.

        `corpora` are those that enter with this stage, `facts` what else later stages or readers need to know.
        """
        self.bar.close()
        self.seconds["total"] = time.monotonic() - self.started
        if self.rank != 0:
            return
        out, seconds = self.args.out, self.seconds["total"]
        seen = {role: sequences * self.model.config.context
                for role, sequences in zip(STAGES[self.stage], self.stream.seen(self.step))}
        entry = {"stage": self.stage, "args": self._arguments(), "steps": self.step, "tokens": seen, **facts,
                 "losses": {name: loss._asdict() for name, loss in losses.items()},
                 "corpora": {name: corpus.record for name, corpus in corpora.items()}}
        lineage = self.lineage + [entry]
        save_checkpoint(out / "ckpt.pt", model=self.model.state_dict(), config=asdict(self.model.config),
                        lineage=lineage)
        write_json(out / "run.json", {
            "stage": self.stage, "args": entry["args"], "lineage": lineage, "tokens": seen, "losses": entry["losses"],
            "seconds": self.seconds, "tokens_per_second": sum(seen.values()) / seconds, "device": str(self.device),
            "ranks": self.world, "parameters": self.model.parameter_count(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}})
        (out / "last.pt").unlink(missing_ok=True)
        print(f"\n{self.stage} finished: {self.step:,} steps, {sum(seen.values()):,} tokens in "
              f"{timedelta(seconds=round(seconds))} ({sum(seen.values()) / seconds:,.0f} tokens/s)")
        for name, symbol, meaning in (("lam", "λ", "passes over D_post"), ("alpha", "α", "D_post's share of tokens")):
            if name in facts:
                print(f"  {symbol:<6} {facts[name]:<13.4g}   {meaning}")
        for name, loss in losses.items():
            print(f"  {name:<6} {loss}   {MEANING[name]}")
        print(f"  saved  {out / 'ckpt.pt'}\n{self._next_command()}")

    def _next_command(self) -> str:
        out = self.args.out
        if self.stage == "finetune":
            return f"next: python evaluate.py {out}"
        init = "" if out == Path("out") / self.stage else f" --init {out}"
        return f"next: python {'posttrain' if self.stage == 'pretrain' else 'finetune'}.py{init}"
