"""Held-out losses of finished runs: tables of every stage, JSON, samples, frontiers and the paper's figures.

    python evaluate.py out/finetune
    python evaluate.py out/posttrain out/finetune --json
    python evaluate.py out/posttrain --sample 3 --prompt "X:1"
    python evaluate.py --frontier out/toy --out frontier.png
"""

import argparse
import json
import math
import statistics
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import tiktoken
import torch
import torch.distributed as dist
from torch import Tensor

from cli import Parser, add_device_flags, launch, pick_device, positive, rate, seed
from data import corpus_of, end_of_text, tokenizer_of
from figures import TITLES, draw
from files import checkpoint_path, load_checkpoint
from model import GPT, load_model

MEANING = {
    "L_im": "immediate post-training loss, L(θ_post; D_post)",
    "L_ret": "retained post-training loss, L(θ_ft; D_post)",
    "L_ft": "downstream fine-tuning loss, L(θ_ft; D_ft)",
    "L_pre": "pretraining loss, on D_pre",
    "L_post": "loss on D_post before post-training, L(θ_pre; D_post)",
}
LOSSES_OF = {     # stage → the losses measured on its checkpoint, and the corpus of each
    "pretrain": {"L_pre": "pre", "L_post": "post"},
    "posttrain": {"L_im": "post", "L_pre": "pre"},
    "finetune": {"L_ret": "post", "L_ft": "ft", "L_pre": "pre"},
}
EVALUATION_TOKENS = 8192     # a forward pass; fixed, so that a loss does not depend on the batch trained with


class Loss(NamedTuple):
    """A mean cross-entropy in nats per token and its standard error over sequences."""
    mean: float
    se: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"


def autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    """bfloat16 mixed precision where `dtype` asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


@torch.no_grad()
def held_out_loss(model: GPT, sequences: Tensor, dtype: str) -> Loss:
    """The model's loss on `sequences`, int64 (n, context + 1), shared out among the ranks where there are several."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device, was_training = model.embed_tokens.weight.device, model.training
    size = max(1, EVALUATION_TOKENS // model.config.context)
    model.eval()
    losses = torch.zeros(len(sequences), dtype=torch.float64)
    for first in range(rank * size, len(sequences), world * size):
        some = sequences[first:first + size].to(device)
        with autocast(device, dtype):
            token_losses = model(some[:, :-1], some[:, 1:])
        losses[first:first + size] = token_losses.mean(dim=1).cpu().double()
    model.train(was_training)
    if world > 1:
        dist.all_reduce(losses)                     # every sequence is 0 on all ranks but one: exact
    se = losses.std() / math.sqrt(len(losses)) if len(losses) > 1 else torch.tensor(math.nan)
    return Loss(losses.mean().item(), se.item())


def bytes_per_token(sequences: Tensor, tokenizer: tiktoken.Encoding) -> float:
    """Bytes of text for each of the tokens predicted in `sequences`, (n, context + 1)."""
    targets = sequences[:, 1:].flatten()
    text = tokenizer.decode_bytes(targets[targets != end_of_text(tokenizer)].tolist())
    return len(text) / len(targets)


def evaluate_run(path: Path, device: torch.device, dtype: str) -> dict:
    """What is known of a run, its own losses measured anew: run, preset, tokenizer, parameters, lineage, losses.

    Each of `losses` has mean and se in nats per token, and bits_per_byte, which compares across tokenizers.
    """
    checkpoint = load_checkpoint(checkpoint_path(path))
    lineage, model = checkpoint["lineage"], load_model(checkpoint).to(device)
    tokenizer = tokenizer_of(lineage)
    losses = {name: loss for entry in lineage for name, loss in entry["losses"].items() if name == "L_im"}
    for name, role in LOSSES_OF[lineage[-1]["stage"]].items():
        sequences = corpus_of(lineage, role).held_out_sequences(model.config.context)
        loss = held_out_loss(model, sequences, dtype)
        bits = loss.mean / math.log(2) / bytes_per_token(sequences, tokenizer)
        losses[name] = loss._asdict() | {"bits_per_byte": bits}
    return {"run": str(path), "preset": lineage[0]["args"]["preset"], "tokenizer": lineage[0]["tokenizer"],
            "parameters": model.parameter_count(), "losses": losses, "lineage": lineage}


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be, the first flush left."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (header, *rows))
    return "\n".join("  ".join(line).rstrip() for line in lines)


def shown(losses: dict[str, dict], name: str) -> str:
    return str(Loss(losses[name]["mean"], losses[name]["se"])) if name in losses else "–"


def lam(run: dict) -> str:
    return f"{run['lineage'][0]['lam']:.3g}"


def over_seeds(runs: list[dict], name: str) -> str:
    """Mean and sample standard deviation of a loss over runs."""
    means = [run["losses"][name]["mean"] for run in runs if name in run["losses"]]
    return str(Loss(statistics.mean(means), statistics.stdev(means))) if len(means) > 1 else "–"


def print_runs(runs: list[dict]) -> None:
    """The four losses of every run, then the stages of each."""
    names = [name for name in MEANING if any(name in run["losses"] for run in runs)]
    print(table(["nats per token", "λ", *names],
                [[run["run"], lam(run), *(shown(run["losses"], name) for name in names)] for run in runs]))
    alike = {}                                            # runs that differ in their seeds alone
    for run in runs:
        alike.setdefault(str([entry["args"] | {"seed": None} for entry in run["lineage"]]), []).append(run)
    rows = [[f"{same[0]['run']} and {len(same) - 1} like it", lam(same[0]), *(over_seeds(same, name) for name in names)]
            for same in alike.values() if len(same) > 1]
    if rows:
        print("\n" + table(["mean ± standard deviation over seeds", "λ", *names], rows))
    if len({run["tokenizer"] for run in runs}) > 1:
        print("\n" + table(["bits per byte", *names],
                           [[run["run"], *(f"{run['losses'].get(name, {}).get('bits_per_byte', math.nan):.3f}"
                                           for name in names)] for run in runs]))
    for run in runs:
        rows = []
        for entry in run["lineage"]:
            by_role = {role: shown(entry["losses"], name) for name, role in LOSSES_OF[entry["stage"]].items()}
            tokens = " + ".join(f"{count:,} {role}" for role, count in entry["tokens"].items() if count)
            rows.append([entry["stage"], f"{entry['steps']:,}", tokens or "–",
                         *(by_role.get(role, "–") for role in ("pre", "post", "ft"))])
        corpora = ", ".join(f"D_{role} = {record['source']}" for entry in run["lineage"]
                            for role, record in entry["corpora"].items())
        print(f"\n{run['run']}: {run['preset']}, {run['parameters']:,} parameters; {corpora}")
        print(table(["stage", "steps", "tokens", "loss on D_pre", "D_post", "D_ft"], rows))


def print_samples(path: Path, args: argparse.Namespace, device: torch.device) -> None:
    """Continuations of the prompt, sampled one after another from the generator seeded with --seed."""
    checkpoint = load_checkpoint(checkpoint_path(path))
    model, tokenizer = load_model(checkpoint).to(device).eval(), tokenizer_of(checkpoint["lineage"])
    end = end_of_text(tokenizer)
    prompt = torch.tensor([[end, *tokenizer.encode_ordinary(args.prompt)]], device=device)
    generator = torch.Generator(device).manual_seed(args.seed)
    for number in range(1, args.sample + 1):
        with autocast(device, args.dtype):
            tokens = model.generate(prompt, args.length, tokenizer.n_vocab, args.temperature, generator)[0, 1:].tolist()
        tokens = tokens[:tokens.index(end)] if end in tokens else tokens
        print(f"--- {path}, sample {number}\n{tokenizer.decode(tokens)}\n")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished stage or, for "
                        "figures, of many runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.flag("sample", positive, "print N continuations of --prompt instead", metavar="N")
    parser.flag("prompt", str, "what the samples continue [the start of a document]", metavar="TEXT", default="")
    parser.flag("length", positive, "of a sample, in tokens [300]", default=300)
    parser.flag("temperature", rate, "of sampling, 0 for the likeliest token [0.8]", default=0.8)
    parser.flag("seed", seed, "of the samples [0]", default=0)
    drawing = parser.add_mutually_exclusive_group()
    drawing.add_argument("--frontier", dest="figure", action="store_const", const="frontier",
                         help="draw Pareto frontiers of the runs, a line a recipe, and compare them")
    drawing.add_argument("--figure", choices=TITLES, help="draw a figure of the paper from the runs")
    parser.flag("out", Path, "picture to write, with .csv and .md beside it [FIGURE.png]", metavar="FIG.png")
    add_device_flags(parser)
    args = parser.parse_args()
    if args.figure:
        if args.json or args.sample:
            parser.error("--figure and --frontier draw, they do not go with --json or --sample")
        out = args.out or Path(f"{args.figure}.png")
        print(table(["claim", "where", "measured", "p", "verdict"], draw(args.figure, args.runs, out)))
        print(f"saved {out}, {out.with_suffix('.csv')} and {out.with_suffix('.md')}")
        return
    if args.out:
        parser.error("--out goes with --figure or --frontier")
    if args.prompt and not args.sample:
        parser.error("--prompt goes with --sample N")
    device, args.dtype = pick_device(args.device, args.dtype)

    if args.sample:
        for path in args.runs:
            print_samples(path, args, device)
        return
    runs = [evaluate_run(path, device, args.dtype) for path in args.runs]
    if args.json:
        print(json.dumps(runs, indent=1))
    else:
        print_runs(runs)


if __name__ == "__main__":
    launch(main)
