"""What the deployer's RAM policy must allow, as data: every action, what it works on, who asks for it.

Resources are those of page 06/19 (custom policies) of github.com/aliyun-fc/fc-docs at 37ecbc6. Who asks: fc3 0.1.22, as
seen on the wire of a first deploy and of a redeploy against a mock of the API; `infra` is infra/fc/client.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FUNCTION = "acs:fc:REGION:ACCOUNT_ID:functions/FUNCTION"
ITSELF = (FUNCTION,)
QUALIFIED = (FUNCTION, f"{FUNCTION}/LATEST", f"{FUNCTION}/live")
ALIASES = (f"{FUNCTION}/aliases/live", f"{FUNCTION}/aliases/*")
TRIGGERS = (f"{FUNCTION}/triggers/http",)
DOMAINS = ("acs:fc:REGION:ACCOUNT_ID:custom-domains/DOMAIN",)
EVERYTHING = ("*",)

#: Action -> the resources it is asked for with.
DEPLOYER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # fc3 deploy
        "fc:GetFunction": QUALIFIED,
        "fc:CreateFunction": ITSELF,
        "fc:UpdateFunction": ITSELF,
        "fc:GetTrigger": TRIGGERS,
        "fc:CreateTrigger": TRIGGERS,
        "fc:UpdateTrigger": TRIGGERS,
        "fc:GetProvisionConfig": QUALIFIED,
        "fc:PutProvisionConfig": QUALIFIED,
        "fc:GetScalingConfig": EVERYTHING,  # the one that page 06/19 does not have
        "fc:GetConcurrencyConfig": ITSELF,
        "fc:PutConcurrencyConfig": ITSELF,  # with the autoscaling block of s.yaml
        "fc:DeleteConcurrencyConfig": ITSELF,  # when that block is taken away again
        "fc:GetFunctionAsyncInvokeConfig": QUALIFIED,
        "fc:ListVpcBindings": (f"{FUNCTION}/vpc-bindings/*",),
        # fc3 deploy without `role`: a full deploy ends, before CreateFunction, when it may not ask.
        # The action's name: Alibaba's own policy PowerUserAccess.
        "ram:CheckServiceLinkedRoleExistence": EVERYTHING,
        "ram:CreateServiceLinkedRole": EVERYTHING,  # on the account's first deploy
        # infra: smoke, status, scale, release
        "fc:InvokeFunction": QUALIFIED,
        "fc:ListInstances": (f"{FUNCTION}/instances/*",),
        "fc:ListTriggers": (f"{FUNCTION}/triggers/*",),
        "fc:DeleteProvisionConfig": QUALIFIED,
        "fc:PublishFunctionVersion": (f"{FUNCTION}/versions",),
        "fc:ListAliases": ALIASES,
        "fc:GetAlias": ALIASES,
        "fc:CreateAlias": ALIASES,
        "fc:UpdateAlias": ALIASES,
        "fc:DeleteAlias": ALIASES,
        # infra: domain
        "fc:GetCustomDomain": DOMAINS,
        "fc:CreateCustomDomain": DOMAINS,
        "fc:UpdateCustomDomain": DOMAINS,
        "fc:DeleteCustomDomain": DOMAINS,
        # infra: destroy
        "fc:ListFunctionVersions": (f"{FUNCTION}/versions/*",),
        "fc:DeleteFunctionVersion": (f"{FUNCTION}/versions/1",),
        "fc:DeleteTrigger": TRIGGERS,
        "fc:DeleteFunction": ITSELF,
    }
)

#: These cannot be bound to a resource, and they only read.
UNBOUND = frozenset({"fc:GetScalingConfig", "ram:CheckServiceLinkedRoleExistence"})

#: Condition keys that a page of RAM or of Function Compute has. A key that none has is never true, or ignored.
CONDITION_KEYS = frozenset(
    {
        "acs:Service",  # RAM, PassRole: the service a role is handed to
        "ram:ServiceName",  # RAM, CreateServiceLinkedRole
        "oidc:iss",  # RAM, roles for OIDC
        "oidc:aud",
        "oidc:sub",
    }
)

#: What the operator fills in; infra/README.md names each.
PLACEHOLDERS = frozenset(
    {"ACCOUNT_ID", "REGION", "FUNCTION", "FUNCTION_ROLE", "DOMAIN", "NAMESPACE", "OWNER", "PROJECT", "REPOSITORY"}
)
