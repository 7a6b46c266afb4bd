"""Held-out losses of finished runs: tables of every stage, JSON, samples.

    python evaluate.py out/finetune
    python evaluate.py out/posttrain out/finetune --json
    python evaluate.py out/posttrain --sample 3 --prompt "X:1"
    python evaluate.py out/posttrain --weights DIR --ft texts.jsonl    what somebody's fine-tuning left of it
"""

import json
import math
import statistics
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path

import tiktoken
import torch
from torch import Tensor

from data.corpora import Corpus, corpus_of, loss_was_on, open_corpus, tokenizer_of
from data.sources import find_source
from data.tokenizers import end_of_text, fingerprint, load_tokenizer
from model import GPT, load_model
from run import ranks
from run.checkpoint import checkpoint_path, read_checkpoint
from run.device import autocast, be_deterministic, pick_device, pick_dtype
from run.files import UserError, refusing
from run.flags import Parser, add_device_flags, launch, nonnegative, positive, seed
from run.folder import OLD_DEFAULTS
from run.losses import Loss, held_out_loss, inputs_and_targets
from run.report import table, was_better_before

NAMES = ("L_im", "L_ret", "L_ft", "L_pre", "L_post")      # the order of columns


def main():
    # On the device, in the precision and by the kernels that a stage would choose here.
    args = parse()
    device = pick_device(args.device)
    be_deterministic(device)
    dtype = pick_dtype(args.dtype, device)

    # Under torchrun the ranks share the sequences and one prints. Samples come instead of the losses, which
    # take longer.
    ranks.join(device)
    if args.sample:
        if ranks.rank() == 0:
            for path in args.runs:
                print_samples(path, args, device, dtype)
        return

    # With --json, messages about corpora go to stderr.
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        if args.weights:
            runs = [evaluate_folder(args, device, dtype)]
        else:
            runs = [evaluate_run(path, device, dtype) for path in args.runs]
    if ranks.rank() > 0:
        return
    if args.json:
        print(json.dumps(runs, indent=1))
        return
    print_losses(runs)
    if not args.weights:
        for run in runs:
            print_stages(run)


