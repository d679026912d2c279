"""schemathesis reads the description the service publishes and sends what it allows, and what it does not.

Every answer must have a status, a content type and a shape that the description names.
"""

import pytest
import requests
import schemathesis
from fuzzing import LIMIT_S, check_error, examples
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from chatbot_llm.app import create_app
from chatbot_llm.engine.scripted import ScriptedEngine
from chatbot_llm.routes import openapi
from chatbot_llm.settings import Settings
from launcher import ServiceProcess

schema = schemathesis.openapi.from_dict(openapi.describe())
#: Every operation but /pre-stop, which would end the run.
OPERATIONS = [found.ok() for found in schema.get_all_operations() if found.ok().path != "/pre-stop"]
session = requests.Session()
session.trust_env = False


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_no_request_is_too_strange(service: ServiceProcess, operation: schemathesis.schemas.APIOperation) -> None:
    allowed = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    cases = allowed
    if operation.body or operation.headers or operation.path_parameters:
        cases = allowed | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @examples(0.45 / len(OPERATIONS))
    @given(case=cases)
    def run(case: schemathesis.Case) -> None:
        answer = case.call(base_url=f"http://127.0.0.1:{service.port}", session=session, timeout=LIMIT_S)
        check_error(answer.status_code, answer.content)
        case.validate_response(
            answer, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
        )

    run()


def test_the_description_names_every_route(service: ServiceProcess) -> None:
    current = Settings(engine="scripted")
    rules = create_app(current, ScriptedEngine(current)).url_map.iter_rules()
    routes = {str(rule).replace("<path:name>", "{name}") for rule in rules} - {"/"}  # the page is for people
    assert set(service.call("GET", "/openapi.json").json["paths"]) == routes
