"""Checks ACS3-HMAC-SHA256 signatures as Alibaba Cloud describes them, independently of the SDK."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import parse_qsl, quote, urlsplit

ALGORITHM = "ACS3-HMAC-SHA256"


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def signature(
    secret: str, method: str, path: str, query: str, headers: dict[str, str], signed: str, digest: str
) -> str:
    """The ACS3 signature of one request, from Alibaba's description of the algorithm."""
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    canonical_query = "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in pairs)
    canonical_headers = "".join(f"{name}:{headers[name].strip()}\n" for name in signed.split(";"))
    canonical = "\n".join([method, path, canonical_query, canonical_headers, signed, digest])
    to_sign = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()


def authenticate(keys: tuple[str, str, str], method: str, target: str, headers: dict[str, str], body: bytes) -> None:
    key_id, secret, token = keys
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    parts = dict(item.partition("=")[::2] for item in rest.split(","))
    if scheme != ALGORITHM or parts.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise Refusal(400, "MissingAuthorization", "the request is not signed with ACS3-HMAC-SHA256")
    if parts["Credential"] != key_id:
        raise Refusal(403, "InvalidAccessKeyId", "the AccessKey id is not known")
    if token and headers.get("x-acs-security-token") != token:
        raise Refusal(403, "InvalidAccessKeyId", "the STS token is missing or not that of this AccessKey")
    names = parts["SignedHeaders"].split(";")
    must = {"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-version"}
    must |= {name for name in headers if name.startswith("x-acs-")}
    if names != sorted(names) or not must <= set(names):
        raise Refusal(400, "IncompleteSignature", f"not signed: {sorted(must - set(names))}")
    if headers["x-acs-content-sha256"] != hashlib.sha256(body).hexdigest():
        raise Refusal(400, "ContentSha256Mismatch", "the body is not the one that was signed")
    url = urlsplit(target)
    wanted = signature(
        secret,
        method,
        url.path,
        url.query,
        headers,
        parts["SignedHeaders"],
        headers["x-acs-content-sha256"],
    )
    if not hmac.compare_digest(wanted, parts["Signature"]):
        raise Refusal(403, "SignatureDoesNotMatch", "the signature is not the one computed here")
