"""A Function Compute control plane on loopback, strict where the real one is.

- Every request's ACS3-HMAC-SHA256 signature is computed again from the bytes on the wire; a wrong secret, a
  changed body or a missing STS token is refused as the service refuses it.
- Answers are the SDK's own models serialised by the SDK, so a field that does not exist cannot be answered.
- Provisioning takes polls, not seconds: `current` reaches the target after `ready_after` reads.
- `faults` holds what to answer next per action, for throttles, server errors and refusals.
- InvokeFunction is passed to `service` (a base URL) as POST /invoke with the headers FC sets; its status is
  dropped on the way back, as FC does.

Min instances: LATEST or an alias only; putting them on a version is refused.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import requests
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_account import State
from fake_acs3 import Refusal, authenticate
from serving import Serving

PREFIX = "/2023-03-30/functions/"
DOMAINS = "/2023-03-30/custom-domains"


class Control:
    """One method per API action used; each returns (status, SDK model or None)."""

    def __init__(self, state: State) -> None:
        self.state = state

    def function(self, name: str) -> Any:
        if name not in self.state.functions:
            raise Refusal(404, "FunctionNotFound", f"function '{name}' does not exist")
        return self.state.functions[name]

    def resolve(self, name: str, qualifier: str) -> str:
        """Qualifier -> version id; "0" is LATEST, as in InstanceInfo.versionId."""
        if qualifier in ("", "LATEST"):
            return "0"
        if (name, qualifier) in self.state.aliases:
            return str(self.state.aliases[name, qualifier].version_id)
        if any(version.version_id == qualifier for version in self.state.versions[name]):
            return qualifier
        missing = "VersionNotFound" if qualifier.isdigit() else "AliasNotFound"
        raise Refusal(404, missing, f"'{qualifier}' of function '{name}' does not exist")

    def GetFunction(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        function = self.function(name)
        version = self.resolve(name, qualifier)
        shown = models.Function().from_map(function.to_map())
        if version != "0":  # a version is never updated
            shown.state, shown.last_update_status = "Active", "Successful"
        if self.state.states_ahead:
            shown.state, shown.last_update_status, shown.last_update_status_reason = self.state.states_ahead.pop(0)
        return 200, shown

    def PublishFunctionVersion(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        published = self.state.versions[name]
        version = models.Version(
            version_id=str(len(published) + 1), description=json.loads(body or b"{}").get("description", "")
        )
        published.append(version)
        return 201, version

    def ListAliases(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        found = [alias for (owner, _), alias in self.state.aliases.items() if owner == name]
        return 200, models.ListAliasesOutput(aliases=found)

    def GetAlias(self, name: str, alias: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        if (name, alias) not in self.state.aliases:
            raise Refusal(404, "AliasNotFound", f"alias '{alias}' does not exist")
        return 200, self.state.aliases[name, alias]

    def CreateAlias(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        alias = models.Alias().from_map(models.CreateAliasInput().from_map(json.loads(body)).to_map())
        if (name, alias.alias_name) in self.state.aliases:
            raise Refusal(409, "AliasAlreadyExists", f"alias '{alias.alias_name}' already exists")
        self.resolve(name, alias.version_id)
        self.state.aliases[name, alias.alias_name] = alias
        return 201, alias

    def UpdateAlias(self, name: str, alias: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        _, stored = self.GetAlias(name, alias, "", b"")
        change = models.UpdateAliasInput().from_map(json.loads(body))
        self.resolve(name, change.version_id)
        stored.version_id = change.version_id
        if change.description is not None:
            stored.description = change.description
        stored.additional_version_weight = change.additional_version_weight
        if (name, alias) in self.state.provisions:  # its instances are replaced by the new version's
            self.state._polls[name, alias] = 0
        return 200, stored

    def DeleteAlias(self, name: str, alias: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        if (name, alias) in self.state.provisions:
            raise Refusal(400, "ProvisionConfigExist", f"alias '{alias}' still has min instances")
        self.GetAlias(name, alias, "", b"")
        del self.state.aliases[name, alias]
        return 204, None

    def PutProvisionConfig(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        if qualifier.isdigit():
            raise Refusal(400, "InvalidArgument", "min instances need LATEST or an alias, not a version")
        self.resolve(name, qualifier)
        wanted = models.PutProvisionConfigInput().from_map(json.loads(body)).to_map()
        # The API's own defaults: what a caller leaves out is allocated always, at full price.
        stored = models.ProvisionConfig().from_map(
            {
                "alwaysAllocateCPU": True,
                "alwaysAllocateGPU": True,
                **wanted,
                "target": wanted.get("defaultTarget", wanted.get("target", 0)),
            }
        )
        self.state.provisions[name, qualifier or "LATEST"] = stored
        self.state._polls[name, qualifier or "LATEST"] = 0
        return 200, stored

    def GetProvisionConfig(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        key = (name, qualifier or "LATEST")
        if key not in self.state.provisions:
            raise Refusal(404, "ProvisionConfigNotFound", f"no provision config for '{key[1]}'")
        config = self.state.provisions[key]
        self.state._polls[key] = self.state._polls.get(key, 0) + 1
        arrived = self.state._polls[key] > self.state.ready_after and not self.state.provision_error
        config.current = config.target if arrived else 0
        config.current_error = self.state.provision_error
        return 200, config

    def DeleteProvisionConfig(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        if self.state.provisions.pop((name, qualifier or "LATEST"), None) is None:
            raise Refusal(404, "ProvisionConfigNotFound", f"no provision config for '{qualifier}'")
        return 204, None

    def ListFunctionVersions(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        """Two a page, so that a caller who reads one page only is noticed."""
        newest = list(reversed(self.state.versions[name]))
        at = int(self.state.query.get("nextToken") or 0)
        more = str(at + 2) if at + 2 < len(newest) else None
        return 200, models.ListVersionsOutput(versions=newest[at : at + 2], next_token=more)

    def DeleteFunctionVersion(self, name: str, version: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        self.resolve(name, version)
        if any(alias.version_id == version for (owner, _), alias in self.state.aliases.items() if owner == name):
            raise Refusal(400, "VersionInUse", f"an alias points to version {version}")
        self.state.versions[name] = [one for one in self.state.versions[name] if one.version_id != version]
        return 204, None

    def DeleteTrigger(self, name: str, trigger: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        self.state.triggers[name] = [one for one in self.state.triggers[name] if one.trigger_name != trigger]
        return 204, None

    def DeleteFunction(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        left = [key for key in (*self.state.aliases, *self.state.provisions) if key[0] == name]
        if left or self.state.triggers[name] or self.state.versions[name]:
            raise Refusal(400, "FunctionNotEmpty", f"'{name}' still has {left or 'triggers or versions'}")
        if not self.state.keeps_functions:
            del self.state.functions[name]
        return 204, None

    def ListTriggers(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        return 200, models.ListTriggersOutput(triggers=self.state.triggers[name])

    def ListInstances(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        found = self.state.instances[name, qualifier or "LATEST"]
        return 200, models.ListInstancesOutput(instances=found)

    def GetCustomDomain(self, domain: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        if domain not in self.state.domains:
            raise Refusal(404, "DomainNameNotFound", f"domain name '{domain}' does not exist")
        return 200, self.state.domains[domain]

    def CreateCustomDomain(self, _: str, __: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        made = models.CustomDomain().from_map(models.CreateCustomDomainInput().from_map(json.loads(body)).to_map())
        if made.domain_name in self.state.domains:
            raise Refusal(409, "DomainNameAlreadyExists", f"domain name '{made.domain_name}' already exists")
        self.state.domains[made.domain_name] = made
        return 200, made

    def UpdateCustomDomain(self, domain: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        _, stored = self.GetCustomDomain(domain, "", "", b"")
        change = models.UpdateCustomDomainInput().from_map(json.loads(body)).to_map()
        self.state.domains[domain] = models.CustomDomain().from_map({**stored.to_map(), **change})
        return 200, self.state.domains[domain]

    def DeleteCustomDomain(self, domain: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        self.GetCustomDomain(domain, "", "", b"")
        del self.state.domains[domain]
        return 204, None

    def InvokeFunction(self, name: str, _: str, qualifier: str, body: bytes) -> tuple[int, Any]:
        version = self.resolve(name, qualifier)
        base = self.state.services.get(version) or self.state.services.get(qualifier) or self.state.service
        headers = {
            "content-type": "application/octet-stream",
            "x-fc-control-path": "/invoke",
            "x-fc-request-id": "test-request",
            "x-fc-function-name": name,
        }
        answer = requests.post(f"{base}/invoke", data=body, headers=headers, timeout=30)
        return 200, answer.content


DOMAIN_ROUTES = {"GET": "GetCustomDomain", "POST": "CreateCustomDomain", "PUT": "UpdateCustomDomain"}
DOMAIN_ROUTES["DELETE"] = "DeleteCustomDomain"
ROUTES = {
    ("GET", ""): "GetFunction",
    ("DELETE", ""): "DeleteFunction",
    ("POST", "versions"): "PublishFunctionVersion",
    ("GET", "versions"): "ListFunctionVersions",
    ("DELETE", "versions/"): "DeleteFunctionVersion",
    ("GET", "aliases"): "ListAliases",
    ("POST", "aliases"): "CreateAlias",
    ("GET", "aliases/"): "GetAlias",
    ("PUT", "aliases/"): "UpdateAlias",
    ("DELETE", "aliases/"): "DeleteAlias",
    ("PUT", "provision-config"): "PutProvisionConfig",
    ("GET", "provision-config"): "GetProvisionConfig",
    ("DELETE", "provision-config"): "DeleteProvisionConfig",
    ("GET", "triggers"): "ListTriggers",
    ("DELETE", "triggers/"): "DeleteTrigger",
    ("GET", "instances"): "ListInstances",
    ("POST", "invocations"): "InvokeFunction",
}


def answer(state: State, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
    keys = (state.access_key_id, state.access_key_secret, state.security_token)
    authenticate(keys, method, target, headers, body)
    url = urlsplit(target)
    name, _, rest = unquote(url.path.removeprefix(PREFIX)).partition("/")
    resource, slash, item = rest.partition("/")
    action = ROUTES.get((method, resource + slash))
    if of_domain := url.path.startswith(DOMAINS):
        name, action = unquote(url.path.removeprefix(DOMAINS)).strip("/"), DOMAIN_ROUTES[method]
    if action is None or headers.get("x-acs-action") != action:
        raise Refusal(404, "InvalidAction.NotFound", f"{method} {url.path} is no {headers['x-acs-action']}")
    state.query = dict(parse_qsl(url.query))
    qualifier = state.query.get("qualifier", "")
    state.log.append((action, qualifier, body))
    state.headers.append(headers)
    if state.faults[action]:
        status, code = state.faults[action].pop(0)
        raise Refusal(status, code, "answered on purpose by the test")
    control = Control(state)
    if not of_domain:
        control.function(name)
    result: tuple[int, Any] = getattr(control, action)(name, item, qualifier, body)
    return result


class FakeFC(Serving):
    """`with FakeFC() as fc:` serves `fc.state` on `fc.url`."""

    def __init__(self) -> None:
        self.state = State()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer; two meet delayed acknowledgement, 40 ms each

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                extra = {}
                try:
                    status, model = answer(fake.state, self.command, self.path, headers, body)
                    text = (
                        model
                        if isinstance(model, bytes)
                        else json.dumps({} if model is None else model.to_map()).encode()
                    )
                except Refusal as refusal:
                    status = refusal.status
                    text = json.dumps(
                        {"RequestId": "test-request", "Code": refusal.code, "Message": str(refusal)}
                    ).encode()
                except requests.RequestException:
                    # What FC answers when no instance could be started for the call.
                    status, text = 200, b'{"errorMessage": "function instance could not be started"}'
                    extra = {"X-Fc-Error-Type": "FunctionNotStarted"}
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                for name, value in extra.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = handle_one

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(Handler)
