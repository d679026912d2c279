"""The engine room. `base.py` says what the app may ask; only `vllm_engine.py` imports vllm."""
