"""Stage 2: post-train θ_pre on D_post until its held-out loss stops improving (Section 3, Appendix A.5) → θ_post.

What can be done here for a capability to last: replay (a little D_pre in the stream) and dropout. LoRA trains adapters
instead of all weights. θ_post is the checkpoint with the lowest held-out loss, L_im.

    python posttrain.py                                         takes up out/pretrain
    python posttrain.py --replay 0.01 --dropout 0.05 --out out/posttrain-both
    python posttrain.py --compute-matched                       one pass over what Stage 1 did not see (Figure 3b)
"""

from dataclasses import replace

import numpy as np
import torch

from cli import Parser, add_stage_flags, launch, positive, share
from data import Interleaved, corpus_of, count_for_share, whole_sequences
from model import add_lora, merged, set_dropout
from trainer import Trainer, parse_and_take_up

DEFAULTS = {  # toy, 135m, 1b; a star marks our choice where the paper is silent
    "max-tokens": ("2.5M", "2B", "2B"),
    "patience": ("3", "3*", "3"),
    "replay": ("0", "0", "0"),
    "dropout": ("0", "0", "0"),
    "batch": ("32", "480*", "512"),
    "lr": ("5e-4", "5e-4*", "5e-5*"),
    "min-lr": ("5e-5", "5e-5", "5e-5"),
    "warmup": ("20", "500", "100"),
    "weight-decay": ("0.1", "0.1", "0.1"),
    "eval-every": ("75", "100*", "100"),
    "save-every": ("100", "500*", "500*"),
    "seed": ("42", "40*", "40"),
}


def parse(argv=None):
    parser = Parser(__doc__, DEFAULTS)
    parser.flag("max-tokens", positive, "tokens of D_post at most, over as many passes as it takes")
    parser.flag("patience", positive, "evaluations without a lower loss after which to stop")
    parser.flag("replay", share, "share of the stream from D_pre, 0 ≤ R < 1 (the paper: 0.01); D_post exposure is kept")
    parser.flag("dropout", share, "rate in embedding, attention, residual and MLP (the paper: 0, 0.02, 0.05)")
    parser.add_argument("--lora", action="store_true", help="train adapters: r 64, α 128, attention output, MLP, head")
    parser.add_argument("--compute-matched", action="store_true",
                        help="one pass over just what Stage 1 left of D_post, no early stop")
    add_stage_flags(parser, out="out/posttrain", init="out/pretrain")
    return parse_and_take_up("posttrain", parser, argv)


def main():
    args, model, lineage = parse()
    run = Trainer("posttrain", args, lineage)
    pretraining, context = lineage[0], model.config.context
    with run.rank_zero_first():
        pre, post = corpus_of(lineage, "pre"), corpus_of(lineage, "post")

    pre_windows = pre.windows(context, args.batch, args.seed, stage=2)
    post_windows = post.windows(context, args.batch, args.seed, stage=2, limit=pretraining["args"]["post_tokens"])
    n_post = whole_sequences(args.max_tokens, context)
    if args.compute_matched:                                    # Figure 3b: what Stage 1 left, whatever the loss does
        in_stage_1 = replace(post_windows, seed=pretraining["args"]["seed"], stage=1).permutation(0)
        seen = in_stage_1[:pretraining["tokens"]["post"] // context]
        post_windows = replace(post_windows, chosen=np.setdiff1d(post_windows.chosen, seen))
        n_post = len(post_windows)
    stream = Interleaved(post_windows, pre_windows, n_post, count_for_share(args.replay, n_post), args.batch)

    torch.manual_seed(args.seed)
    set_dropout(model, args.dropout)
    if args.lora:
        add_lora(model)
    run.begin(model, stream)
    early_stop = not args.compute_matched
    for _ in run.steps():
        run.train_step()
        if early_stop and (run.due(args.eval_every) or run.step == stream.steps):
            losses = run.evaluate(L_im=post)
            run.log(losses)
            if run.keep_best(losses["L_im"]) >= args.patience:
                break
    if early_stop:
        run.restore_best()
    if args.lora:
        run.model = merged(run.model)

    run.finish(run.evaluate(L_im=post, L_pre=pre))


if __name__ == "__main__":
    launch(main)
