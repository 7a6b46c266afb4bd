"""Stage 2: post-train θ_pre on D_post until its held-out loss stops improving (Section 3, A.5) → θ_post.

Two things here can make a capability last: replay (a little D_pre in the stream) and dropout. LoRA trains
adapters instead of all weights. θ_post is the checkpoint with the lowest held-out loss, L_im (a little
optimistic, for it is chosen by the windows that measure it); the last one with --compute-matched and --go-on,
which evaluate only at the end.

    python posttrain.py                                         takes up out/pretrain
    python posttrain.py --replay 0.01 --dropout 0.05 --out out/posttrain-both
    python posttrain.py --compute-matched                       one pass over what Stage 1 left (Figure 3b)
"""

from argparse import Namespace

import torch

from data.corpora import corpus_of
from data.stream import Interleaved, count_for_share, whole_sequences
from model import add_lora, load_model, merged, set_dropout
from run import ranks
from run.files import UserError, refusing
from run.flags import Parser, add_stage_flags, launch, positive, share
from run.folder import take_up
from run.loop import Run

DEFAULTS = {  # a star marks our choice where the paper is silent
    "preset": ("toy", "30m", "135m", "1b"),
    "max-tokens": ("1M", "70M", "2B", "2B"),
    "patience": ("3", "3", "3*", "3"),
    "replay": ("0", "0", "0", "0"),
    "dropout": ("0", "0", "0", "0"),
    "lora-rank": ("64", "64", "64", "64"),
    "batch": ("8", "32", "480*", "512"),
    "lr": ("1e-3", "1e-3", "5e-4*", "5e-5*"),
    "min-lr": ("5e-5", "1e-4", "5e-5", "5e-5"),
    "warmup": ("20", "500", "500", "100"),
    "weight-decay": ("0.1", "0.1", "0.1", "0.1"),
    "eval-every": ("50", "100", "100*", "100"),
    "save-every": ("200", "500", "500*", "500*"),
    "seed": ("42", "42", "40*", "40"),
}
SCHEDULE = ("lr", "min_lr", "warmup", "decay", "weight_decay")         # what --go-on takes over


def main():
    args, checkpoint = parse()
    lineage = checkpoint.lineage
    run = Run("posttrain", args, then="python finetune.py --init", lineage=lineage)
    if run.finished():
        return

    # D_pre and D_post are those of Stage 1, whatever has become of their files.
    with refusing(ValueError):
        model = load_model(checkpoint.config, checkpoint.model)
    with ranks.first():
        pre = corpus_of(lineage, "pre", run=args.init)
        post = corpus_of(lineage, "post", loss_on=args.loss_on, run=args.init)

    # Stage 2 reads the D_post of Stage 1; compute-matched what that left of it, so that each window is read
    # once.
    context = model.config.context
    post_tokens = lineage[0]["args"]["post_tokens"]
    post_windows = post.windows(context, at_least=args.batch, seed=args.seed, stage=run.number,
                                limit=post_tokens)
    if args.compute_matched:
        post_windows = post_windows.left_after(lineage[0])
        n_post = len(post_windows)
    else:
        n_post = whole_sequences(args.max_tokens, context)

    # The replay comes on top: D_pre's windows go between D_post's, of which there are as many as without it.
    n_pre = count_for_share(args.replay, n_post)
    pre_windows = pre.windows(context, at_least=min(args.batch, n_pre), seed=args.seed, stage=run.number)
    stream = Interleaved(major=post_windows, minor=pre_windows, n_major=n_post, n_minor=n_pre,
                         batch_size=args.batch)

    # The model is read, not drawn: what the seed decides here is how adapters begin.
    torch.manual_seed(args.seed)
    set_dropout(model, args.dropout)
    if args.lora:
        add_lora(model, args.lora_rank)

    # --compute-matched and --go-on take all their steps. Else it stops early, and the last step is evaluated
    # too, so that some weights are always best.
    stops_early = not args.compute_matched and not args.go_on
    network = run.begin(model, stream)                  # on its device and ranks; --resume: from last.pt
    for step in run.steps():                            # between two steps: log, save, obey a signal
        for inputs, targets in step:                    # this rank's micro-batches of the stream
            loss = step.mean(network(inputs, targets))  # its share of the step's mean, nats a token
            loss.backward()
        run.update()                                    # clip to norm 1, AdamW at the scheduled rate
        if stops_early and (run.every(args.eval_every) or run.at_end()):
            losses = run.evaluate(L_im=post)
            run.log(losses)
            if run.keep_best(losses["L_im"]) >= args.patience:
                break

    # Hand on the best weights, with the adapters merged in.
    kept = {"best_step": run.restore_best()} if stops_early else {}
    if args.lora:
        run.model = merged(run.model)

    run.finish(run.evaluate(L_im=post, L_pre=pre), **kept)


def parse(argv=None):
    """Read the command line, and the checkpoint that --init names; raises UserError if they do not fit."""
    # How long, and what makes a capability last.
    parser = Parser(__doc__, DEFAULTS)
    parser.flag("max-tokens", positive, "tokens of D_post at most, over as many passes as it takes")
    parser.flag("patience", positive, "evaluations without a lower loss after which to stop")
    parser.flag("replay", share,
                "share of the stream from D_pre, 0 ≤ R < 1 (the paper: 0.01); D_post exposure is kept")
    parser.flag("dropout", share, "rate in embedding, attention, residual and MLP (the paper: 0, 0.02, 0.05)")

    # Other ways to post-train.
    parser.add_argument("--lora", action="store_true",
                        help="train adapters on attention output, MLP and head, not all weights")
    parser.flag("lora-rank", positive, "rank r of the adapters, whose scale α/r is 2", metavar="R")
    parser.add_argument("--compute-matched", action="store_true",
                        help="one pass over just what Stage 1 left of D_post, whatever --max-tokens and "
                             "--patience say")
    parser.add_argument("--go-on", action="store_true",
                        help="take up the optimizer and the schedule where pretrain.py --leave left them: "
                             "mid-training")
    add_stage_flags(parser, out="out/posttrain", init="out/pretrain")

    # The checkpoint says which preset's defaults these are, and which flags go with it.
    args = parser.parse_args(argv)
    checkpoint = take_up(args, "posttrain", after=("pretrain", "posttrain"),
                         needs=("preset", "tokenizer", "post_tokens", "seed"))
    if args.compute_matched and len(checkpoint.lineage) > 1:
        raise UserError(f"--compute-matched takes what Stage 1 left, --init {args.init} is of a later stage")
    if args.lora_rank and not args.lora:
        raise UserError("--lora-rank is of adapters, give --lora too")
    if args.go_on:
        args = with_schedule_of(checkpoint.lineage[-1], args)
    return parser.fill(args, checkpoint.lineage[0]["args"]["preset"]), checkpoint


def with_schedule_of(before, args):
    """Take over the schedule that the stage before left; raises UserError if it left none or flags differ."""
    if not before["args"].get("leave"):
        raise UserError(f"{args.init} left nothing of its schedule, run pretrain.py with --leave STEPS")
    given = [name for name in SCHEDULE if getattr(args, name) is not None]
    if given:
        raise UserError(f"--go-on goes on with Stage 1's {given[0].replace('_', ' ')}, "
                        "leave the flag away")
    if args.lora:
        raise UserError("--go-on takes up the optimizer of all weights, --lora trains others")
    return Namespace(**vars(args) | {name: before["args"][name] for name in SCHEDULE})


if __name__ == "__main__":
    launch(main)