def parse(argv: list[str] | None = None) -> Namespace:
    """Read the command line; raises UserError for what does not go together."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished stage")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")

    # What somebody else made of a run.
    parser.flag("weights", Path, "measure a Hugging Face folder instead, fine-tuned from RUN", metavar="DIR")
    parser.flag("ft", str, "what it was fine-tuned on, to measure L_ft too", metavar="CORPUS")
    parser.flag("text-field", str, "its text field, several as A+B [found by itself]", metavar="F")
    parser.add_argument("--loss-on", choices=("all", "completion"), default="all",
                        help="its tokens whose loss counts, as in finetune.py [all]")

    # What a run writes.
    parser.flag("sample", positive, "print N continuations of --prompt instead", metavar="N")
    parser.flag("prompt", str, "what the samples continue [the start of a document]", metavar="TEXT",
                default="")
    parser.flag("length", positive, "of a sample, in tokens [300]", default=300)
    parser.flag("temperature", nonnegative, "of sampling, 0 for the likeliest token [0.8]", default=0.8)
    parser.flag("seed", seed, "of the samples [0]", default=0)
    add_device_flags(parser)

    # argparse cannot say what goes with what.
    args = parser.parse_args(argv)
    sampling = [name for name in ("prompt", "length", "temperature", "seed")
                if getattr(args, name) != parser.get_default(name)]
    if sampling and not args.sample:
        parser.error(f"--{sampling[0]} goes with --sample N")
    if args.sample and args.json:
        parser.error("--sample prints texts, leave --json away")
    if args.ft and not args.weights:
        parser.error("--ft goes with --weights DIR")
    if (args.text_field or args.loss_on != "all") and not args.ft:
        parser.error("--text-field and --loss-on go with --ft CORPUS")
    if args.weights and (args.sample or len(args.runs) > 1):
        parser.error("--weights takes the one RUN that the folder was fine-tuned from, and no --sample")

    # A run that is named twice counts once, or it would pass for two seeds.
    args.runs = list({checkpoint_path(path).resolve(): path for path in args.runs}.values())
    return args


# ------------------------------------------------------------------------------------------------------------
# Measuring

def evaluate_run(path: Path, device: torch.device, dtype: str) -> dict:
    """Tell what is known of a run, its own losses measured anew, as --json prints it.

    Each of `losses` has mean and se in nats per token, of which tokens, and bits_per_byte, which compares
    across tokenizers. Raises UserError if there is no checkpoint or its corpora are gone.
    """
    checkpoint = read_checkpoint(checkpoint_path(path))
    lineage = checkpoint.lineage
    with refusing(ValueError):
        model = load_model(checkpoint.config, checkpoint.model).to(device)
    tokenizer = tokenizer_of(lineage, path)

    # L_im after Stage 3 is of θ_post's weights, which are not here: it stays as it was recorded.
    losses = {}
    for name, recorded in lineage[-1]["losses"].items():
        if is_handed_on(name, lineage[-1]):
            losses[name] = recorded
            continue
        corpus = corpus_of(lineage, role_of(name, recorded), run=path)
        losses[name] = measure(name, path, model, corpus, tokenizer, dtype)
    return report_of(path, model, losses, lineage)


def evaluate_folder(args: Namespace, device: torch.device, dtype: str) -> dict:
    """Tell the same of the Hugging Face folder that somebody made of a run: what is left of what that knew.

    Raises UserError if the folder does not fit or has another tokenizer.
    """
    from hf.folder import read_model                    # which nothing else needs
    folder, path = args.weights, args.runs[0]
    checkpoint = read_checkpoint(checkpoint_path(path))
    lineage = checkpoint.lineage
    tokenizer = tokenizer_of(lineage, path)
    theirs = folder / "tokenizer.json"
    if theirs.exists() and fingerprint(load_tokenizer(str(folder))) != fingerprint(tokenizer):
        raise UserError(f"{folder} has another tokenizer than {path}, remove {theirs} to measure it anyway")
    model = read_model(folder, checkpoint.config["context"], tokenizer.n_vocab).to(device)

    # L_im is the run's own, from before. For L_ft D_ft's held-out part is enough: limit=1 reads no more of a
    # stream.
    corpora = {"L_ret": corpus_of(lineage, "post", run=path), "L_pre": corpus_of(lineage, "pre", run=path)}
    if args.ft:
        source = find_source(args.ft, args.text_field)
        corpora["L_ft"] = open_corpus("ft", source, tokenizer, limit=1, loss_on=args.loss_on)
    losses = {name: loss for name, loss in lineage[-1]["losses"].items() if name == "L_im"}
    for name, corpus in corpora.items():
        losses[name] = measure(name, folder, model, corpus, tokenizer, dtype)
    return report_of(folder, model, losses, lineage)


def measure(name: str, path: Path, model: GPT, corpus: Corpus, tokenizer: tiktoken.Encoding,
            dtype: str) -> dict:
    """Measure a loss of the model at `path`, by its name; raises UserError if it is not finite."""
    sequences = corpus.held_out_sequences(model.config.context)
    loss = held_out_loss(model, sequences, dtype, corpus.role)
    if not math.isfinite(loss.mean):
        raise UserError(f"{name} of {path} is not finite, try --dtype float32 or train it with a lower --lr")
    bits = loss.mean / math.log(2) / bytes_per_token(sequences, tokenizer)
    loss_on = "all" if corpus.held_out_mask is None else "completion"
    return loss._asdict() | {"loss_on": loss_on, "bits_per_byte": bits}


def report_of(path: Path, model: GPT, losses: dict[str, dict], lineage: list[dict]) -> dict:
    """Put together what is told of a model, as --json prints it."""
    first = lineage[0]
    return {"run": str(path), "preset": first["args"].get("preset"), "tokenizer": first["tokenizer"],
            "parameters": model.parameter_count(), "losses": with_loss_on(losses, lineage),
            "lineage": lineage}


def with_loss_on(losses: dict[str, dict], lineage: list[dict]) -> dict[str, dict]:
    """Add to the losses that the last stage of a lineage recorded which tokens they are of."""
    return {name: {"loss_on": loss_was_on(lineage, role_of(name, loss))} | loss
            for name, loss in losses.items()}


def is_handed_on(name: str, entry: dict) -> bool:
    """Say whether a loss is an earlier stage's, of its own weights: L_im is θ_post's whatever comes later."""
    return name == "L_im" and entry["stage"] != "posttrain"


def role_of(name: str, loss: dict) -> str:
    """Tell the role of the corpus that a loss is on; older runs only tell by the name."""
    by_name = {"L_pre": "pre", "L_ft": "ft"}
    return loss.get("corpus") or by_name.get(name, "post")


def bytes_per_token(sequences: Tensor, tokenizer: tiktoken.Encoding) -> float:
    """Count the bytes of text for each predicted token that counts in `sequences`, (n, context + 1)."""
    _, targets = inputs_and_targets(sequences)
    targets = targets[targets >= 0]
    text = tokenizer.decode_bytes(targets[targets != end_of_text(tokenizer)].tolist())
    return len(text) / len(targets)


# ------------------------------------------------------------------------------------------------------------
# Tables

def shown(losses: dict[str, dict], name: str) -> str:
    """Write a loss and its standard error, and if it is of completions only, or a dash."""
    if name not in losses:
        return "–"
    loss = str(Loss(losses[name]["mean"], losses[name]["se"]))
    return f"{loss} of completions" if losses[name]["loss_on"] == "completion" else loss


def lam(run: dict) -> str:
    """Write the λ that Stage 1 came to."""
    return f"{run['lineage'][0]['lam']:.3g}"


def print_losses(runs: list[dict]) -> None:
    """Print the losses of every run, their means over seeds, and bits per byte where tokenizers differ."""
    measured = set().union(*(run["losses"] for run in runs))
    names = [name for name in NAMES if name in measured]
    rows = []
    for run in runs:
        rows.append([run["run"], lam(run), *(shown(run["losses"], name) for name in names)])
    print(table(["nats per token", "λ", *names], rows))

    # Runs that differ in their seeds alone are one recipe.
    alike = {}
    for run in runs:
        settings = [sorted((OLD_DEFAULTS | entry["args"] | {"seed": ""}).items()) for entry in run["lineage"]]
        seeds = str([entry["args"].get("seed") for entry in run["lineage"]])
        alike.setdefault(str(settings), {}).setdefault(seeds, run)       # a copy of a run is no other seed
    rows = []
    for by_seeds in alike.values():
        same = list(by_seeds.values())
        if len(same) > 1:
            title = f"{same[0]['run']} and {len(same) - 1} like it"
            rows.append([title, lam(same[0]), *(over_seeds(same, name) for name in names)])
    if rows:
        print("\n" + table(["mean ± standard deviation over seeds", "λ", *names], rows))

    # Tokens of different tokenizers are of different lengths, so that only losses per byte compare.
    if len({run["tokenizer"] for run in runs}) > 1:
        rows = []
        for run in runs:
            bits = [run["losses"].get(name, {}).get("bits_per_byte") for name in names]
            rows.append([run["run"], *("–" if one is None else f"{one:.3f}" for one in bits)])
        print("\n" + table(["bits per byte", *names], rows))


def over_seeds(runs: list[dict], name: str) -> str:
    """Write mean and sample standard deviation of a loss over runs, or a dash."""
    means = [run["losses"][name]["mean"] for run in runs if name in run["losses"]]
    if len(means) < 2:
        return "–"
    return str(Loss(statistics.mean(means), statistics.stdev(means)))


def print_stages(run: dict) -> None:
    """Print what every stage of a run did, and the losses it left on each corpus."""
    corpora = []
    rows = []
    for number, entry in enumerate(run["lineage"], start=1):
        corpora += [f"D_{role} = {record['source']}" for role, record in entry["corpora"].items()]
        tokens = " + ".join(f"{count:,} {role}" for role, count in entry["tokens"].items() if count)

        # Each loss in the column of its corpus, but for those that are an earlier stage's.
        losses = with_loss_on(entry["losses"], run["lineage"][:number])
        own = {name: loss for name, loss in losses.items() if not is_handed_on(name, entry)}
        by_role = {role_of(name, loss): name for name, loss in own.items()}
        on_each = [shown(own, by_role.get(role, "")) for role in ("pre", "post", "ft")]

        # The weights may be of an earlier step than the last.
        steps = f"{entry['steps']:,}"
        if was_better_before(entry):
            steps = f"{entry['best_step']:,} kept of {steps}"
        rows.append([entry["stage"], steps, tokens or "–", *on_each])
    print(f"\n{run['run']}: {run['preset']}, {run['parameters']:,} parameters; {', '.join(corpora)}")
    print(table(["stage", "steps", "tokens", "loss on D_pre", "D_post", "D_ft"], rows))


# ------------------------------------------------------------------------------------------------------------
# Samples

def print_samples(path: Path, args: Namespace, device: torch.device, dtype: str) -> None:
    """Print continuations of the prompt, sampled one after another from a generator seeded with --seed."""
    checkpoint = read_checkpoint(checkpoint_path(path))
    with refusing(ValueError):
        model = load_model(checkpoint.config, checkpoint.model).to(device).eval()
    tokenizer = tokenizer_of(checkpoint.lineage, path)

    # A document begins after the end of another. A number that stands for no text is left out.
    end = end_of_text(tokenizer)
    numbers = {*tokenizer._mergeable_ranks.values(), *tokenizer._special_tokens.values()}
    prompt = torch.tensor([[end, *tokenizer.encode_ordinary(args.prompt)]], device=device)
    generator = torch.Generator(device).manual_seed(args.seed)
    for number in range(1, args.sample + 1):
        with autocast(device, dtype):
            tokens = model.generate(prompt, args.length, tokenizer.n_vocab, args.temperature, generator)
        text = tokens[0, 1:].tolist()
        if end in text:
            text = text[:text.index(end)]
        known = [token for token in text if token in numbers]
        print(f"--- {path}, sample {number}\n{tokenizer.decode(known)}\n")


if __name__ == "__main__":
    launch(main)
