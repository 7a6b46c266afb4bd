"""A probe of a finished run: what Gaussian noise on its weights costs (Springer et al. 2025, Section 3).

Every matrix gets noise of standard deviation γ times that of its initial weights, whatever became of them;
norm gains start alike, and get none. Draws depend on the seed and the shapes alone: runs of one shape
are compared under the same noise. Nothing is trained and no weights are kept. With --back the weights first
go back towards those that the run's last stage began with, all of them in proportion.

    python -m experiments.noise --init out/pretrain --gamma 0.1
    python -m experiments.noise --init out/posttrain --gamma 0 --back 0.5
    python -m experiments.noise --init out/posttrain --gamma 0.2 --draws 32 --out out/noise-0.2
"""

import copy
import math
from argparse import ArgumentTypeError, Namespace
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import finetune
from data.corpora import corpus_of, open_corpus, tokenizer_of
from data.sources import HELP, find_source
from model import GPT, load_model
from run import folder, ranks
from run.checkpoint import Checkpoint, checkpoint_path, read_checkpoint, read_run
from run.device import be_deterministic, pick_device, pick_dtype
from run.files import UserError, refusing, write_json
from run.flags import Parser, add_folder_flags, launch, nonnegative, positive, seed, share
from run.losses import Loss, sequence_losses
from run.report import say, table

DEFAULTS = {  # a star marks our choice where the paper is silent
    "preset": ("toy", "30m", "135m", "1b"),
    "ft": finetune.DEFAULTS["ft"],
    "gamma": ("0.1*", "0.1", "0.1*", "0.1*"),
    "back": ("0", "0", "0", "0"),
    "draws": ("8*", "8", "8*", "8*"),
    "seed": ("42", "42", "42*", "42*"),
}


def main() -> None:
    # A probe is a run like those of the stages: made once, and known again by its arguments and lineage.
    args, checkpoint = parse()
    device = pick_device(args.device)
    be_deterministic(device)
    dtype = pick_dtype(args.dtype, device)
    lineage = checkpoint.lineage
    identity = folder.Identity("noise", folder.material(args) | {"dtype": dtype}, lineage)
    ranks.join(device)
    if folder.is_finished(args.out, identity, args.resume, args.overwrite):
        say(f"{args.out} is finished with these arguments, nothing to do")
        return

    # D_pre and D_post are those of the run, D_ft is what it was fine-tuned on or may be: only its held-out
    # windows are needed, so that a corpus that is streamed need not be read on.
    with refusing(ValueError):
        model = load_model(checkpoint.config, checkpoint.model).to(device)
    with ranks.first():
        if args.ft:
            tokenizer = tokenizer_of(lineage, args.init)
            ft = open_corpus("ft", find_source(args.ft, args.text_field), tokenizer, limit=1)
        else:
            ft = corpus_of(lineage, "ft", run=args.init)
        corpora = [*(corpus_of(lineage, role, run=args.init) for role in ("pre", "post")), ft]
    held_out = {corpus.role: corpus.held_out_sequences(model.config.context) for corpus in corpora}
    changed = model
    if args.back:
        changed = moved_back(model, args.back, weights_before(args.init, lineage))

    # The folder is this process's until it ends. What it takes for a log is of steps, which a probe has not.
    if ranks.rank() == 0:
        lock = folder.occupy(args.out, 0, args.overwrite)
        (args.out / "log.jsonl").unlink()
    losses = probe(model, changed, held_out, args.gamma, args.draws, args.seed, dtype)
    if ranks.rank() == 0:
        entry = {"stage": "noise", "args": identity.args, "steps": 0, "tokens": {},
                 "losses": {name: loss._asdict() for name, loss in losses.items()},
                 "corpora": {"ft": ft.record}}
        write_json(args.out / "run.json", folder.record_of([*lineage, entry], {"device": str(device)}))
        lock.release()

    # A row a corpus, under what was done to the weights.
    rows = [[f"D_{role}", str(losses[f"L_{role}"]), str(losses[f"ΔL_{role}"])] for role in held_out]
    how = f"γ = {args.gamma:g}"
    if args.back:
        how += f", {args.back:g} of the way back"
    say(table([f"{how}, nats per token", "loss so changed", "more than without"], rows))


