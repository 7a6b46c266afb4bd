"""Stage 1: pretrain on D_pre with a little of D_post mixed in (Section 3) → θ_pre.

λ is how many passes over D_post are mixed in (in the paper 0 to 1: a fraction of it), α their share of the
tokens: α = λ|D_post| / (|D_pre| + λ|D_post|). D_pre's budget is fixed; what is mixed in comes on top, at
evenly spaced places. λ = 0 is the unmixed baseline.

    python pretrain.py --mix 0.05              the embedded corpora and a small model: two minutes on a CPU
    python pretrain.py --lam 1 --seed 1 --out out/lam1-seed1
    python pretrain.py --preset 135m --weights SmolLM2-135M --tokens 0    measures them, trains nothing
    torchrun --standalone --nproc_per_node=8 pretrain.py --preset 135m --lam 1
"""

from pathlib import Path

import torch

from data.corpora import open_corpus
from data.sources import HELP, find_source
from data.stream import Interleaved, count_for_share, whole_sequences
from data.tokenizers import fingerprint, load_tokenizer
from model import GPT, PRESETS, SIZES, configure
from run import ranks
from run.files import refusing
from run.flags import Parser, add_stage_flags, count, launch, nonnegative, positive, share
from run.loop import Run
from run.report import say

DEFAULTS = {  # a star marks our choice where the paper is silent
    "preset": ("toy", "30m", "135m", "1b"),
    "pre": ("web", "c4", "c4", "c4"),
    "post": ("music", "musicpile", "musicpile", "musicpile"),
    "tokenizer": ("bytes", "gpt2", "gpt2*", "gpt2*"),
    "tokens": ("4M", "300M", "8.7B", "19.7B"),
    "post-tokens": ("220k", "10M", "300M", "300M*"),
    "batch": ("32", "128", "512*", "512"),
    "lr": ("3e-3", "1e-3", "5e-4*", "5e-4"),
    "min-lr": ("3e-4", "1e-4", "5e-5*", "5e-5"),
    "warmup": ("20", "275", "1000*", "1000"),
    "weight-decay": ("0.1", "0.1", "0.1*", "0.1*"),
    "eval-every": ("200", "500", "1000*", "1000"),
    "save-every": ("200", "500", "1000*", "1000"),
    "seed": ("42", "42", "42*", "42"),
}


def main():
    args = parse()
    run = Run("pretrain", args, then="python posttrain.py --init")
    if run.finished():
        return

    # Refuse a folder that is no Llama before complaining that it lacks a tokenizer.
    if args.weights:
        from hf.folder import read_config, read_model   # which nothing else needs
        read_config(Path(args.weights))

    # The seed decides the initial weights; later randomness depends on (seed, step). --weights bring their
    # own, and all sizes but the context.
    tokenizer = load_tokenizer(args.tokenizer)
    with refusing(ValueError):
        config = configure(args.preset, tokenizer.n_vocab, {name: getattr(args, name) for name in SIZES})
    torch.manual_seed(args.seed)
    if args.weights:
        model = read_model(args.weights, config.context, tokenizer.n_vocab)
    else:
        model = GPT(config)

    # Rank 0 turns the corpora into token files, the other ranks find them there. With --tokens 0 nothing of
    # D_pre is trained on here, but Stage 2 may replay it: as much as of D_post.
    pre_source, post_source = find_source(args.pre, args.text_field), find_source(args.post, args.text_field)
    with ranks.first():
        pre = open_corpus("pre", pre_source, tokenizer, limit=args.tokens or args.post_tokens)
        post = open_corpus("post", post_source, tokenizer, limit=args.post_tokens, loss_on=args.loss_on)

    # The mixing: D_pre's windows, and between them those of λ passes over D_post. Each must have at least a
    # batch of windows, unless nothing is trained.
    context = config.context
    at_least = args.batch if args.tokens else 1
    pre_windows = pre.windows(context, at_least=at_least, seed=args.seed, stage=run.number)
    post_windows = post.windows(context, at_least=at_least, seed=args.seed, stage=run.number,
                                limit=args.post_tokens)
    n_pre = whole_sequences(args.tokens, context) if args.tokens else 0
    n_post = round(args.lam * len(post_windows)) if args.mix is None else count_for_share(args.mix, n_pre)
    stream = Interleaved(major=pre_windows, minor=post_windows, n_major=n_pre, n_minor=n_post,
                         batch_size=args.batch)
    lam, alpha = n_post / len(post_windows), n_post / max(stream.length, 1)
    say(f"λ = {lam:.4g}, α = {alpha:.4g}: {n_pre * context:,} tokens of D_pre ({args.pre}), "
        f"{n_post * context:,} of D_post ({len(post_windows) * context:,} of the {len(post.train):,} in "
        f"{args.post})")

    network = run.begin(model, stream)                  # on its device and ranks; --resume: from last.pt
    for step in run.steps():                            # between two steps: log, save, obey a signal
        for inputs, targets in step:                    # this rank's micro-batches of the stream
            loss = step.mean(network(inputs, targets))  # its share of the step's mean, nats a token
            loss.backward()
        run.update()                                    # clip to norm 1, AdamW at the scheduled rate
        if run.every(args.eval_every):
            run.log(run.evaluate(L_pre=pre, L_post=post))

    run.finish(run.evaluate(L_pre=pre, L_post=post), [pre, post], lam=lam, alpha=alpha,
               tokenizer=fingerprint(tokenizer))


