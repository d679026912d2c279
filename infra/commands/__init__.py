"""One file a command: `arguments(parser)` says what it takes, `run(args)` does it.

A command prints its result, raises an InfraError when it must not be called a success, and is imported only when it
is the one that was asked for.
"""
