"""The paper's figures, each by one command: runs what is missing, reuses what is there, then draws.

    python reproduce.py fig3a --seeds 3                      the toy model on the embedded corpora
    python reproduce.py fig2 --corpora prose.jsonl tunes.txt chemistry.jsonl tasks.jsonl
    python reproduce.py all --preset 135m --nproc-per-node 8
    python reproduce.py fig3a --preset 135m --list pretrain  the commands, for a cluster

Killed, or run again, or on several machines that share the folder, it goes on with what is not finished; after SIGKILL
the runs of the moment go on by themselves. The paper's 1B figures 8 to 12 are the same targets with --preset 1b.
"""

import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import NamedTuple

import torch

import finetune
import posttrain
import pretrain
from cli import Parser, count, launch, pick_device, positive
from corpora import NAMES
from data import hub_corpus, load_tokenizer, local_files, open_corpus
from figures import stem
from files import UserError, lock, make_folder, read_run
from model import GPT, PRESETS, adamw, configure

RETRY = 60                               # seconds until a run that another process had is tried again
STAGES = {"pretrain": pretrain, "posttrain": posttrain, "finetune": finetune}
CORPORA = {"toy": ("web", "music", "chem", "chat"),                # D_pre, then $music, $chem and $chat below
           "135m": ("c4", "musicpile", "chempile", "flan"),
           "1b": ("c4", "musicpile", "chempile", "flan")}
BOTH = "--post $music $size --lam {0,1} | $sweep | --ft {$chem,$chat} $rates"              # unmixed and mixed
FIGURES = {     # Stage 1 | Stage 2 on each of it | Stage 3 on each of those; {a,b} is a run with a and one with b
    "fig2": [BOTH,
             "--post $chat $size --lam {0,1} | $sweep | --ft $after_chat $rates"],
    "fig3a": ["--post $music $sizes --lam {0,0.25,0.5,0.75,1} | $fixed | --ft $chem $rate"],
    "fig3b": ["--post $music $sizes --lam {0,0.25,0.5,0.75,1} | --compute-matched $once | --ft $chem $rate"],
    "fig4": [BOTH,
             "--post $music $size --lam 1 | $dropout | --ft {$chem,$chat} $rates",
             "--post $music $size --lam 1 | $replay | --ft {$chem,$chat} $rates"],
    "fig6": [BOTH,
             "--post $music $size --lam 0 | $dropout | --ft {$chem,$chat} $rates",
             "--post $music $size --lam 0 | $replay | --ft {$chem,$chat} $rates"],
    "fig7": [BOTH,
             "--post $music $size --lam {0,1} | --lora $lora | --ft {$chem,$chat} $rates"],
}
FIGURES["fig5"] = FIGURES["fig4"]                                  # the other view of the same runs
SETTINGS = {    # the paper's at 135m and 1b, but for what README lists as silent; toy is ours
    "toy": {
        "size": "", "sizes": "", "fixed": "--lr 5e-4", "once": "--batch 8 --lr 2e-3", "sweep": "--lr {5e-4,1e-3}",
        "dropout": "--dropout 0.05 --lr {5e-4,1e-3}", "replay": "--replay 0.05 --lr {5e-4,1e-3}",
        "lora": "--lr {1e-3,3e-3}", "rate": "--lr 3e-4", "rates": "--lr {1e-4,3e-4,1e-3}",
        "after_chat": "{$chem,$music}"},
    "135m": {
        "size": "--post-tokens 300M", "sizes": "--post-tokens {30M,150M,300M}", "fixed": "--batch 480 --lr 5e-4",
        "once": "--batch 480 --lr 5e-4", "sweep": "--batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}",
        "dropout": "--dropout {0.02,0.05} --batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}",
        "replay": "--replay 0.01 --batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}",
        "lora": "--batch {192,480,896} --lr {1e-4,2e-4,5e-4,1e-3,5e-3}", "rate": "--lr 5e-5",
        "rates": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}", "after_chat": "{$chem,$music}"},
    "1b": {
        "size": "--post-tokens 300M", "sizes": "--post-tokens {30M,150M,300M}", "fixed": "--lr 5e-5",
        "once": "--lr 5e-5", "sweep": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "dropout": "--dropout {0.02,0.05} --lr {1e-5,2e-5,5e-5}",
        "replay": "--replay 0.01 --lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "lora": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}", "rate": "--lr 5e-5", "rates": "--lr {1e-5,2e-5,5e-5,1e-4,2e-4}",
        "after_chat": "$chem"},
}


