"""README snippets use the client libraries' environments, which live with their own tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "clients"))
