"""What an operator runs against Function Compute: `python -m infra <command>`.

Nothing here is part of the image, and nothing here is imported by the service. The rooms:

    __main__   the command line: arguments in, exit code out, nothing else
    errors     every way a command can fail, with its exit code
    fc         the control plane, and the only file that imports the Alibaba Cloud SDK
    screen     how progress and tables reach a terminal or a CI log
    ready      wait-ready    smoke    smoke        scale    scale
    release    release       cost     cost         status   status
"""
