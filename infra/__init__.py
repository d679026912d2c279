"""What an operator runs on their own machine against Function Compute: `python -m infra COMMAND`.

Nothing here is imported by the service. The rooms, and arrows point down only:

    __main__   the command line: finds the command's module, turns failures into exit codes
    commands/  one file a command
    doctor/    what is wrong with a deployment and can be seen before it
    image/     what builds, checks, pushes and tries the GPU image
    fc/        Function Compute: its API, quotas, prices, how it scales, and `s`, which deploys to it
    errors     every way a command can fail, with its exit code
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
