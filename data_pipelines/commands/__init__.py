"""The sub-commands of `python -m data_pipelines`: each file is one, with HELP, add_arguments(parser) and
run(options), which gives the exit code.
"""
