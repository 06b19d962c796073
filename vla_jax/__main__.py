"""python -m vla_jax COMMAND: one file of `vla_jax/commands` each. Exit codes: 0 done, 2 bad input, 1 failure."""

import argparse
import importlib
import pkgutil
import signal
import sys

from flax import nnx

from vla_jax import commands
from vla_jax.types import InputError


def main(arguments: list[str] | None = None) -> int:
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    parser = argparse.ArgumentParser(prog="python -m vla_jax", description=__doc__, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    found = {}
    for info in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{info.name}")
        module.add_arguments(subparsers.add_parser(info.name, help=module.HELP, description=module.__doc__))
        found[info.name] = module
    options, rest = parser.parse_known_args(arguments)
    if rest and "overrides" not in options:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest
    try:
        return found[options.command].run(options)
    except InputError as error:
        print(f"python -m vla_jax {options.command}: {error}", file=sys.stderr)
        return 2


def stop_by_exit() -> None:
    """SIGTERM and Ctrl-C raise SystemExit: half-written folders are removed, and nothing is said."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda found, _: sys.exit(128 + found))


if __name__ == "__main__":
    stop_by_exit()
    sys.exit(main())