def parse(argv=None):
    # A flag that is not given takes the preset's default.
    parser = Parser(__doc__, DEFAULTS)
    parser.add_argument("--preset", choices=DEFAULTS["preset"], default="toy",
                        help="model, corpora, budget and optimizer [toy]")
    parser.flag("pre", str, f"D_pre: {HELP}", metavar="CORPUS")
    parser.flag("post", str, "D_post, likewise", metavar="CORPUS")
    parser.flag("text-field", str, "their text field, several as A+B [found by itself]", metavar="F")
    parser.flag("tokenizer", str, "bytes, gpt2, a .tiktoken file, a folder with tokenizer.json", metavar="T")
    parser.flag("weights", str, "a Hugging Face folder to start from (--tokens 0: as it is)", metavar="DIR")
    parser.flag("tokens", count, "tokens of D_pre to train on")
    parser.flag("post-tokens", positive, "size of D_post in tokens, chosen all over its corpus")

    # λ and α are two ways to say the same.
    mixing = parser.add_mutually_exclusive_group()
    mixing.add_argument("--lam", type=nonnegative, metavar="L", default=0.0,
                        help="λ: passes over D_post to mix in (the paper: 0 to 1) [0]")
    mixing.add_argument("--mix", type=share, metavar="A",
                        help="α: the same as a share of Stage-1 tokens, 0 ≤ A < 1")

    # Mid-training is a Stage 2 on what is left of this schedule.
    parser.flag("leave", count, "steps of the schedule left to posttrain.py --go-on, with the optimizer [0]",
                default=0)

    # The model's sizes have their defaults in model.py.
    for name, meaning in SIZES.items():
        sizes = ", ".join(f"{preset} {PRESETS[preset][name]}" for preset in PRESETS)
        parser.flag(name.replace("_", "-"), positive, f"{meaning} [{sizes}]")
    add_stage_flags(parser, out="out/pretrain")
    args = parser.parse_args(argv)

    # What is mixed in is a share of Stage 1's tokens.
    if args.tokens == 0 and (args.lam or args.mix):
        parser.error("--tokens 0 trains nothing, leave --lam and --mix away")

    # Weights bring their tokenizer and their sizes, but for the context.
    if args.weights:
        for name in ("tokenizer", *SIZES):
            if getattr(args, name) and name != "context":
                parser.error(f"the folder of --weights says it, leave --{name.replace('_', '-')} away")
        args.tokenizer = args.weights
    elif args.tokens == 0:
        parser.error("--tokens 0 trains nothing, give --weights with it")
    return parser.fill(args, args.preset)


if __name__ == "__main__":
    launch(main)
