"""python -m data_pipelines COMMAND: one file of `data_pipelines/commands` each.

Exit codes: 0 done, 2 bad input, 3 findings (verify), 1 failure.
"""

import argparse
import importlib
import pkgutil
import sys

from data_pipelines import commands
from vla_jax.types import InputError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines", description="Prepare and inspect RLDS datasets.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    arguments = sys.argv[1:] if arguments is None else arguments
    names = [info.name for info in pkgutil.iter_modules(commands.__path__)]
    found = {}
    for name in arguments[:1] if set(arguments[:1]) & set(names) else names:  # what others import takes time
        module = importlib.import_module(f"{commands.__name__}.{name}")
        module.add_arguments(subparsers.add_parser(name, help=module.HELP, description=module.__doc__))
        found[name] = module
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = parser.parse_known_args(arguments[:end])
    if rest and "overrides" not in options:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if end < len(arguments) and "further" not in options:
        parser.error(f"unrecognized arguments: {' '.join(arguments[end:])}")
    options.overrides, options.further = rest, arguments[end + 1 :]
    try:
        return found[options.command].run(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
