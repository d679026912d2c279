"""The control plane client: signatures, credentials, retries, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fake_account import credential
from fake_acs3 import signature
from fake_fc import FakeFC
from infra import ROOT
from infra.errors import InfraError, Refused
from infra.fc import client
from infra.fc.client import ATTEMPTS, LONGEST_DELAY_S, FunctionCompute, address, delay
from service_double import ServiceDouble

NAME = "chatbot-llm"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client has waited, in place of waiting."""
    found: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=found.append))
    return found


@pytest.fixture
def fc(fake: FakeFC, slept: list[float]) -> FunctionCompute:
    return FunctionCompute("cn-hangzhou", fake.url, credential=credential(fake.state))


def test_the_fakes_signature_is_the_published_algorithm() -> None:
    # The worked example of Alibaba Cloud's page "V3 request body and signature mechanism" (RunInstances).
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    found = signature(
        "YourAccessKeySecret",
        "POST",
        "/",
        "ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai",
        headers,
        ";".join(headers),
        headers["x-acs-content-sha256"],
    )
    assert found == "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"


def test_a_signed_call_is_accepted_and_answered_with_the_sdks_model(fc: FunctionCompute) -> None:
    assert fc.get_function(NAME).custom_container_config.port == 8000


def test_a_wrong_secret_is_refused_at_once_and_named(fake: FakeFC, slept: list[float]) -> None:
    wrong = credential(fake.state, secret="another-secret")
    fc = FunctionCompute("cn-hangzhou", fake.url, credential=wrong)
    with pytest.raises(Refused, match="SignatureDoesNotMatch.*secret does not fit") as caught:
        fc.get_function(NAME)
    assert caught.value.exit_code == 3
    assert slept == []


def test_an_sts_token_is_sent_and_signed(fake: FakeFC) -> None:
    fake.state.security_token = "sts-token-of-a-role"
    fc = FunctionCompute("cn-hangzhou", fake.url, credential=credential(fake.state))
    fc.get_function(NAME)
    assert fake.state.headers[-1]["x-acs-security-token"] == "sts-token-of-a-role"
    assert "x-acs-security-token" in fake.state.headers[-1]["authorization"]


def test_a_lost_sts_token_is_refused(fake: FakeFC, fc: FunctionCompute) -> None:
    fake.state.security_token = "required-from-now-on"
    with pytest.raises(Refused, match="STS token"):
        fc.get_function(NAME)


@pytest.mark.parametrize("fault", [(429, "ResourceThrottled"), (503, "ServiceUnavailable"), (400, "Throttling")])
def test_a_throttled_or_failing_read_is_repeated(
    fake: FakeFC, fc: FunctionCompute, slept: list[float], fault: tuple[int, str]
) -> None:
    fake.state.faults["GetFunction"] = [fault, fault]
    assert fc.get_function(NAME).state == "Active"
    assert len(slept) == 2 and 0 < slept[0] <= slept[1] * 2


def test_retries_end_and_their_delays_are_bounded(fake: FakeFC, fc: FunctionCompute, slept: list[float]) -> None:
    fake.state.faults["GetFunction"] = [(429, "ResourceThrottled")] * 50
    with pytest.raises(Refused, match="quota"):
        fc.get_function(NAME)
    assert len(slept) == ATTEMPTS - 1
    assert max(slept) <= LONGEST_DELAY_S
    assert len(fake.state.log) == ATTEMPTS


def test_the_services_own_wish_for_a_pause_is_kept_within_the_bound() -> None:
    assert delay(1, retry_after_ms=3000) == 3.0
    assert delay(1, retry_after_ms=3_600_000) == LONGEST_DELAY_S
    assert 0 < delay(40, retry_after_ms=None) <= LONGEST_DELAY_S


def test_a_refusal_is_not_repeated(fake: FakeFC, fc: FunctionCompute, slept: list[float]) -> None:
    fake.state.faults["GetFunction"] = [(403, "AccessDenied")]
    with pytest.raises(Refused, match="RAM policy"):
        fc.get_function(NAME)
    assert slept == []


def test_publishing_is_not_repeated_after_a_server_error_but_after_a_throttle(
    fake: FakeFC, fc: FunctionCompute
) -> None:
    fake.state.faults["PublishFunctionVersion"] = [(429, "ResourceThrottled")]
    assert fc.publish(NAME, "v1") == "1"
    fake.state.faults["PublishFunctionVersion"] = [(500, "InternalServerError")]
    with pytest.raises(Refused):
        fc.publish(NAME, "v2")
    assert len(fake.state.versions[NAME]) == 1


def test_a_missing_function_is_an_error_and_a_missing_alias_an_answer(fc: FunctionCompute) -> None:
    with pytest.raises(Refused, match="--function"):
        fc.get_alias("another", "live")
    assert fc.get_alias(NAME, "live") is None
    assert fc.get_provision(NAME, "LATEST") is None


def test_a_dead_endpoint_is_named_without_the_request(slept: list[float], fake: FakeFC) -> None:
    dead = FunctionCompute("cn-hangzhou", "http://127.0.0.1:9", credential=credential(fake.state))
    with pytest.raises(Refused, match="check the network") as caught:
        dead.get_function(NAME)
    assert "test-secret" not in str(caught.value) and "Signature=" not in str(caught.value)
    assert len(slept) == ATTEMPTS - 1


def test_the_endpoint_is_https_except_on_loopback() -> None:
    assert address("cn-beijing", None) == ("fcv3.cn-beijing.aliyuncs.com", "HTTPS")
    assert address("x", "fcv3-vpc.cn-beijing.aliyuncs.com")[1] == "HTTPS"
    assert address("x", "http://127.0.0.1:80") == ("127.0.0.1:80", "HTTP")
    with pytest.raises(InfraError, match="plain http"):
        address("x", "http://fcv3.cn-beijing.aliyuncs.com")
    with pytest.raises(InfraError, match="not a host"):
        address("x", "https://fcv3.cn-beijing.aliyuncs.com/2023-03-30")


def run(fake: FakeFC, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ALIBABA_CLOUD_")}
    return subprocess.run(
        [sys.executable, "-m", "infra", *arguments, "--endpoint", fake.url],
        env={**clean, "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true", "HOME": "/nonexistent", **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_default_chain_reads_an_sts_credential_from_the_environment(fake: FakeFC) -> None:
    fake.state.security_token = "token-from-oidc"
    finished = run(
        fake,
        "wait-ready",
        "--qualifier",
        "LATEST",
        ALIBABA_CLOUD_ACCESS_KEY_ID=fake.state.access_key_id,
        ALIBABA_CLOUD_ACCESS_KEY_SECRET=fake.state.access_key_secret,
        ALIBABA_CLOUD_SECURITY_TOKEN="token-from-oidc",
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "is ready" in finished.stdout


def test_no_credentials_says_which_variables_to_set(fake: FakeFC) -> None:
    finished = run(fake, "status")
    assert finished.returncode == 3
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert fake.state.log == []


def test_missing_credentials_are_one_sentence_without_the_sdks_tracebacks(tmp_path: Path) -> None:
    """The last of its providers asks ECS's metadata service, which here is a proxy that knows nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(("alibaba", "no_proxy"))}
    with ServiceDouble() as nothing:
        done = subprocess.run(
            [sys.executable, "-m", "infra", "status", "--endpoint", "http://127.0.0.1:9"],
            cwd=ROOT,
            env={**kept, "HOME": str(tmp_path), "http_proxy": nothing.url, "HTTP_PROXY": nothing.url},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert nothing.seen, "the metadata service was asked"
    assert done.returncode == 3
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "NoCredentials" in done.stderr