def number(text: str) -> float:
    """0.05, 5e-4, 150k."""
    return count(text) if text[-1].isalpha() else float(text)


class Run(NamedTuple):
    """One stage: its flags, its folder, and the run it starts from."""
    stage: str
    flags: tuple[str, ...]
    out: Path
    parent: "Run | None"

    def finished(self) -> bool:
        return (self.out / "run.json").exists()

    def require_same(self) -> None:
        """Raise UserError if what is finished in its folder had other flags: other corpora of the same name, say."""
        args = read_run(self.out)["args"]
        for flag, word in itertools.pairwise((*self.flags, "--")):
            if flag.startswith("--"):
                value = args[flag[2:].replace("-", "_")]
                same = value if word.startswith("--") else value == (word if isinstance(value, str) else number(word))
                if not same:
                    raise UserError(f"{self.out} is finished with {flag} {value}, not {word}; choose another --out")

    def ancestors(self) -> "list[Run]":
        return [self.parent, *self.parent.ancestors()] if self.parent else []

    def taken(self) -> bool:
        """Whether another process, here or on a machine that shares the folder, has finished it or is at it."""
        try:
            if self.out.exists():
                lock(self.out).release()
        except UserError:
            return True
        return self.finished()

    def log(self) -> Path:
        """What it prints, beside its folder."""
        return self.out.with_name(f"{self.stage}.log")

    def result(self) -> str:
        """Its losses, in nats per token."""
        return "  ".join(f"{name} {loss['mean']:.3f}" for name, loss in read_run(self.out)["losses"].items())

    def command(self, processes: int, python: str = "python") -> list[str]:
        """As typed by a person; finished it does nothing, unfinished it continues."""
        script = os.path.relpath(Path(__file__).parent / f"{self.stage}.py")
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        start = ["--init", str(self.parent.out)] if self.parent else []
        return [python, *torchrun * (processes > 1), script, *self.flags, *start, "--out", str(self.out), "--resume"]

    def value(self, flag: str) -> float:
        """The value of a flag, or the preset's default."""
        if f"--{flag}" in self.flags:
            text = self.flags[self.flags.index(f"--{flag}") + 1]
        else:
            first = [self, *self.ancestors()][-1]
            column = list(PRESETS).index(first.flags[first.flags.index("--preset") + 1])
            text = STAGES[self.stage].DEFAULTS[flag][column].rstrip("*")
        return number(text)

    def tokens(self) -> float:
        """To train on: at most, where a stage may stop early."""
        if self.stage == "pretrain":
            return self.value("tokens") + self.value("lam") * self.value("post-tokens")
        if "--compute-matched" in self.flags:
            return (1 - self.parent.value("lam")) * self.parent.value("post-tokens")
        return self.value("max-tokens" if self.stage == "posttrain" else "tokens") / (1 - self.value("replay"))


# ---------------------------------------------------------------------------------------------------------------------
# A target → its runs

def expand(line: str) -> Iterator[tuple[str, ...]]:
    """The words of a line, once for every choice among {a,b}; the last choice varies fastest."""
    return itertools.product(*(word.strip("{}").split(",") for word in line.split()))


def folder_name(words: tuple[str, ...]) -> str:
    """("--post", "my/tunes.txt", "--lam", "0.5") → tunes-lam0.5."""
    name = ""
    for flag, word in itertools.pairwise((*words, "")):
        if flag in ("--post", "--ft"):
            name += f"-{stem(word)}"
        elif flag.startswith("--"):
            name += f"-{flag[2:]}" + ("" if word.startswith("--") else word)
    return name[1:]


