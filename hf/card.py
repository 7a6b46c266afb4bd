"""The README.md of an exported model: what it was trained on, stage by stage, and what that came to."""

from data.corpora import loss_was_on
from run.losses import Loss

SETTINGS = ("weights", "lr", "batch", "replay", "dropout", "lora", "seed")     # shown where they are not 0
COLUMNS = ("stage", "steps", "tokens", "settings", "held-out losses, nats a token")


def model_card(name: str, lineage: list[dict], context: int, parameters: int) -> str:
    """Write a model card in Markdown, with the metadata that Hugging Face's hub reads."""
    corpora = {}
    for entry in lineage:
        corpora |= {role: record["source"] for role, record in entry["corpora"].items()}
    stages_so_far = (lineage[:number + 1] for number in range(len(lineage)))
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(stage_row, stages_so_far)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    texts = "\n".join(f"* D_{role}: `{source}`" for role, source in corpora.items())
    stages = ", ".join(entry["stage"] for entry in lineage)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A Llama of {parameters:,} parameters after these stages of *Early Data Exposure Improves Robustness to
Subsequent Fine-Tuning* ([arXiv:2605.12705](https://arxiv.org/abs/2605.12705)): {stages}.

{table}

{texts}

Losses are mean next-token cross-entropies on held-out documents, in nats, with their standard errors over
windows of {context:,} tokens. A document begins after `<|endoftext|>`. Which licence the weights may have
depends on the texts.
"""


def stage_row(lineage: list[dict]) -> list[str]:
    """Describe the last stage of a lineage in the COLUMNS of the table."""
    entry = lineage[-1]
    tokens = [f"{count:,} of D_{role}" for role, count in entry["tokens"].items() if count]
    settings = [f"{name} {entry['args'][name]}" for name in SETTINGS if entry["args"].get(name)]
    if entry.get("lam"):
        settings.append(f"λ {entry['lam']:.3g}")
    losses = []
    for name, loss in entry["losses"].items():
        of_completions = loss_was_on(lineage, loss.get("corpus")) == "completion"
        losses.append(f"{name} {Loss(**loss)}" + (" of completions" if of_completions else ""))
    return [entry["stage"], f"{entry['steps']:,}", " + ".join(tokens) or "none", ", ".join(settings),
            ", ".join(losses)]
