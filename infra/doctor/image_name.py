"""Whether an image reference is one that Function Compute can keep serving: immutable, and of its own region.

FC records tag and digest when it takes an image; a tag whose content changes later makes every call fail
until the next deployment (FC docs, custom images; function states).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from infra.doctor.finding import Finding, error, warning
from infra.doctor.props import Props, get

PATH = "customContainerConfig.image"
# A tag that no one moves: git describe on a release (v1.2.3, v1.2.3-4-gabc1234), or a bare commit.
IMMUTABLE_TAG = re.compile(r"v?\d+\.\d+\.\d+([-+.]\w[\w.+-]*)?|[0-9a-f]{7,40}")


def image(props: Props) -> Iterator[Finding]:
    reference = str(get(props, PATH, ""))
    name, _, digest = reference.partition("@")
    host, _, rest = name.partition("/")
    tag = rest.rpartition(":")[2] if ":" in rest else ""
    if not host.partition(":")[0]:
        yield error(PATH, f"is {reference!r}, without a repository: export DEPLOY_REPOSITORY=<host>/<namespace>/<name>")
        return
    immutable = IMMUTABLE_TAG.fullmatch(tag) and not tag.endswith("dirty")
    if not (immutable or re.fullmatch(r"sha256:[0-9a-f]{64}", digest)):
        yield error(
            PATH,
            f"tag {tag!r} can move or name unsaved work, and FC fails calls when a tag's content changes: "
            "push one that `git describe` made, e.g. v1.2.3",
        )
    if not host.endswith(".aliyuncs.com"):
        yield warning(
            PATH, f"host {host!r} is not Alibaba's registry: FC documents only ACR of the same account and region"
        )
    elif str(get(props, "region")) not in host.split("."):
        yield error(PATH, f"host {host!r} is not in {get(props, 'region')}: FC pulls from a registry of its own region")