def plan(target: str, preset: str, corpora: tuple[str, ...], seeds: int, root: Path) -> list[Run]:
    """The runs of a figure, parents before children, one seed after another, each once.

    Raises UserError if two of them would share a folder: corpora whose files have the same name.
    """
    names = dict(zip(("$music", "$chem", "$chat"), corpora[1:]))
    runs = {}

    def add(stage: str, words: tuple[str, ...], parent: Run | None, folder: Path, seed: int) -> Run:
        run = Run(stage, (*words, "--seed", str(seed)), folder / stage, parent)
        if runs.setdefault(run.out, run) != run:
            raise UserError(f"two corpora would share {run.out}, rename one of their files")
        return run

    for seed, line in itertools.product(range(1, seeds + 1), FIGURES[target]):
        stages = [[tuple(names.get(word, word) for word in words) for words in expand(part)]
                  for part in Template(line).safe_substitute(SETTINGS[preset]).split("|")]
        for words in stages[0]:
            folder = root / f"{folder_name(words)}-seed{seed}"
            first = add("pretrain", ("--preset", preset, "--pre", corpora[0], *words), None, folder, seed)
            for words in stages[1]:
                second = add("posttrain", words, first, folder / folder_name(words), seed)
                for words in stages[2]:
                    add("finetune", words, second, second.out.parent / folder_name(words), seed)
    return list(runs.values())


def with_further_seeds(runs: list[Run], target: str, preset: str, corpora: tuple[str, ...], root: Path) -> list[Run]:
    """A plan's runs, and those of every further seed that is finished: a figure never loses seeds."""
    there = [folder.name.rpartition("-seed")[2] for folder in root.glob("*-seed*")]
    more = plan(target, preset, corpora, max((int(seed) for seed in there if seed.isdecimal()), default=0), root)
    unfinished = {run.flags[-1] for run in more if not run.finished()}
    return runs + [run for run in more if run not in runs and run.flags[-1] not in unfinished]


# ---------------------------------------------------------------------------------------------------------------------
# Cost

def new_model(preset: str) -> GPT:
    """The preset's model, for the vocabulary of its tokenizer: bytes or gpt2."""
    return GPT(configure(preset, 256 if preset == "toy" else 50_257))


