"""Evaluates a run, in one of several ways. Exit codes: 0 done, 2 bad input, 1 failure.

    python eval.py --checkpoint RUN [--step N] --env tabletop:SUITE --trials N --seed S --out DIR
    python eval.py --checkpoint RUN [--step N] --open-loop DATASET_DIR [--split S] --out DIR
    python eval.py --checkpoint RUN [--step N] --attention-maps DATASET_DIR [--against RUN] [--split S] --out DIR
    python eval.py --checkpoint RUN [--step N] --probe-layers DATASET_DIR [--probe-steps N] [--split S] --out DIR

Closed loop: the policy drives simulated robots; writes trials.jsonl, summary.json and film strips. Open loop: the
actions that it would take at every step of recorded episodes, against those recorded; writes summary.json, errors.csv,
errors.png and pictures of some episodes. Attention maps: pictures of what each word looks at in some episodes' first
steps, by every view that the policy has (EF-VLA: X_attn and X_out of CLIP), of one run or of two. Layer probe: Grad-CAM
of the actions in each layer of the language model, and the error of the actions where a layer reads zeros in the place
of visual tokens; writes summary.json and pictures.
"""

import argparse
import logging
import sys
import traceback
from pathlib import Path
from typing import get_args

from flax import nnx

from vla_jax import accelerator
from vla_jax.evaluation import attention, closed_loop, layer_probe, open_loop
from vla_jax.inference.execution import ExecutionConfig, Mode
from vla_jax.nn.quantization import Mode as Int8Mode
from vla_jax.nn.quantization import QuantizationConfig
from vla_jax.trained_policy import TrainedPolicy, load_policy
from vla_jax.types import InputError


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    for chatty in ("absl", "OpenGL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    try:
        accelerator.choose_platform()
        options = parse(arguments)
        policy = load_policy(options.checkpoint, step=options.step, weights=options.weights)
        if options.untrained:
            policy = policy.untrained(options.seed)
        if options.int8:
            policy = policy.quantized(QuantizationConfig(mode=options.int8))
        evaluate(policy, options)
    except InputError as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def evaluate(policy: TrainedPolicy, options: argparse.Namespace) -> None:
    split, num_pictures = options.split, options.num_pictures
    if options.attention_maps:
        policies = {options.checkpoint.name: policy}
        if options.against:
            name = options.against.name
            policies[f"{name} (against)" if name in policies else name] = load_policy(options.against)
        attention.evaluate(policies, options.attention_maps, options.out, split=split, num_pictures=num_pictures)
    elif options.probe_layers:
        config = layer_probe.LayerProbeConfig(
            num_steps=options.probe_steps, batch_size=options.batch_size, num_pictures=num_pictures, seed=options.seed
        )
        layer_probe.evaluate(policy, options.probe_layers, options.out, config, split=split)
    elif options.open_loop:
        size = options.batch_size
        open_loop.evaluate(
            policy, options.open_loop, options.out, split=split, batch_size=size, num_pictures=num_pictures
        )
    else:
        closed_loop.evaluate(policy, closed_loop_config(options), options.out, num_strips=num_pictures)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run directory, or a parameter folder")
    parser.add_argument("--step", type=int, help="of the run; default: its newest checkpoint")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="ema: where the run keeps an average")
    parser.add_argument("--untrained", action="store_true", help="parameters as they were before training")
    parser.add_argument(
        "--int8", choices=get_args(Int8Mode), help="linear layers of blocks in int8; activations: dynamic"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--batch-size", type=int, default=32, help="steps, or robots, at a time")
    parser.add_argument("--num-pictures", type=int, default=3, help="episodes, or successes and failures, drawn")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--env", metavar="NAME:SUITE", help="closed loop, e.g. tabletop:reach")
    what.add_argument("--open-loop", type=Path, metavar="DATASET_DIR", help="open loop: NAME/VERSION")
    what.add_argument("--attention-maps", type=Path, metavar="DATASET_DIR", help="what words look at: NAME/VERSION")
    what.add_argument("--probe-layers", type=Path, metavar="DATASET_DIR", help="which layers see: NAME/VERSION")
    parser.add_argument("--probe-steps", type=int, default=64, help="layer probe: steps, spread over the split")
    parser.add_argument(
        "--against", type=Path, metavar="RUN", help="attention maps: a second run's, beside the first's"
    )
    parser.add_argument("--split", help="of a dataset; default: val, else test, else train")
    parser.add_argument("--trials", type=int, default=50, help="closed loop")
    parser.add_argument("--seed", type=int, default=0, help="closed loop: of the initial states")
    parser.add_argument(
        "--probe", choices=get_args(closed_loop.Probe), default="none", help="closed loop: what to withhold"
    )
    parser.add_argument("--execute-steps", type=int, default=8, help="closed loop: steps of a chunk that are used")
    parser.add_argument(
        "--execution", choices=get_args(Mode), default="ensemble", help="closed loop: how chunks become targets"
    )
    parser.add_argument("--jobs", type=int, default=2, help="closed loop: processes that simulate")
    return parser.parse_args(arguments)


def closed_loop_config(options: argparse.Namespace) -> closed_loop.ClosedLoopConfig:
    environment, separator, suite = options.env.partition(":")
    if not separator:
        raise InputError(f"--env {options.env}: NAME:SUITE expected, e.g. tabletop:reach")
    return closed_loop.ClosedLoopConfig(
        environment=environment,
        suite=suite,
        trials=options.trials,
        seed=options.seed,
        probe=options.probe,
        execution=ExecutionConfig(mode=options.execution, steps=options.execute_steps),
        batch_size=options.batch_size,
        jobs=options.jobs,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
