"""domain: it leads to the alias, by HTTPS where there is a certificate, and keeps what others have put there."""

from __future__ import annotations

from pathlib import Path

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra.__main__ import main

NAME, DOMAIN = "chatbot-llm", "chat.example.com"
SECRET = "a-private-key-of-this-test"


@pytest.fixture
def certificate(tmp_path: Path) -> list[str]:
    for name, body in (("cert", "certificate"), ("key", SECRET)):
        (tmp_path / name).write_text(f"-----BEGIN {name.upper()}-----\n{body}\n-----END-----\n")
    return ["--certificate", str(tmp_path / "cert"), "--private-key", str(tmp_path / "key")]


def routes(fake: FakeFC) -> list[tuple[str, str, str]]:
    return [(one.path, one.function_name, one.qualifier) for one in fake.state.domains[DOMAIN].route_config.routes]


def test_a_domain_leads_to_the_alias_by_https_only(
    connected: FakeFC, certificate: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["domain", DOMAIN, *certificate]) == 0
    made = connected.state.domains[DOMAIN]
    assert routes(connected) == [("/*", NAME, "live")]
    assert made.protocol == "HTTPS" and SECRET in made.cert_config.private_key
    captured = capsys.readouterr()
    assert "CNAME of 1000.cn-hangzhou.fc.aliyuncs.com" in captured.out
    assert f"python -m infra smoke https://{DOMAIN}" in captured.out and "warning" not in captured.out
    assert SECRET not in captured.out + captured.err


def test_a_certificate_is_renewed_and_the_routes_of_others_stay(connected: FakeFC, certificate: list[str]) -> None:
    other = models.PathConfig(path="/shop/*", function_name="shop", qualifier="LATEST")
    connected.state.domains[DOMAIN] = models.CustomDomain(
        domain_name=DOMAIN, protocol="HTTP,HTTPS", route_config=models.RouteConfig(routes=[other])
    )
    assert main(["domain", DOMAIN]) == 0
    assert connected.state.domains[DOMAIN].protocol == "HTTP,HTTPS", "no certificate, no new protocol"
    assert main(["domain", DOMAIN, *certificate]) == 0
    assert routes(connected) == [("/shop/*", "shop", "LATEST"), ("/*", NAME, "live")]
    assert connected.state.writes() == ["UpdateCustomDomain"] * 2


def test_without_a_certificate_it_says_what_that_means(connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["domain", DOMAIN]) == 0
    assert connected.state.domains[DOMAIN].protocol == "HTTP"
    assert "warning: without a certificate" in capsys.readouterr().out


def test_a_domain_of_another_function_is_left_alone(connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    route = models.PathConfig(path="/*", function_name="shop")
    connected.state.domains[DOMAIN] = models.CustomDomain(
        domain_name=DOMAIN, protocol="HTTP", route_config=models.RouteConfig(routes=[route])
    )
    assert main(["domain", DOMAIN]) == 1
    assert "leads to shop" in capsys.readouterr().err and connected.state.writes() == []


def test_a_domain_is_removed_also_when_it_is_gone(connected: FakeFC) -> None:
    assert main(["domain", DOMAIN]) == 0
    assert main(["domain", DOMAIN, "--remove"]) == main(["domain", DOMAIN, "--remove"]) == 0
    assert connected.state.domains == {} and NAME in connected.state.functions


def test_what_function_compute_refuses_says_what_to_do(connected: FakeFC, capsys: pytest.CaptureFixture[str]) -> None:
    connected.state.faults["CreateCustomDomain"] = [(400, "DomainNameNotResolved")]
    assert main(["domain", DOMAIN]) == 3
    assert "set the CNAME" in capsys.readouterr().err


@pytest.mark.parametrize("half", ["--certificate", "--private-key"])
def test_half_a_certificate_or_no_pem_is_wrong_usage(
    connected: FakeFC, half: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(SECRET)
    assert main(["domain", DOMAIN, half, str(tmp_path / "key")]) == 2
    assert main(["domain", DOMAIN, "--certificate", str(tmp_path / "key"), "--private-key", str(tmp_path / "key")]) == 2
    assert main(["domain", DOMAIN, "--certificate", str(tmp_path / "no"), "--private-key", str(tmp_path / "key")]) == 2
    assert SECRET not in capsys.readouterr().err and connected.state.writes() == []
