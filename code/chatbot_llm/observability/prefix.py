"""What the request log says of a prompt's beginning: hashes that show which prompts begin alike, and nothing else.

As vLLM's prefix cache does it: tokens go in blocks, a block's hash is over its tokens and the hash before it, so two
prompts with the same first n hashes have the same first n blocks. The salt is the deployment's own: instances of one
deployment agree, and who has only the log cannot try texts out.
"""

import array
import hashlib
import os
from collections.abc import Sequence

#: Tokens of a block: a multiple of vLLM's 16, so that a beginning that its cache can share is seen to within 63 tokens.
BLOCK = 64
#: Blocks of one prompt at most: 2,048 tokens, 287 characters, a hundredth of a log line (FC cuts at 32 KB).
MOST = 32
#: Bytes of a hash: among a million different blocks about a hundred pairs are alike by chance.
SIZE = 4


def salt(keys: Sequence[bytes]) -> bytes:
    """One salt for all instances with the same keys (their digests). Without any, a random one of this process."""
    return hashlib.blake2b(b"".join(keys) or os.urandom(32), digest_size=32, person=b"prompt_blocks").digest()


def blocks(tokens: Sequence[int], salt: bytes) -> str:
    """Hashes in hex, joined by dots, of the whole blocks that `tokens` (ids of the whole prompt) begin with."""
    hashes: list[str] = []
    before = b""
    for start in range(0, min(len(tokens), BLOCK * MOST) - BLOCK + 1, BLOCK):
        block = array.array("q", tokens[start : start + BLOCK]).tobytes()
        before = hashlib.blake2b(before + block, digest_size=SIZE, key=salt).digest()
        hashes.append(before.hex())
    return ".".join(hashes)
