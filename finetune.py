"""Stage 3: fine-tune θ_post on D_ft for a fixed budget, all weights, no interventions (Section 3) → θ_ft.

What somebody else does with the model later. It ends by measuring what is left: the retained post-training loss L_ret
beside L_im from before, the downstream loss L_ft and the retained pretraining loss L_pre.

    python finetune.py                                          takes up out/posttrain
    python finetune.py --lr 1e-3 --ft my/texts.jsonl --out out/finetune-1e-3
"""

from cli import CORPUS_HELP, Parser, add_stage_flags, launch, positive, share
from data import Interleaved, corpus_of, count_for_share, open_corpus, tokenizer_of, whole_sequences
from trainer import Trainer, parse_and_take_up

DEFAULTS = {  # toy, 135m, 1b; a star marks our choice where the paper is silent
    "ft": ("chem", "chempile", "chempile"),
    "tokens": ("200k", "200M", "200M"),
    "replay": ("0", "0", "0"),
    "batch": ("32", "480*", "512*"),
    "lr": ("3e-4", "5e-5", "5e-5*"),
    "min-lr": ("3e-5", "5e-6*", "5e-6*"),
    "warmup": ("5", "20*", "20*"),
    "weight-decay": ("0.1", "0.1*", "0.1*"),
    "eval-every": ("50", "100*", "100*"),
    "save-every": ("100", "100*", "100*"),
    "seed": ("42", "42*", "42*"),
}


def parse(argv=None):
    parser = Parser(__doc__, DEFAULTS)
    parser.flag("ft", str, f"D_ft: {CORPUS_HELP}", metavar="CORPUS")
    parser.flag("text-field", str, "its text field, several as A+B [found by itself]", metavar="F")
    parser.flag("tokens", positive, "tokens of D_ft to train on")
    parser.flag("replay", share, "share of the stream from D_pre, 0 ≤ R < 1 (Kotha & Liang; off in the paper)")
    add_stage_flags(parser, out="out/finetune", init="out/posttrain")
    return parse_and_take_up("finetune", parser, argv)


def main():
    args, model, lineage = parse()
    run = Trainer("finetune", args, lineage)
    context = model.config.context
    with run.rank_zero_first():
        pre, post = corpus_of(lineage, "pre"), corpus_of(lineage, "post")
        ft = open_corpus(args.ft, tokenizer_of(lineage), args.text_field, limit=args.tokens)

    pre_windows = pre.windows(context, args.batch, args.seed, stage=3)
    ft_windows = ft.windows(context, args.batch, args.seed, stage=3)
    n_ft = whole_sequences(args.tokens, context)
    stream = Interleaved(ft_windows, pre_windows, n_ft, count_for_share(args.replay, n_ft), args.batch)

    run.begin(model, stream)
    for _ in run.steps():
        run.train_step()
        if run.due(args.eval_every):
            run.log(run.evaluate(L_ret=post, L_ft=ft))

    run.finish({"L_im": run.loss_before("L_im")} | run.evaluate(L_ret=post, L_ft=ft, L_pre=pre), corpora={"ft": ft})


if __name__ == "__main__":
    launch(main)
