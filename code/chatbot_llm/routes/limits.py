"""Every limit of a request, from the code that applies it, as a Markdown table (code/README.md)."""

from chatbot_llm.engine import schema_check, schema_helper
from chatbot_llm.rag import documents
from chatbot_llm.routes import generate, structures, validation
from chatbot_llm.settings import Settings


def table() -> str:
    """Rows of what, most and where it is set; settings are shown with their defaults."""
    default = {name: field.default for name, field in Settings.model_fields.items()}
    rows = [
        ("body, bytes", default["max_body_bytes"], "`CHATBOT_MAX_BODY_BYTES`"),
        ("text of a request, characters", default["max_prompt_chars"], "`CHATBOT_MAX_PROMPT_CHARS`"),
        (
            "`max_tokens`, `max_completion_tokens`, `max_output_tokens`, `min_tokens`",
            default["max_tokens_cap"],
            "`CHATBOT_MAX_TOKENS_CAP`",
        ),
        ("`n`; prompts in one completion", default["max_choices"], "`CHATBOT_MAX_CHOICES`"),
        ("messages and content parts; blocks of `system`", validation.MAX_MESSAGES, ""),
        *((f"`{name}`", most, "") for name, most in validation.MAX_ITEMS.items()),
        ("nesting of a body", validation.MAX_DEPTH, ""),
        ("one schema, or all tools, characters", structures.MAX_SCHEMA, ""),
        ("turning a request's schemas into a grammar, ms", round(schema_helper.COMPILE_S * 1000), ""),
        ("what a schema may add to a token, ms: on average", round(schema_check.STEP_S * 1000), ""),
        ("what a schema may add to a token, ms: at worst", round(schema_check.WORST_S * 1000), ""),
        ("documents", documents.MAX_DOCUMENTS, ""),
        ("tokens kept for an answer to documents that names no `max_tokens`", documents.ANSWER_TOKENS, ""),
        ("prompts that `/generate` sends back, bytes for one sent", generate.MAX_ECHO, ""),
    ]
    return "\n".join(["| what | most | setting |", "|---|---|---|", *(f"| {a} | {b:,} | {c} |" for a, b, c in rows)])
