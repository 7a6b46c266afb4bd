"""Stage 3: fine-tune θ_post on D_ft for a fixed budget, all weights, no interventions (Section 3) → θ_ft.

What somebody else does with the model later. It ends by measuring what is left: the retained post-training
loss L_ret beside L_im from before, the downstream loss L_ft and the retained pretraining loss L_pre.

    python finetune.py                                          takes up out/posttrain
    python finetune.py --lr 1e-3 --ft my/texts.jsonl --out out/finetune-1e-3
"""

from data.corpora import corpus_of, open_corpus, tokenizer_of
from data.sources import HELP, find_source
from data.stream import Interleaved, count_for_share, whole_sequences
from model import load_model
from run import ranks
from run.files import refusing
from run.flags import Parser, add_stage_flags, count, launch, positive, share
from run.folder import take_up
from run.loop import Run

DEFAULTS = {  # a star marks our choice where the paper is silent
    "preset": ("toy", "30m", "135m", "1b"),
    "ft": ("chem", "chempile", "chempile", "chempile"),
    "tokens": ("100k", "7M", "200M", "200M"),
    "replay": ("0", "0", "0", "0"),
    "batch": ("8", "32", "480*", "512*"),
    "lr": ("3e-4", "1e-4", "5e-5", "5e-5*"),
    "min-lr": ("3e-5", "1e-5", "5e-6*", "5e-6*"),
    "warmup": ("5", "20", "20*", "20*"),
    "weight-decay": ("0.1", "0.1", "0.1*", "0.1*"),
    "eval-every": ("50", "100", "100*", "100*"),
    "save-every": ("100", "100", "100*", "100*"),
    "seed": ("42", "42", "42*", "42*"),
}


def main():
    args, checkpoint = parse()
    lineage = checkpoint.lineage
    run = Run("finetune", args, then="python evaluate.py", lineage=lineage)
    if run.finished():
        return

    # D_pre and D_post are those of the stages before, D_ft is new.
    ft_source = find_source(args.ft, args.text_field)
    with refusing(ValueError):
        model = load_model(checkpoint.config, checkpoint.model)
    with ranks.first():
        pre, post = corpus_of(lineage, "pre", run=args.init), corpus_of(lineage, "post", run=args.init)
        ft = open_corpus("ft", ft_source, tokenizer_of(lineage, args.init), args.tokens, loss_on=args.loss_on)

    # D_ft's windows, and with --replay those of D_pre between them.
    context = model.config.context
    n_ft = whole_sequences(args.tokens, context)
    n_pre = count_for_share(args.replay, n_ft)
    ft_windows = ft.windows(context, at_least=args.batch, seed=args.seed, stage=run.number)
    pre_windows = pre.windows(context, at_least=min(args.batch, n_pre), seed=args.seed, stage=run.number)
    stream = Interleaved(major=ft_windows, minor=pre_windows, n_major=n_ft, n_minor=n_pre,
                         batch_size=args.batch)

    network = run.begin(model, stream)                  # on its device and ranks; --resume: from last.pt
    for step in run.steps():                            # between two steps: log, save, obey a signal
        for inputs, targets in step:                    # this rank's micro-batches of the stream
            loss = step.mean(network(inputs, targets))  # its share of the step's mean, nats a token
            loss.backward()
        run.update()                                    # clip to norm 1, AdamW at the scheduled rate
        if run.every(args.eval_every):
            run.log(run.evaluate(L_ret=post, L_ft=ft))

    run.finish(run.earlier("L_im") | run.evaluate(L_ret=post, L_ft=ft, L_pre=pre), [ft])


def parse(argv=None):
    """Read the command line, and the checkpoint that --init names; raises UserError if they do not fit."""
    parser = Parser(__doc__, DEFAULTS)
    parser.flag("ft", str, f"D_ft: {HELP}", metavar="CORPUS")
    parser.flag("text-field", str, "its text field, several as A+B [found by itself]", metavar="F")
    parser.flag("tokens", positive, "tokens of D_ft to train on")
    parser.flag("leave", count,
                "end N steps before the schedule does, as the first part of a longer Stage 3 [0]", default=0)
    parser.flag("replay", share,
                "share of the stream from D_pre, 0 ≤ R < 1 (not in the paper, whose Stage 3 is plain)")
    add_stage_flags(parser, out="out/finetune", init="out/posttrain")
    args = parser.parse_args(argv)
    checkpoint = take_up(args, "finetune", after=("pretrain", "posttrain", "finetune"),
                         needs=("preset", "tokenizer"))
    return parser.fill(args, checkpoint.lineage[0]["args"]["preset"]), checkpoint


if __name__ == "__main__":
    launch(main)
