"""/health, /initialize, /pre-stop and what a caller sees while the engine is not ready."""

import threading
import time

from in_process import Make

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def test_health_is_503_with_the_phase_until_the_engine_is_ready(make_app: Make) -> None:
    app = make_app({"load_s": 1.0}, wait=False)
    answer = app.test_client().get("/health")
    body = answer.get_json()
    assert answer.status_code == 503
    assert body["state"] == "loading" and body["phase"] and body["phase_s"] >= 0
    app.wait_ready()
    assert app.test_client().get("/health").status_code == 200


def test_a_request_during_loading_waits_and_is_answered(make_app: Make) -> None:
    app = make_app({"load_s": 0.5}, wait=False)
    assert app.test_client().post("/chat", json=CHAT).status_code == 200


def test_a_request_whose_deadline_passes_during_loading_is_told_the_phase(make_app: Make) -> None:
    app = make_app({"load_s": 5}, wait=False)
    answer = app.test_client().post("/chat", json=CHAT, headers={"x-request-timeout": "0.2"})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "phase" in answer.get_json()["error"]["message"]
    assert answer.get_json()["error"]["code"] == "loading"


def test_initialize_answers_when_the_engine_is_ready(make_app: Make) -> None:
    app = make_app({"load_s": 0.3}, wait=False)
    answer = app.test_client().post("/initialize")
    assert answer.status_code == 200
    assert answer.get_json()["state"] == "ready"


def test_initialize_is_500_with_the_reason_when_loading_fails(make_app: Make) -> None:
    app = make_app({"load_s": 0.1, "fail_load": "no such weights"}, wait=False)
    answer = app.test_client().post("/initialize")
    assert answer.status_code == 500
    assert "no such weights" in answer.get_json()["error"]["message"]


def test_those_who_waited_are_told_when_loading_fails(make_app: Make) -> None:
    app = make_app({"load_s": 0.5, "fail_load": "no such weights"}, wait=False)
    answer = app.test_client().post("/chat", json=CHAT)
    assert answer.status_code == 503
    assert "no such weights" in answer.get_json()["error"]["message"]


def test_the_engine_starts_once_however_often_it_is_asked(make_app: Make) -> None:
    app = make_app({"load_s": 0.2}, wait=False)
    states: list[str] = []
    app.service.engine.on_change(lambda state: states.append(state))
    clients = [threading.Thread(target=lambda: app.test_client().post("/initialize")) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert states == ["ready"]


def test_garbage_from_the_engine_keeps_it_from_being_ready(make_app: Make) -> None:
    app = make_app({"text": "!!!!!!!!!!!!"})
    status = app.service.engine.status()
    assert status.state == "failed" and "'!'" in status.reason
    assert app.test_client().get("/health").status_code == 503


def test_pre_stop_refuses_new_work_and_lets_running_work_finish(make_app: Make) -> None:
    app = make_app({"token_s": 0.05, "loop": True}, drain_s=5)
    answers: list[int] = []
    body = {**CHAT, "max_tokens": 10}
    running = threading.Thread(target=lambda: answers.append(app.test_client().post("/chat", json=body).status_code))
    running.start()
    while app.service.admission.counts() != (1, 0):
        time.sleep(0.005)
    stopped = app.test_client().get("/pre-stop")
    running.join()
    assert stopped.get_json() == {"state": "drained", "cut_short": False}
    assert answers == [200]
    refused = app.test_client().post("/chat", json=CHAT)
    assert refused.status_code == 503 and refused.get_json()["error"]["code"] == "draining"
    assert app.test_client().get("/health").get_json()["state"] == "draining"


def test_pre_stop_cuts_short_what_outlasts_the_limit(make_app: Make) -> None:
    app = make_app({"token_s": 0.05, "loop": True}, drain_s=0.2)
    answers: list[str] = []

    def ask() -> None:
        answer = app.test_client().post("/chat", json={**CHAT, "max_tokens": 4000})
        answers.append(answer.get_json()["choices"][0]["finish_reason"])

    running = threading.Thread(target=ask)
    running.start()
    while app.service.admission.counts() != (1, 0):
        time.sleep(0.005)
    assert app.test_client().get("/pre-stop").get_json()["cut_short"] is True
    running.join()
    assert answers == ["length"]


def test_metrics_hold_our_series(make_app: Make) -> None:
    client = make_app().test_client()
    client.post("/chat", json=CHAT)
    text = client.get("/metrics").get_data(as_text=True)
    assert 'chatbot_requests_total{outcome="ok",route="/chat"} 1.0' in text
    assert "chatbot_ready 1.0" in text
    assert 'chatbot_startup_phase_seconds{phase="weights"}' in text