def tokens_per_second(preset: str, threads: int) -> float:
    """Of training steps of the preset's model here and now, eager, on one device or so many CPU threads."""
    torch.set_num_threads(threads)
    device, dtype = pick_device(None, None)
    model = new_model(preset).to(device)
    optimizer = adamw(model, 1e-4, 0.1)
    sequences = 32 if preset == "toy" else 8 if device.type == "cuda" else 1
    tokens = torch.randint(256, (sequences, model.config.context + 1), device=device)
    seconds = []
    for _ in range(4 if device.type == "cpu" and preset != "toy" else 12):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(tokens[:, :-1], tokens[:, 1:]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()                                      # waits for the device
        seconds.append(time.perf_counter() - started)
    return sequences * model.config.context / sorted(seconds)[len(seconds) // 2]


def checkpoint_bytes(preset: str) -> int:
    """Of a ckpt.pt: the weights in float32."""
    with torch.device("meta"):
        return sum(4 * parameter.numel() for parameter in new_model(preset).parameters())


def duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 2 else f"{max(1, round(60 * hours))} min"


def cost(target: str, preset: str, runs: list[Run], jobs: int, processes: int) -> str:
    """A line that says what there is to do, and how long that takes if every stage uses all its tokens."""
    start_up = time.process_time()                       # what every run spends before its first step: as this one did
    left = [run for run in runs if not run.finished()]
    line = f"{target}: {len(runs)} runs, {len(runs) - len(left)} of them finished"
    if not left:
        return line
    tokens, speed = sum(run.tokens() for run in left), processes * tokens_per_second(preset, threads(jobs * processes))
    if not torch.cuda.device_count():
        speed *= min(1, cores() / (jobs * processes))
    seconds = (tokens / speed + start_up * len(left)) / jobs
    amount = f"{tokens / 1e9:,.1f}B" if tokens >= 1e9 else f"{tokens / 1e6:.1f}M"
    megabytes = len(left) * checkpoint_bytes(preset) / 1e6
    disk = f"{megabytes / 1e3:,.0f} GB" if megabytes >= 1e4 else f"{megabytes:,.0f} MB"
    return f"{line}; {amount} tokens to go, at {jobs} × {speed:,.0f} tokens/s about {duration(seconds)}; {disk} to keep"


# ---------------------------------------------------------------------------------------------------------------------
# Running

def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(at_once: int) -> int:
    """A process's share of the cores."""
    return max(1, cores() // at_once)


def environment(slot: int, jobs: int, processes: int) -> dict[str, str]:
    """Each of the jobs has its share of the cores and, where there are several, of the GPUs."""
    share = {"OMP_NUM_THREADS": str(threads(jobs * processes))} | os.environ
    if jobs > 1 and (gpus := torch.cuda.device_count()):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        share["CUDA_VISIBLE_DEVICES"] = ",".join(visible[(slot * processes + k) % gpus] for k in range(processes))
    return share


def last_lines(log: Path) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-5:])


def execute(runs: list[Run], jobs: int, processes: int) -> dict[Run, str]:
    """Run what is not finished, `jobs` at a time, each after its parent; returns the failed runs and their last lines.

    A run that another process is at is left to it. However this function ends, so do the runs it started, saving first.
    """
    missing = [run for run in runs if not run.finished()]
    waiting, done, started = list(missing), 0.0, time.monotonic()
    if missing:
        print(f"{jobs} at once; what they print is in a .log beside the folder of each, {missing[0].log()}", flush=True)
    running, failed, not_before = {}, {}, {}
    stop = []                                            # signals, heeded when no run is just being started
    handlers = {number: signal.signal(number, lambda number, frame: stop.append(number))
                for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while waiting or running:
            if stop:
                print("stopping; what runs saves first, and the same command continues it", flush=True)
                sys.exit(128 + stop[0])
            for slot, (run, process) in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                del running[slot]
                if status and run.taken():
                    not_before[run] = time.monotonic() + RETRY
                    waiting.append(run)
                    continue
                if status:
                    failed[run] = last_lines(run.log())
                else:
                    done += run.tokens()
                waiting = [run for run in waiting if not run.finished() and not failed.keys() & set(run.ancestors())]
                left = waiting + [run for run, _ in running.values()]
                seconds = (time.monotonic() - started) * sum(run.tokens() for run in left) / max(done, 1)
                count = f"{sum(run.finished() for run in missing)}/{len(missing)}"
                print(f"{count} {run.out}: {'FAILED' if status else run.result()}"
                      + (f"; {duration(seconds)} left" if left and done else ""), flush=True)
            waiting = [run for run in waiting if not run.finished()]
            now = time.monotonic()
            ready = [run for run in waiting
                     if now >= not_before.get(run, 0) and (not run.parent or run.parent.finished())]
            for slot, run in zip((slot for slot in range(jobs) if slot not in running), ready):
                if run.taken():
                    if run not in not_before and not run.finished():
                        print(f"{run.out}: another process is at it", flush=True)
                    not_before[run] = now + RETRY
                    continue
                waiting.remove(run)
                run.out.parent.mkdir(parents=True, exist_ok=True)
                with open(run.log(), "a") as log:
                    running[slot] = run, subprocess.Popen(run.command(processes, sys.executable), stdout=log,
                                                          stderr=log, env=environment(slot, jobs, processes))
            time.sleep(0.2)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    return failed


def prepare_corpora(corpora: tuple[str, ...], preset: str) -> None:
    """Tokenize those that need no download: once, and what is wrong with one is said before anything trains."""
    if here := [corpus for corpus in corpora if not hub_corpus(corpus)]:
        tokenizer = load_tokenizer(pretrain.DEFAULTS["tokenizer"][list(PRESETS).index(preset)].rstrip("*"))
        for corpus in here:
            open_corpus(corpus, tokenizer).held_out_sequences(1)


def draw(target: str, runs: list[Run], root: Path) -> bool:
    """evaluate.py's figure of a target's runs, of those that are there; returns whether it could be drawn."""
    wanted = [run for run in runs if run.stage == "finetune"]
    there = [str(run.out) for run in wanted if run.finished()]
    print(f"\n{target}: {len(there)} of {len(wanted)} runs", flush=True)
    if not there:
        return False
    script = Path(__file__).parent / "evaluate.py"
    command = [sys.executable, script, "--figure", target, *there, "--out", root / "figures" / f"{target}.png"]
    return subprocess.run(command).returncode == 0


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("target", choices=("all", *sorted(FIGURES)), help="figure of the paper")
    parser.add_argument("--preset", choices=PRESETS, default="toy", help="grid and model [toy]")
    parser.add_argument("--corpora", nargs=4, metavar=("PRE", "MUSIC", "CHEM", "CHAT"),
                        help="your own in place of web music chem chat, or c4 musicpile chempile flan")
    parser.flag("seeds", positive, "everything N times, with seeds 1 to N [1]", metavar="N", default=1)
    parser.flag("jobs", positive, "runs at once [one a GPU, or one a CPU core]", metavar="N")
    parser.flag("nproc-per-node", positive, "processes a run, by torchrun, a GPU each [1]", metavar="N", default=1)
    parser.flag("out", Path, "folder of all runs and figures [out/PRESET, and -PRE with --corpora]", metavar="DIR")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", nargs="?", const="all", choices=("all", *STAGES), metavar="STAGE",
                      help="only print the commands: of a stage, which can all run at once, or stage by stage")
    only.add_argument("--cost", action="store_true", help="only print the cost")
    args = parser.parse_args()
    root = args.out or Path("out", args.preset + (f"-{stem(args.corpora[0])}" if args.corpora else ""))
    corpora = tuple(args.corpora or CORPORA[args.preset])
    if len(set(corpora)) < len(corpora):
        raise UserError("two of the --corpora are the same, give four different ones")
    for corpus in corpora:
        if corpus not in NAMES and not hub_corpus(corpus):
            local_files(corpus)                          # now, not when its turn comes
    targets = sorted(FIGURES) if args.target == "all" else [args.target]
    plans = {target: plan(target, args.preset, corpora, args.seeds, root) for target in targets}
    runs = list({run.out: run for of_target in plans.values() for run in of_target}.values())
    for run in runs:
        if run.finished():
            run.require_same()
    processes = args.nproc_per_node
    widest = max(Counter(run.stage for run in runs).values())
    jobs = min(widest, args.jobs or max(1, (torch.cuda.device_count() or cores()) // processes))

    if args.list:
        for stage in STAGES if args.list == "all" else [args.list]:
            if args.list == "all":
                print(f"# {stage}")
            for run in runs:
                if run.stage == stage:
                    print(shlex.join(run.command(processes)))
        return

    print(cost(args.target, args.preset, runs, jobs, processes), flush=True)
    if args.cost:
        return
    make_folder(root)
    if not all(run.finished() for run in runs):
        prepare_corpora(corpora, args.preset)
    failed = execute(runs, jobs, processes)
    drawn = [draw(target, with_further_seeds(of_target, target, args.preset, corpora, root), root)
             for target, of_target in plans.items()]
    for run, lines in failed.items():
        print(f"\nFAILED {shlex.join(run.command(processes))}\n{lines}", file=sys.stderr)
    if failed:
        missing = sum(not run.finished() for run in runs)
        raise UserError(f"{len(failed)} runs failed, {missing} are missing, mend the cause and run this again")
    if not all(drawn):
        sys.exit(2)


if __name__ == "__main__":
    launch(main)
