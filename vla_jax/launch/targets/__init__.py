"""One file a target of `python -m vla_jax launch`, found by its name; its class `Target` renders the launch file."""
