"""Write a finished run as a Hugging Face folder, for transformers and all that loads what it does.

    python -m hf out/posttrain out/hf/posttrain
"""

from pathlib import Path

from hf.folder import write_folder
from run.flags import Parser, launch
from run.report import say


def main():
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished stage")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to be made")
    args = parser.parse_args()
    write_folder(args.run, args.folder)
    say(f"{args.run} → {args.folder}: AutoModelForCausalLM.from_pretrained('{args.folder}') loads it")


if __name__ == "__main__":
    launch(main)
