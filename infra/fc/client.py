"""The Function Compute control plane, as few calls as the commands need.

The only file that imports the Alibaba Cloud SDK, and it does so on first use: `--help`, `plan` and
`smoke URL` must not pay its 1.5 s import nor ask for credentials.

Three things the SDK leaves to its caller are settled here once:
- retries: its default is a single attempt. A refused call (429) is repeated for every method, a failed one
  (5xx, no answer) only where repeating cannot do the work twice. Delays are bounded and jittered.
- time-outs: its default read time-out of 10 s cuts off every invocation of this service.
- errors: a failure arrives as several exception types, the interesting part inside; here it is `Refused`.

SDK models are passed on as they are; they carry no types, hence `Any`.
"""

from __future__ import annotations

import logging
import random
import time
from functools import partialmethod
from typing import Any
from urllib.parse import urlsplit

from infra.errors import InfraError, Refused

ATTEMPTS = 6
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0  # 0.5+1+2+4+8: a throttled call gives up after about 15 s
CONTROL_READ_TIMEOUT_S = 60  # as the fc3 component's own client (FC_CLIENT_READ_TIMEOUT)
LATEST = "LATEST"
LIVE = "live"  # the alias that callers reach; the default of s.yaml as well
LOOPBACK = {"127.0.0.1", "localhost", "::1"}

NO_ANSWER = "NoAnswer"
NO_CREDENTIALS = "NoCredentials"
# FC answers over-quota and rate limits with these codes, not always with status 429.
THROTTLES = {"ResourceThrottled", "Throttling", "Throttling.User", "Throttling.Api", "TooManyRequests"}
_NO_CARD = "the account's T4 quota or the region's stock is used up; raise it in Quota Center"
HINTS = {
    "FunctionNotFound": "check --function and --region, or deploy first",
    "AccessDenied": "the RAM policy of these credentials lacks this action",
    "SignatureDoesNotMatch": "the AccessKey secret does not fit the AccessKey id",
    "InvalidAccessKeyId": "the AccessKey does not exist, or its STS token is missing or expired",
    "DomainNameNotResolved": "set the CNAME at the domain's DNS first, and give it some minutes",
    "InvalidICPLicense": "in mainland China a domain needs an ICP filing with Alibaba Cloud",
    "InvalidSecurityToken.Expired": "the STS token is over; fetch new credentials",
    "ResourceExhausted": _NO_CARD,
    "ResourceThrottled": _NO_CARD,
    NO_CREDENTIALS: "set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET "
    "(and ALIBABA_CLOUD_SECURITY_TOKEN for STS), or run `aliyun configure`",
    NO_ANSWER: "check the network and --region",
}


def address(region: str, endpoint: str | None) -> tuple[str, str]:
    """(host, protocol). Plain HTTP would show an STS token to the network, so only loopback may have it."""
    if not endpoint:
        # Always named: the SDK's own map holds a stray tab for one region.
        return f"fcv3.{region}.aliyuncs.com", "HTTPS"
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise InfraError(f"endpoint {endpoint} is plain http; use https:// (http is for loopback only)")
    if not parts.netloc or parts.path.strip("/"):
        raise InfraError(f"endpoint {endpoint} is not a host; write it like fcv3.{region}.aliyuncs.com")
    return parts.netloc, parts.scheme.upper()


