"""chatbot-llm: the generation half of a RAG chatbot, vLLM behind Flask on Function Compute."""

__version__ = "0.2.0"
