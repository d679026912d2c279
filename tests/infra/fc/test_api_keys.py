"""What of an API key travels to the function, and which one this machine calls with."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbot_llm import settings
from infra.errors import WrongUsage
from infra.fc import keys, template

ONE, TWO = "first-key-of-this-test", "second-key-of-this-test"


def test_the_service_knows_a_key_by_the_digest_made_here() -> None:
    made = settings.Settings(api_keys=f"{keys.digest(ONE)}, {keys.digest(TWO)}")  # type: ignore[arg-type]
    assert made.keys == (settings.digest(ONE), settings.digest(TWO))


def test_the_shortest_key_is_the_services() -> None:
    settings.Settings(api_keys="x" * keys.SHORTEST)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="characters"):
        settings.Settings(api_keys="x" * (keys.SHORTEST - 1))  # type: ignore[arg-type]


def test_a_list_becomes_digests_and_digests_stay() -> None:
    made = keys.digests(f" {ONE} ,{keys.digest(TWO).upper()}, ")
    assert made == f"{keys.digest(ONE)},{keys.digest(TWO)}" == keys.digests(made)
    assert keys.digests("") == ""


@pytest.mark.parametrize(
    "bad", ["hunter2", f"{ONE}\n{TWO}", "a key with spaces in it", "sha256:hunter2", "SHA256:" + "g" * 64]
)
def test_what_the_service_would_refuse_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(WrongUsage) as refused:
        keys.digests(f"{ONE},{bad}")
    assert bad not in str(refused.value) and ONE not in str(refused.value)


def test_s_sees_digests_in_place_of_keys_and_the_rest_as_it_is() -> None:
    seen = keys.for_s({keys.KEYS: f"{ONE},{TWO}", keys.OWN: ONE, keys.DIGESTS: "left over", "PATH": "/bin"})
    none = {keys.KEYS: "", keys.OWN: ""}
    assert seen == {**none, keys.DIGESTS: keys.digests(f"{ONE},{TWO}"), "PATH": "/bin"}
    assert keys.for_s({keys.DIGESTS: keys.digest(ONE)}) == {**none, keys.DIGESTS: keys.digest(ONE)}


def test_s_does_not_take_a_key_from_the_dotenv_that_it_reads_by_itself(
    s_command: str, deployment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"{keys.KEYS}={ONE}\n{keys.OWN}={ONE}\nDEPLOY_LOG_STORE=from-the-file\n")
    text = template.S_YAML.read_text(encoding="utf-8").replace(
        "env('DEPLOY_ROLE', '')", f"env('{keys.KEYS}', env('{keys.OWN}', env('DEPLOY_LOG_STORE')))"
    )
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    unset = {name: value for name, value in deployment.items() if name != "DEPLOY_LOG_STORE"}
    assert template.render(unset, tmp_path / "s.yaml")["role"] == ONE, "so it reads the file"
    assert template.render(keys.for_s(unset), tmp_path / "s.yaml")["role"] == "from-the-file"


def test_the_key_to_call_with_is_the_named_one_or_the_first_plain_one() -> None:
    assert keys.own({keys.OWN: TWO, keys.KEYS: ONE}) == TWO
    assert keys.own({keys.KEYS: f"{keys.digest(ONE)}, {TWO}"}) == TWO
    assert keys.own({keys.KEYS: keys.digest(ONE)}) == "" == keys.own({})


@pytest.mark.parametrize(
    "good",
    [
        {},
        {keys.KEYS: ONE},
        {keys.KEYS: keys.digest(ONE), keys.OWN: ONE},
        {keys.DIGESTS: keys.digest(ONE), keys.OWN: ONE},
        {keys.OWN: ONE},
    ],
)
def test_a_key_that_the_function_would_know_passes(good: dict[str, str]) -> None:
    keys.check_own(good)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({keys.KEYS: keys.digest(ONE)}, "export CHATBOT_API_KEY="),
        ({keys.KEYS: ONE, keys.OWN: TWO}, "none of the keys"),
        ({keys.DIGESTS: keys.digest(ONE), keys.OWN: TWO}, "none of the keys"),
    ],
)
def test_a_smoke_test_that_would_be_turned_away_is_refused_first(bad: dict[str, str], message: str) -> None:
    with pytest.raises(WrongUsage, match=message) as refused:
        keys.check_own(bad)
    assert ONE not in str(refused.value) and TWO not in str(refused.value)