def probe(model: GPT, changed: GPT, held_out: dict[str, Tensor], gamma: float, draws: int, seed: int,
          dtype: str) -> dict[str, Loss]:
    """Measure losses of `changed` under noise, L_ by corpus, and by how much they are above the model's, ΔL_.

    `held_out` has sequences by role, int64 (n, context + 1). Raises UserError if a loss is not finite.
    """
    # Differences are taken window by window: what a window costs anyway is in both.
    before = {role: sequence_losses(model, some, dtype) for role, some in held_out.items()}
    after = {role: [] for role in held_out}
    for draw in range(draws):
        noisy = perturbed(changed, gamma, seed, draw)
        for role, some in held_out.items():
            after[role].append(sequence_losses(noisy, some, dtype))

    # Means are over draws and windows.
    losses = {}
    for role in held_out:
        by_draw = torch.stack(after[role])                                     # (draws, n)
        losses[f"L_{role}"] = mean_of(by_draw, role)
        losses[f"ΔL_{role}"] = mean_of(by_draw - before[role], role)
        if not math.isfinite(losses[f"L_{role}"].mean):
            raise UserError(f"L_{role} is not finite under this noise, lower --gamma {gamma:g}")
    return losses


@torch.no_grad()
def perturbed(model: GPT, gamma: float, seed: int, draw: int) -> GPT:
    """Copy a model, with noise on the copy's matrices; a tied head is its embedding and gets it once."""
    # NumPy draws the same wherever the model is, and of its seeds no two are alike.
    generator = np.random.default_rng([seed, draw])
    noisy = copy.deepcopy(model)
    for weight in noisy.parameters():
        if weight.dim() == 2:
            noise = torch.from_numpy(generator.standard_normal(weight.shape, dtype=np.float32))
            weight += gamma * model.initial_std * noise.to(weight.device)
    return noisy


@torch.no_grad()
def moved_back(model: GPT, share: float, earlier: dict[str, Tensor]) -> GPT:
    """Copy a model, every weight this share of the way to an earlier one; a tied head goes once."""
    moved = copy.deepcopy(model)
    for name, weight in moved.named_parameters():
        weight.lerp_(earlier[name].to(weight.device), share)
    return moved


def weights_before(run: Path, lineage: list[dict]) -> dict[str, Tensor]:
    """Find the weights that a run's last stage began with: of the run with the lineage up to there.

    It is looked for beside the run and above it, as the stages and sweeps place theirs. Raises UserError if
    it is not there.
    """
    home = checkpoint_path(run).parent.resolve()
    for above in home.parents[:3]:
        for record in sorted(above.glob("*/run.json")):
            with suppress(UserError):
                if folder.same_lineage(read_run(record.parent)["lineage"], lineage[:-1]):
                    return read_checkpoint(record.with_name("ckpt.pt")).model
    raise UserError(f"--back needs the run that {run} started from, put it beside that or leave --back away")


def mean_of(by_draw: Tensor, corpus: str) -> Loss:
    """Average (draws, windows); the standard error is over windows and over draws, as independent."""
    errors = [part.std().item() / math.sqrt(len(part)) for part in (by_draw.mean(dim=0), by_draw.mean(dim=1))]
    return Loss(by_draw.mean(dim=0).mean().item(), math.hypot(*errors), corpus)


def several(text: str) -> int:
    """Read a count of at least 2, which have a spread."""
    value = positive(text)
    if value == 1:
        raise ArgumentTypeError("must be at least 2, the standard error is their spread")
    return value


def parse(argv: list[str] | None = None) -> tuple[Namespace, Checkpoint]:
    """Read the command line, and the run that it names; raises UserError for what does not go together."""
    parser = Parser(__doc__, DEFAULTS)
    parser.flag("gamma", nonnegative, "γ: standard deviation of the noise, in that of initial weights")
    parser.flag("back", share, "first go this share of the way back to where the run's last stage began")
    parser.flag("draws", several, "of the noise, to average over")
    parser.flag("ft", str, f"D_ft, if the run has none: {HELP}", metavar="CORPUS")
    parser.flag("text-field", str, "its text field, several as A+B [found by itself]", metavar="F")
    parser.flag("seed", seed, "of the noise")
    add_folder_flags(parser, out="out/noise", init="out/pretrain")
    args = parser.parse_args(argv)

    # A probe stands beside the run, never in its folder, and takes what the run does not say from its preset.
    checkpoint = folder.take_up(args, "noise", after=("pretrain", "posttrain", "finetune"),
                                needs=("preset", "tokenizer"))
    filled = parser.fill(args, checkpoint.lineage[0]["args"]["preset"])
    if not args.ft and checkpoint.lineage[-1]["stage"] == "finetune":
        filled.ft = None                                     # that of the run
    return filled, checkpoint


if __name__ == "__main__":
    launch(main)
