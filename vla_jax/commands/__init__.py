"""The sub-commands of `python -m vla_jax`: each file is one, with HELP, add_arguments(parser) and run(options)."""
