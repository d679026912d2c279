"""The service's request log as rows: whatever lines lie around them, in files, in pipes, gzipped or not.

A line is the service's own (`2026-01-31T12:00:00.000Z {"level": ...}`), with anything before it, or a JSON object that
holds one under `message`, as SLS gives back what Function Compute has stored. DuckDB reads and counts, in one pass and
in bounded memory; fields are those of code/README.md, "The request log".
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

import duckdb

from infra.commands.options import EVER
from infra.errors import InfraError, WrongUsage

#: DuckDB's own buffers, MB: what it cannot hold goes to a temporary folder. A whole report then stays below 500 MB.
MEMORY_MB = 256
#: Bytes of a line at most; the service's are below 4 KB, FC cuts at 32 KB.
LONGEST = 1 << 18
#: Bytes that are read at a time; DuckDB would take 32 MB, for each thread several times.
BUFFER = 1 << 22
#: Type in DuckDB -> fields.
TYPES = {
    "VARCHAR": ("msg", "instance", "route", "outcome", "key", "prompt_blocks"),
    "BOOLEAN": ("cold", "stream"),
    "BIGINT": ("running", "prompt_tokens", "completion_tokens", "cached_tokens"),
    "DOUBLE": ("queue_ms", "ttft_ms", "decode_ms", "card_ms", "total_ms", "start_s"),
}

# In front of the object stands the date: 24 characters and a space. `split` takes a fifth of what `substr` takes.
_LINES = Template("""
    WITH lines AS (
        SELECT CASE WHEN starts_with(line, '{') AND json_valid(line) THEN json_extract_string(line, '$$.message')
                    ELSE line END AS line
        FROM read_csv(?, columns = {'line': 'VARCHAR'}, delim = '\\x01', quote = '', escape = '', header = false,
                      auto_detect = false, null_padding = true, max_line_size = $longest, buffer_size = $buffer,
                      ignore_errors = true, strict_mode = false)  -- a lone CR (progress bars) ends a line, too
    ), ours AS (
        SELECT split(line, '{"level"') AS parts FROM lines
        WHERE contains(line, '"msg": "re')  -- "request", "ready"
    ), objects AS (
        SELECT try_cast(left(right(parts[1], 25), 23) AS TIMESTAMP) AS ended, '{"level"' || parts[2] AS object FROM ours
    )
    SELECT ended, unnest(TRY(from_json(object, '$fields'))) FROM objects
    WHERE ended >= TIMESTAMP '$since' AND ended < TIMESTAMP '$until'
""")


def _moment(text: str) -> str:
    """A moment as DuckDB reads it, in UTC. Raises WrongUsage for what is no date or time."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment.astimezone(UTC) if moment.tzinfo else moment).replace(tzinfo=None).isoformat(" ")
    except (ValueError, OverflowError):
        raise WrongUsage(f"{text!r}: write a day or a time (UTC) like 2027-01-31 or 2027-01-31T08:30") from None


def _rows(answer: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def query(
    logs: Sequence[str],
    sql: str,
    span: tuple[str, str] = EVER,
    fetch: Callable[[duckdb.DuckDBPyConnection], Any] = _rows,
) -> Any:
    """The answer to an SQL query over `entries`: `ended` (UTC) and those of a line's fields (TYPES) that it names.

    Half lines are NULL. `logs` are paths, or "-" for standard input, read from the first moment of `span` until before
    the second; the answer a list of dicts, or what `fetch` makes of it. Raises InfraError for a file that cannot be
    read, WrongUsage for one that is not there and for a moment that is none.
    """
    paths = ["/dev/stdin" if path == "-" else path for path in logs]
    if missing := [path for path in paths if not Path(path).exists()]:
        raise WrongUsage(f"there is no {', '.join(missing)}: give the files of a log, or - for standard input")
    since, until = map(_moment, span)
    fields = json.dumps({name: kind for kind, names in TYPES.items() for name in names if name in sql})
    rows = _LINES.substitute(since=since, until=until, longest=LONGEST, buffer=BUFFER, fields=fields)
    how: dict[str, Any] = {"memory_limit": f"{MEMORY_MB}MB", "threads": min(4, os.cpu_count() or 1)}
    how["preserve_insertion_order"] = False
    with tempfile.TemporaryDirectory(prefix="report-") as spill, duckdb.connect(config=how) as db:
        db.execute(f"SET temp_directory = '{spill}'")
        try:
            return fetch(db.execute(f"WITH entries AS ({rows}) {sql}", [paths]))
        except duckdb.Error as error:
            raise InfraError(f"cannot read {', '.join(logs)}: {str(error).splitlines()[0]}") from error
