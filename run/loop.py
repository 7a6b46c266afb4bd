"""The mechanics of a stage's loop; the loop itself is in the stage's script.

A step's batch is a function of (seed, step), its dropout of (seed, step, rank): continuing bit for bit on as
many ranks takes no loader or generator state.
"""

import math
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from run import folder, ranks
from run.checkpoint import Checkpoint, Progress, read_progress, save_checkpoint
from run.device import autocast, be_deterministic, mixed_seed, pick_device, pick_dtype, wait_for
from run.files import UserError
from run.flags import noting_signals
from run.losses import TOKENS_AT_ONCE, Loss, held_out_loss
from run.optimizer import adamw, learning_rate
from run.report import Report, next_command, per_second, print_summary, say, start_tracker

LOG_EVERY = 10                           # steps between lines of log.jsonl


class Run:
    """One stage's run: its folder, its model, stream and optimizer, and what they have done so far."""

    def __init__(self, stage: str, args: Namespace, then: str, lineage: Sequence[dict] = ()):
        """Check what can be checked before anything is read; nothing is written. Meet the other ranks.

        `lineage` is that of --init, `then` the command that comes next, on this run. Raises UserError if the
        batch does not divide or the device is not there.
        """
        self.args, self.then = args, next_command(then, args.out)
        self.device = pick_device(args.device)
        self.dtype = pick_dtype(args.dtype, self.device)
        self.identity = folder.Identity(stage, folder.material(args) | {"dtype": self.dtype}, list(lineage))
        self.number = len(lineage) + 1               # of this stage in its chain, from 1
        self.saved = None                            # (Checkpoint, Progress) of last.pt
        self.tracker = self.tracked = None           # wandb's run, for one, and what it is known by there
        require_divisible(args.batch, args.micro_batch)
        be_deterministic(self.device)
        ranks.join(self.device)

    def update(self) -> None:
        """Clip the gradient to norm 1, take an AdamW step at the schedule's rate (Appendix A), count it."""
        args = self.args
        gradient_norm = clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step + self.steps_before, self.schedule_steps,
                                        args.lr, args.min_lr, args.warmup, args.decay)
        self.optimizer.step()
        self.optimizer.zero_grad()

        # Left on the device until the next line of the log: to wait for them now would stall it.
        self.history.append(torch.stack((self.current.loss, gradient_norm)))
        self.step += 1
        self.report.advance()
        if not self.at_end():
            self._batch(self.step)                   # read ahead while the device is still busy

    def finished(self) -> bool:
        """Tell whether --out holds this very run, finished, and then say so.

        Raises UserError if it holds something else. What --resume continues from is read here, before the
        corpora, and a tracker is started.
        """
        args = self.args
        if folder.is_finished(args.out, self.identity, args.resume, args.overwrite):
            say(f"{args.out} is finished with these arguments, nothing to do\nnext: {self.then}")
            return True
        if args.resume:
            self.saved = folder.read_unfinished(args.out, self.identity)
        if args.tracker and ranks.rank() == 0:
            self.tracked = folder.read_tracked(args.out, resumed=self.saved is not None)
            self.tracker = start_tracker(args.tracker, args.out, self.tracked, self.identity.args)
        return False

    def begin(self, model: nn.Module, stream) -> Callable[[Tensor, Tensor], Tensor]:
        """Put the model on its device, make its optimizer, restore last.pt if there is one, and lock --out.

        `model` has a dataclass `config`; `stream` gives `batch(step, rank, world)`, counts and `made_of`, as
        `data.stream.Interleaved` does. Returns what computes losses, (batch, time) in nats, of (inputs,
        targets).
        """
        args = self.args
        self.model, self.stream = model.to(self.device), stream
        self.optimizer = adamw(self.model, args.lr, args.weight_decay)
        self.step, self.best = 0, None
        self._place_in_schedule()
        self.seconds = {"total": 0.0, "data": 0.0, "evaluate": 0.0, "save": 0.0, "log": 0.0}

        # What was interrupted goes on from where it was, --go-on from where Stage 1 left its optimizer.
        if self.saved:
            self._continue(*self.saved)
            self.saved = None
        elif args.go_on:
            self.optimizer.load_state_dict(folder.read_left(args.init, self.identity.lineage[-1]))
        ranks.require_equal(self.step, f"ranks find different checkpoints in {args.out}, share one disk")

        # The folder is taken before the first step and not earlier, so that a mistake leaves nothing behind.
        if ranks.rank() == 0:
            self.lock = folder.occupy(args.out, self.step, args.overwrite)
            if self.tracked:
                folder.note_tracked(args.out, self.tracked)
        for line in stream.repeats():
            say(line)
        self.report = Report(self.identity.stage, args.out / "log.jsonl", self.step, stream.steps,
                             self.tracker)

        # Times do not count an interruption.
        self.started = time.monotonic() - self.seconds["total"]
        self.noted_at = self._training_time()               # when the last line of the log was written,
        self.noted_step = self.step                         # and after which step
        self.history = []                                   # (loss, gradient norm) of the steps since then
        self.ahead = None                                   # the batch that has been read last
        self.micro_batch = args.micro_batch or largest_micro_batch(args.batch, stream.context)

        # The model itself stays plain: it is saved and evaluated without what wraps it for training.
        self.parallel = ranks.parallel(self.model)
        compiled = self.device.type == "cuda" if args.compile is None else args.compile
        network = torch.compile(self.parallel) if compiled else self.parallel
        network = in_precision(network, self.device, self.dtype)
        if ranks.launched():
            self._rehearse(network)
        return network

    def steps(self) -> Iterator["Step"]:
        """Go through the steps that are left, and between two of them log, save, obey SIGTERM and Ctrl-C."""
        with noting_signals() as received:
            while not self.at_end():
                # Dropout's seed, a different one on each rank.
                torch.manual_seed(mixed_seed(self.args.seed, self.step, ranks.rank()))
                self.current = self._next_step()
                yield self.current

                # A signal counts when any rank has it, so that all stop after the same step.
                stop = ranks.largest(max(received, default=0))
                saving = stop or self.every(self.args.save_every) or self.at_end()
                if saving or self.every(LOG_EVERY):
                    self._note_training()
                if saving:
                    self._save()
                if stop:
                    self._stop(stop)

    def every(self, count: int) -> bool:
        """Tell whether what is done every so many steps is to be done now."""
        return self.step % count == 0

    def at_end(self) -> bool:
        """Tell whether no step is left."""
        return self.step == self.stream.steps

    def evaluate(self, **held_out) -> dict[str, Loss]:
        """Measure held-out losses by name, `run.evaluate(L_pre=pre)`; raises UserError if one is not finite.

        A corpus has a `role` and gives `held_out_sequences(context)`.
        """
        losses = {}
        with self._clock("evaluate"):
            for name, corpus in held_out.items():
                sequences = corpus.held_out_sequences(self.stream.context)
                losses[name] = held_out_loss(self.model, sequences, self.dtype, corpus.role)
        for name, loss in losses.items():
            if not math.isfinite(loss.mean):
                raise self._not_finite(f"{name} is", self.step)
        return losses

    def log(self, losses: dict[str, Loss]) -> None:
        """Note held-out losses and show them."""
        self.report.held_out(self.step, losses)

    def keep_best(self, loss: Loss) -> int:
        """Keep the weights if `loss` is the lowest so far; returns how many evaluations ago it was."""
        if self.best is None or loss.mean < self.best["loss"]:
            state = self.model.state_dict()
            weights = {name: weight.detach().to("cpu", copy=True) for name, weight in state.items()}
            self.best = {"loss": loss.mean, "since": 0, "step": self.step, "model": weights}
        else:
            self.best["since"] += 1
        return self.best["since"]

    def restore_best(self) -> int | None:
        """Go back to the best weights, and tell their step: None if an older last.pt had them."""
        self.model.load_state_dict(self.best["model"])
        return self.best.get("step")

    def earlier(self, name: str) -> dict[str, Loss]:
        """Look up a held-out loss of an earlier stage, the last that measured it; empty if none did."""
        measured = [entry["losses"][name] for entry in self.identity.lineage if name in entry["losses"]]
        return {name: Loss(**measured[-1])} if measured else {}

    def finish(self, losses: dict[str, Loss], corpora: list = [], **facts: object) -> None:
        """Write ckpt.pt and run.json, drop last.pt and say what came out; no rank returns before that.

        `corpora` are those that enter with this stage, `facts` what else later stages or readers need to
        know.
        """
        self.report.sum_up(self.step, losses, facts)
        self.report.close()

        # Leave the optimizer for --go-on; the weights are in ckpt.pt. Nothing goes on from Stage 3.
        if self.args.leave and self.identity.stage != "finetune" and ranks.rank() == 0:
            weightless = Checkpoint({}, asdict(self.model.config), list(self.identity.lineage))
            save_checkpoint(self.args.out / folder.LEFT, weightless, self._progress())
        self.seconds["total"] = time.monotonic() - self.started
        if ranks.rank() == 0:
            # What the lineage keeps of this stage.
            tokens = self.stream.tokens(self.step)
            entry = {"stage": self.identity.stage, "args": self.identity.args, "steps": self.step,
                     "tokens": tokens, **facts, "folder": folder.working_folder(),
                     "losses": {name: loss._asdict() for name, loss in losses.items()},
                     "corpora": {corpus.role: corpus.record for corpus in corpora}}

            # What only a reader wants to know.
            speed = per_second(sum(tokens.values()), self.seconds["total"])
            about = {"seconds": self.seconds, "tokens_per_second": speed, "device": str(self.device),
                     "ranks": ranks.world(), "parameters": self.model.parameter_count()}
            folder.save_finished(self.args.out, self._checkpoint(entry), about)
            print_summary(entry, self.seconds["total"], losses, facts, self.args.out, self.then)
        ranks.wait()

    # --------------------------------------------------------------------------------------------------------
    # Inside

    def _checkpoint(self, *entries: dict) -> Checkpoint:
        """The model as it is now, and its lineage with further entries."""
        lineage = [*self.identity.lineage, *entries]
        return Checkpoint(self.model.state_dict(), asdict(self.model.config), lineage)

    def _continue(self, checkpoint: Checkpoint, progress: Progress) -> None:
        """Restore what last.pt holds; raises UserError if that was trained on other data."""
        if progress.made_of and progress.made_of != self.stream.made_of():
            raise UserError(f"the corpora are not those that {self.args.out}/last.pt was trained on, restore "
                            "them or start anew with --overwrite")
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(progress.optimizer)
        self.step, self.best, self.seconds = progress.step, progress.best, progress.seconds

    def _rehearse(self, network: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Go through a forward and a backward pass that train nothing, of a network that ranks share.

        After its first, DistributedDataParallel lays gradients out anew, and the last bits of a sum over
        ranks depend on that: a step would come out otherwise as the first after --resume.
        """
        tokens = torch.zeros(self.micro_batch, self.stream.context, dtype=torch.int64, device=self.device)
        network(tokens, tokens).sum().backward()
        self.optimizer.zero_grad()

    def _place_in_schedule(self) -> None:
        """Find which steps of the schedule are this stage's; raises UserError if they are not those left."""
        # With --leave N a stage ends N steps before its schedule; those of Stage 1 are a --go-on stage's.
        self.steps_before = 0
        self.schedule_steps = self.stream.steps + self.args.leave
        if not self.args.go_on:
            return
        before = self.identity.lineage[-1]
        self.steps_before = before["steps"]
        self.schedule_steps += self.steps_before
        if self.stream.steps != before["args"]["leave"]:
            raise UserError(f"this stage would take {self.stream.steps:,} steps, and {self.args.init} leaves "
                            f"{before['args']['leave']:,} of its schedule, make them equal")

    def _next_step(self) -> "Step":
        batch = self._batch(self.step)
        loss = torch.zeros((), device=self.device)
        return Step(batch, self.micro_batch, self.parallel, loss)

    def _batch(self, step: int) -> "Batch":
        """Bring this rank's inputs and targets to the device, unless they are there."""
        if not self.ahead or self.ahead.step != step:
            with self._clock("data"):
                inputs, targets = self.stream.batch(step, ranks.rank(), ranks.world())
                tokens = int(ranks.add_up((targets >= 0).sum()))
                self.ahead = Batch(step, self._on_device(inputs), self._on_device(targets), tokens)
        return self.ahead

    def _on_device(self, part: Tensor) -> Tensor:
        """Copy to the device; on CUDA without waiting, which only pinned memory makes safe."""
        if self.device.type == "cuda":
            return part.pin_memory().to(self.device, non_blocking=True)
        return part.to(self.device)                         # waited for: MPS has torch's issue 189690

    @contextmanager
    def _clock(self, activity: str) -> Iterator[None]:
        """Count the block's seconds as an activity's.

        What a GPU has still to do is training's. Each activity waits for it sooner or later, so that to do it
        first costs nothing; but for data, which are read ahead meanwhile.
        """
        if activity != "data":
            wait_for(self.device)
        started = time.monotonic()
        yield
        self.seconds[activity] += time.monotonic() - started

    def _training_time(self) -> float:
        """A clock that stands still during evaluation and saving: the speed shown is that of training."""
        return time.monotonic() - self.seconds["evaluate"] - self.seconds["save"]

    def _note_training(self) -> None:
        """Note the mean training loss since the last such note; raises UserError if a loss was not finite."""
        with self._clock("log"):
            history = torch.stack(self.history).cpu()                       # (steps, 2): loss, gradient norm
            history[:, 0] = ranks.add_up(history[:, 0].contiguous())
            self.history = []
            self._require_finite(history)

            # Speed is that of the steps since the last note.
            loss, gradient_norm = history.mean(dim=0).tolist()
            now = self._training_time()
            steps, seconds = self.step - self.noted_step, now - self.noted_at
            self.noted_step, self.noted_at = self.step, now
            line = {"loss": loss, "gradient_norm": gradient_norm, "lr": self.optimizer.param_groups[0]["lr"],
                    "tokens_per_second": per_second(steps * self.args.batch * self.stream.context, seconds)}
            seconds_left = seconds / steps * (self.stream.steps - self.step)
            self.report.training(self.step, line, seconds_left, now)

    def _require_finite(self, history: Tensor) -> None:
        finite = history.isfinite().all(dim=1).tolist()
        if not all(finite):
            step = self.step - len(finite) + finite.index(False) + 1
            raise self._not_finite("the loss is", step)

    def _not_finite(self, what: str, step: int) -> UserError:
        """Say what is no number any more, and name the checkpoint that is still good."""
        good = "no checkpoint was saved yet"
        if "init" in self.args:
            good = f"the last good checkpoint is {self.args.init}"
        last = self.args.out / "last.pt"
        if last.exists():
            _, progress = read_progress(last)
            if progress.step < step:
                good = f"the last good checkpoint is {last}, of step {progress.step}"
        return UserError(f"{what} not finite at step {step}, run again with a lower --lr and --overwrite; "
                         f"{good}")

    def _progress(self) -> Progress:
        """What it takes to go on from here, beside the weights."""
        return Progress(self.identity.stage, self.identity.args, self.optimizer.state_dict(), self.step,
                        self.best, self.seconds, self.stream.made_of())

    def _save(self) -> None:
        """Write last.pt: all that an interrupted run needs to continue bit for bit.

        Raises UserError if the weights are not finite.
        """
        with self._clock("save"):
            if not all(weight.isfinite().all() for weight in self.model.parameters()):
                raise self._not_finite("the weights are", self.step)
            self.seconds["total"] = time.monotonic() - self.started
            if ranks.rank() == 0:
                save_checkpoint(self.args.out / "last.pt", self._checkpoint(), self._progress())

    def _stop(self, number: int) -> NoReturn:
        """End the process, saved as it is, for a signal."""
        self.report.close()
        say(f"stopped by {signal.Signals(number).name}, saved at step {self.step}, continue with --resume")
        ranks.wait()
        sys.exit(128 + number)


class Batch(NamedTuple):
    """What a step trains on, on the device."""
    step: int
    inputs: Tensor           # int64 (sequences, context), this rank's
    targets: Tensor          # one token further; -1 does not count
    tokens: int              # targets that count, on all ranks


@dataclass
class Step:
    """One step's work on this rank: its micro-batches, and how their losses make one mean."""
    batch: Batch
    micro_batch: int         # sequences of a forward pass
    parallel: nn.Module      # the network whose backward pass exchanges gradients with the other ranks
    loss: Tensor             # () this rank's share of the step's mean loss so far, nats per token

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through this rank's micro-batches (inputs, targets).

        Ranks exchange gradients once, with the last.
        """
        inputs, targets = (part.split(self.micro_batch) for part in (self.batch.inputs, self.batch.targets))
        parts = list(zip(inputs, targets))
        for number, part in enumerate(parts, start=1):
            with ranks.exchanging(self.parallel, number == len(parts)):
                yield part

    def mean(self, losses: Tensor) -> Tensor:
        """Turn a micro-batch's losses (batch, time) into what to differentiate, and note it for the log.

        That is their share of the mean over the step's tokens, times the number of ranks, over which
        gradients are averaged. A step in which no token counts has a loss of 0.
        """
        share = losses.sum() / max(self.batch.tokens, 1)
        self.loss += share.detach()
        return share * ranks.world()


def in_precision(network: nn.Module, device: torch.device, dtype: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the network's forward pass compute in `dtype`; its backward pass then does by itself."""
    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(device, dtype):
            return network(inputs, targets)
    return losses


def largest_micro_batch(batch: int, context: int) -> int:
    """Find the largest divisor of a rank's part of the batch that fits a forward pass."""
    mine = batch // ranks.world()
    at_most = max(1, min(mine, TOKENS_AT_ONCE // context))
    return max(size for size in range(1, at_most + 1) if mine % size == 0)


def require_divisible(batch: int, micro_batch: int | None) -> None:
    """Raise UserError unless a batch divides among the ranks and each part into micro-batches."""
    world = ranks.world()
    if batch % world:
        raise UserError(f"--batch {batch} does not divide among {world} ranks, choose a multiple")
    mine = batch // world
    if micro_batch and mine % micro_batch:
        raise UserError(f"--batch {batch} over {world} ranks does not divide into micro-batches of "
                        f"{micro_batch}, choose a divisor of {mine}")
