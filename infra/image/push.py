"""Push the image under a tag that never moves: `make push`, with DEPLOY_REPOSITORY in the environment.

The tag is `git describe`. Function Compute notes the digest behind a tag when it deploys, so a tag that moves breaks
the running function until it is deployed again. Hence: no tag for uncommitted work, and one that exists is never
overwritten. Holds it this very commit, a run that failed later can simply be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence

from infra.errors import CheckFailed, Refused, WrongUsage
from infra.image import size
from infra.image.target import output, shown

REPOSITORY = "<registry, as ACR shows it>/<namespace>/chatbot-llm"
COMMIT_LABEL = "org.opencontainers.image.revision"
#: What registries say about a tag that is not there (Docker's own client; Registry API `MANIFEST_UNKNOWN`).
ABSENT = ("no such manifest", "manifest unknown", "not found: manifest")


def arguments(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("DEPLOY_REPOSITORY")
    parser.add_argument("repository", nargs="?", default=default, help=f"{REPOSITORY} (default: DEPLOY_REPOSITORY)")
    parser.add_argument(
        "--by", nargs=argparse.REMAINDER, help="the build that pushes it instead of `docker push`; --tag is added"
    )


def tag() -> str:
    """`git describe` of a clean checkout. Raises CheckFailed."""
    described = output("git", "describe", "--tags", "--always", "--dirty", "--abbrev=12")
    name = described.stdout.strip()
    if described.returncode != 0:
        raise CheckFailed(f"no tag without git: {described.stderr.strip()}")
    if name.endswith("-dirty"):
        raise CheckFailed("the checkout has uncommitted changes, so its tag would not say what is in it: commit first")
    return name


def published(reference: str) -> bool:
    """Whether the registry has something under this tag. Raises Refused if it will not say."""
    looked = output("docker", "manifest", "inspect", reference)
    answer = (looked.stderr + looked.stdout).strip()
    if looked.returncode == 0 or any(word in answer.lower() for word in ABSENT):
        return looked.returncode == 0
    raise Refused(
        f"cannot tell whether {reference} exists, and will not risk overwriting it: {answer}. "
        f"`docker login {reference.split('/', 1)[0]}`, and check that the repository exists"
    )


def is_this_commit(reference: str) -> bool:
    """Whether the image behind the reference was built from the commit that is checked out, by its label."""
    labels = output("docker", "buildx", "imagetools", "inspect", reference, "--format", "{{json .Image.Config.Labels}}")
    commit = output("git", "rev-parse", "HEAD").stdout.strip()
    return labels.returncode == 0 and bool(commit) and (json.loads(labels.stdout) or {}).get(COMMIT_LABEL) == commit


def push(reference: str, local: str, by: Sequence[str] | None) -> None:
    """Push, unless it is there already. Raises CheckFailed, Refused."""
    if published(reference):
        if not is_this_commit(reference):
            moved = "was built from another commit, and tags do not move: commit, build again"
            raise CheckFailed(f"{reference} exists, {moved}")
        print(f"{reference} is there already, and is this commit")
        return
    inspected = output("docker", "image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", local)
    if inspected.returncode != 0:
        raise CheckFailed(f"there is no image {local} here: `make image` builds it")
    if (platform := inspected.stdout.strip()) != "linux/amd64":
        raise CheckFailed(f"{local} is for {platform}; Function Compute takes linux/amd64: `make image`")
    print(f"{local}: {size.check(local)}", flush=True)
    pushing = (
        [[*by, "--tag", reference]] if by else [["docker", "tag", local, reference], ["docker", "push", reference]]
    )
    for command in pushing:
        shown(*command, failure=Refused)


def run(args: argparse.Namespace) -> None:
    if not args.repository:
        raise WrongUsage(f"where to? export DEPLOY_REPOSITORY={REPOSITORY}")
    name = tag()
    push(f"{args.repository}:{name}", f"chatbot-llm:{name}", args.by)
    print(f"DEPLOY_IMAGE={args.repository}:{name}")
