"""The Simple Log Service (SLS) of one project: signed requests, as few as `observe` needs.

Signed by hand: its own SDKs bring some thirty packages for four calls. Signature version 1 (API 0.6.0, HMAC-SHA1), as
aliyun-log-python-sdk 0.9 makes it; it is sent over TLS only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import requests

from infra.errors import Refused
from infra.fc.client import LOOPBACK, NO_ANSWER, address

HINTS = {
    "ProjectNotExist": "make it in the SLS console first, in this region, and export DEPLOY_LOG_PROJECT",
    "LogStoreNotExist": "make it in the SLS console first, and export DEPLOY_LOG_STORE",
    "Unauthorized": "the credential lacks infra/ram/observer.json",
    "SignatureNotMatch": "the AccessKey secret does not fit the AccessKey id",
    "RequestTimeExpired": "this machine's clock is wrong by more than 15 minutes",
}
#: These answer another question than "is it there?".
BASIC = {"ProjectNotExist", "LogStoreNotExist"}


class Sls:
    """`credential` is for tests; None means Alibaba's default chain, STS included."""

    def __init__(self, region: str, project: str, endpoint: str | None = None, *, credential: Any = None) -> None:
        from alibabacloud_credentials.client import Client as Credentials  # type: ignore[import-untyped]

        host, protocol = address(region, endpoint or f"{region}.log.aliyuncs.com")
        self.project = project
        self._base = f"{protocol.lower()}://{host if host.split(':')[0] in LOOPBACK else f'{project}.{host}'}"
        self._credential = credential or Credentials()

    def exists(self, path: str) -> Any | None:
        """What is there, or None."""
        try:
            return self.call("GET", path)
        except Refused as refused:
            if refused.code.endswith("NotExist") and refused.code not in BASIC:
                return None
            raise

    def put(self, collection: str, name: str, body: dict[str, Any]) -> str:
        """Create or replace; "made" or "renewed"."""
        if self.exists(f"{collection}/{name}") is None:
            self.call("POST", collection, body)
            return "made"
        self.call("PUT", f"{collection}/{name}", body)
        return "renewed"

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises Refused."""
        raw = b"" if body is None else json.dumps(body).encode()
        headers = self._headers(method, path, raw)
        try:
            reply = requests.request(method, self._base + path, data=raw, headers=headers, timeout=30)
        except requests.RequestException as error:
            text = f"SLS: no answer ({type(error).__name__}): check the network and --region"
            raise Refused(text, code=NO_ANSWER) from None
        answer = {}
        with suppress(ValueError):
            answer = reply.json()
        if reply.status_code >= 300:
            code = str(answer.get("errorCode") or reply.status_code)
            text = f"SLS {method} {path}: {code}: {answer.get('errorMessage') or reply.reason}"
            raise Refused(text, HINTS.get(code, ""), code=code, status=reply.status_code)
        return answer

    def _headers(self, method: str, path: str, raw: bytes) -> dict[str, str]:
        credential = self._credential.get_credential()
        headers = {
            "content-type": "application/json",
            "date": formatdate(usegmt=True),
            "x-log-apiversion": "0.6.0",
            "x-log-bodyrawsize": str(len(raw)),
            "x-log-signaturemethod": "hmac-sha1",
        }
        if raw:
            headers["content-md5"] = hashlib.md5(raw, usedforsecurity=False).hexdigest().upper()
        if token := credential.security_token:
            headers["x-acs-security-token"] = token
        own = sorted(name for name in headers if name.startswith(("x-log-", "x-acs-")))
        known = (headers.get(name, "") for name in ("content-md5", "content-type", "date"))
        signed = "\n".join([method, *known, *(f"{name}:{headers[name]}" for name in own), path])
        digest = hmac.new(credential.access_key_secret.encode(), signed.encode(), hashlib.sha1).digest()
        headers["authorization"] = f"LOG {credential.access_key_id}:{base64.b64encode(digest).decode()}"
        return headers
