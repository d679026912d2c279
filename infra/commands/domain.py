"""domain: a custom domain that leads to the alias, with its certificate; again with another certificate, it is renewed.

By the SDK and not by Serverless Devs: its component fc3-domain (0.0.24) writes the certificate's private key into
~/.s/logs, and fc3 always takes its newest version. Routes of other functions on the same domain are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from infra.commands import options
from infra.errors import CheckFailed, WrongUsage
from infra.fc.client import FunctionCompute

EVERY_PATH = "/*"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.account(parser, qualifier=True)
    parser.add_argument("domain", metavar="DOMAIN", help="such as chat.example.com")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="PEM, with the chain; at most 20 KB")
    parser.add_argument("--private-key", type=Path, metavar="FILE", help="PEM; at most 4 KB")
    parser.add_argument("--remove", action="store_true", help="take the domain away; the function stays")


def run(args: argparse.Namespace) -> None:
    fc = options.connect(args)
    if args.remove:
        fc.delete_domain(args.domain)
        print(f"{args.domain} leads nowhere now")
        return
    if bool(args.certificate) != bool(args.private_key):
        raise WrongUsage("--certificate and --private-key go together")
    certificate = (pem(args.certificate), pem(args.private_key)) if args.certificate else None
    account = str(fc.get_function(args.function).function_arn).split(":")[3]
    print(f"{args.domain} must be a CNAME of {account}.{args.region}.fc.aliyuncs.com", flush=True)
    protocol = bind(fc, args.domain, args.function, args.qualifier, certificate)
    print(f"{args.domain} leads to {args.function}@{args.qualifier} by {protocol}")
    if "HTTPS" not in protocol:
        print("warning: without a certificate, keys and prompts travel in plain text: for tests only")
    print(f"try it: python -m infra smoke {'https' if 'HTTPS' in protocol else 'http'}://{args.domain}")


def pem(file: Path) -> str:
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file} cannot be read: {type(error).__name__}") from None
    if "-----BEGIN " not in text:
        raise WrongUsage(f"{file} is no PEM file: it must hold -----BEGIN ...")
    return text.strip()


def bind(fc: FunctionCompute, domain: str, function: str, qualifier: str, certificate: tuple[str, str] | None) -> str:
    """Route every path of the domain to function@qualifier; the protocol it then speaks. Raises CheckFailed."""
    there, models = fc.get_domain(domain), fc.models
    routes = list((there.route_config.routes if there and there.route_config else None) or [])
    for route in routes:
        if route.path == EVERY_PATH and route.function_name != function:
            raise CheckFailed(f"{domain} leads to {route.function_name}: `domain {domain} --remove` first")
    ours = models.PathConfig(path=EVERY_PATH, function_name=function, qualifier=qualifier)
    routes = [*(route for route in routes if route.path != EVERY_PATH), ours]
    protocol = "HTTPS" if certificate else str(there.protocol if there else "HTTP")
    fields: dict[str, Any] = {"route_config": models.RouteConfig(routes=routes), "protocol": protocol}
    if certificate:
        # A name of its own: letters, digits and - only.
        name, (chain, key) = domain.replace(".", "-").replace("*", "any"), certificate
        fields["cert_config"] = models.CertConfig(cert_name=name, certificate=chain, private_key=key)
    fc.put_domain(domain, fields, update=there is not None)
    return protocol
