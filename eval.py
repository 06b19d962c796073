"""Evaluates: python eval.py --checkpoint RUN [--step N] --open-loop DATASET_DIR [--split S] --out DIR

Open loop: the actions that the policy would take at every step of recorded episodes, against those recorded; writes
summary.json, errors.csv, errors.png and pictures of some episodes. Exit codes: 0 done, 2 bad input, 1 failure.
"""

import argparse
import logging
import sys
import traceback
from pathlib import Path

from flax import nnx

from vla_jax import accelerator
from vla_jax.evaluation import open_loop
from vla_jax.trained_policy import load_policy
from vla_jax.types import InputError


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    try:
        accelerator.choose_platform()
        options = parse(arguments)
        policy = load_policy(options.checkpoint, step=options.step, weights=options.weights)
        open_loop.evaluate(
            policy,
            options.open_loop,
            options.out,
            split=options.split,
            batch_size=options.batch_size,
            num_pictures=options.num_pictures,
        )
    except InputError as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run directory, or a parameter folder")
    parser.add_argument("--step", type=int, help="of the run; default: its newest checkpoint")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="ema: where the run keeps an average")
    parser.add_argument(
        "--open-loop", type=Path, required=True, metavar="DATASET_DIR", help="NAME/VERSION in TFDS layout"
    )
    parser.add_argument("--split", help="default: val, else test, else train")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-pictures", type=int, default=3, help="episodes that are drawn")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