class FunctionCompute:
    """One account and region. `credential` is for tests; None means Alibaba's default chain, STS included."""

    def __init__(self, region: str, endpoint: str | None = None, *, credential: Any = None) -> None:
        from alibabacloud_credentials.client import Client as Credentials  # type: ignore[import-untyped]
        from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]
        from alibabacloud_fc20230330.client import Client  # type: ignore[import-untyped]
        from alibabacloud_tea_openapi.models import Config  # type: ignore[import-untyped]

        # It logs every provider's failure with a traceback; the exception that follows says the same in one sentence.
        logging.getLogger("credentials").setLevel(logging.CRITICAL)
        host, protocol = address(region, endpoint)
        self.models = models
        where = {"region_id": region, "endpoint": host, "protocol": protocol}
        self._client = Client(Config(credential=credential or Credentials(), user_agent="chatbot-llm-infra", **where))

    def get_function(self, name: str, qualifier: str = LATEST) -> Any:
        return self._call("get_function", name, qualifier=qualifier).body

    def exists(self, name: str) -> bool:
        try:
            return self.get_function(name) is not None
        except Refused as refused:
            if refused.code != "FunctionNotFound":
                raise
            return False

    def triggers(self, name: str) -> list[Any]:
        return list(self._call("list_triggers", name, limit=100).body.triggers or [])

    def instances(self, name: str, qualifier: str) -> list[Any]:
        """Instances that live now. A min instance is bound to its alias: by version it is not listed."""
        listed = self._call("list_instances", name, qualifier=qualifier, limit="1000", with_all_active=True)
        return list(listed.body.instances or [])

    def get_provision(self, name: str, qualifier: str) -> Any | None:
        """Of LATEST or an alias, never a version. None when it has no min instances configured."""
        return self._or_none("get_provision_config", name, qualifier=qualifier)

    def put_provision(self, name: str, qualifier: str, config: Any) -> None:
        self._call("put_provision_config", name, qualifier=qualifier, body=config)

    def delete_provision(self, name: str, qualifier: str) -> None:
        self._or_none("delete_provision_config", name, qualifier=qualifier)

    def publish(self, name: str, description: str) -> str:
        body = self.models.PublishVersionInput(description=description)
        return str(self._call("publish_function_version", name, repeatable=False, body=body).body.version_id)

    def aliases(self, name: str) -> list[Any]:
        return list(self._call("list_aliases", name, limit=100).body.aliases or [])

    def point_alias(
        self, name: str, alias: str, version: str, *, description: str | None = None, weights: Any = None
    ) -> None:
        """Creates the alias or moves it; a canary weight that is not named again is taken away."""
        fields = {"version_id": version, "description": description, "additional_version_weight": weights or {}}
        if self.get_alias(name, alias) is None:
            body = self.models.CreateAliasInput(alias_name=alias, **fields)
            self._call("create_alias", name, repeatable=False, body=body)
        else:
            self._call("update_alias", name, alias, body=self.models.UpdateAliasInput(**fields))

    def versions(self, name: str) -> list[str]:
        """Every published version, newest first."""
        found, token = list[str](), None
        while True:
            body = self._call("list_function_versions", name, limit=100, next_token=token).body
            found += [version.version_id for version in body.versions or []]
            if not (token := body.next_token):
                return found

    def put_domain(self, domain: str, fields: dict[str, Any], *, update: bool) -> None:
        if update:
            self._call("update_custom_domain", domain, body=self.models.UpdateCustomDomainInput(**fields))
        else:
            body = self.models.CreateCustomDomainInput(domain_name=domain, **fields)
            self._call("create_custom_domain", repeatable=False, body=body)

    def invoke(self, name: str, payload: bytes, qualifier: str, read_timeout_s: float) -> tuple[bytes, str]:
        """(body, error type). A failed function call is an HTTP 200 too; only the error type tells them apart."""
        headers = self.models.InvokeFunctionHeaders(x_fc_invocation_type="Sync", x_fc_log_type="None")
        how: dict[str, Any] = {"repeatable": False, "headers": headers, "read_timeout_s": read_timeout_s}
        answer = self._call("invoke_function", name, qualifier=qualifier, body=payload, **how)
        return answer.body.read(), (answer.headers or {}).get("x-fc-error-type", "")

    def _or_none(self, method: str, *path: str, **fields: Any) -> Any | None:
        """The answer's body, where the method has one."""
        try:
            return getattr(self._call(method, *path, **fields), "body", None)
        except Refused as refused:
            # A missing function is an error; a missing alias or provision config is an answer.
            if refused.status == 404 and refused.code != "FunctionNotFound":
                return None
            raise

    def _call(
        self,
        method: str,
        *path: str,
        repeatable: bool = True,
        headers: Any = None,
        read_timeout_s: float = CONTROL_READ_TIMEOUT_S,
        **fields: Any,
    ) -> Any:
        """The SDK's answer. `path` names what it is about, `fields` are those of the method's request."""
        from darabonba.runtime import RuntimeOptions  # type: ignore[import-untyped]
        from Tea.exceptions import TeaException  # type: ignore[import-untyped]

        runtime = RuntimeOptions(connect_timeout=10_000, read_timeout=int(read_timeout_s * 1000))  # ms
        send = getattr(self._client, f"{method}_with_options")
        made = [getattr(self.models, f"{method.title().replace('_', '')}Request")(**fields)] if fields else []
        attempt = 0
        while True:
            attempt += 1
            try:
                return send(*path, *made, headers or {}, runtime)
            except TeaException as error:
                refused = describe(method, error)
                throttled = refused.status == 429 or refused.code in THROTTLES
                failed = refused.status >= 500 or refused.code == NO_ANSWER
                if attempt == ATTEMPTS or not (throttled or (failed and repeatable)):
                    raise refused from error
                time.sleep(delay(attempt, getattr(error, "retry_after", None)))

    # By the function's name and its own, or by the domain's.
    delete_function = partialmethod(_call, "delete_function")
    delete_trigger = partialmethod(_or_none, "delete_trigger")
    delete_version = partialmethod(_or_none, "delete_function_version")
    get_alias = partialmethod(_or_none, "get_alias")
    delete_alias = partialmethod(_or_none, "delete_alias")
    get_domain = partialmethod(_or_none, "get_custom_domain")
    delete_domain = partialmethod(_or_none, "delete_custom_domain")


def delay(attempt: int, retry_after_ms: int | None) -> float:
    """Seconds before the next attempt: the service's own wish, else doubling, with jitter, bounded."""
    if retry_after_ms:
        return min(retry_after_ms / 1000, LONGEST_DELAY_S)
    return min(FIRST_DELAY_S * 2.0 ** (attempt - 1), LONGEST_DELAY_S) * random.uniform(0.5, 1)


def describe(method: str, error: Any) -> Refused:
    """The SDK's exception as one sentence; the request it carries holds credentials and is never shown."""
    inner = getattr(error, "inner_exception", error)
    status = int(getattr(inner, "status_code", None) or 0)
    code = str(getattr(inner, "code", None) or "")
    message = str(getattr(inner, "message", None) or inner)
    if not status:
        code = NO_CREDENTIALS if type(inner).__name__ == "CredentialException" else NO_ANSWER
    return Refused(f"{method}: {code or status}: {message}", HINTS.get(code, ""), code=code, status=status)
