"""Which names transformers' models define: noted once per installation, not read from their sources at each start.

Importing transformers reads the sources of all its models (5.19: 2,400 files, 46 MB), and does so twice; the engine's
process and its parent both do. The answer depends on nothing but the installed version, so it is kept in a file:
`remember()` has it used, and makes it where it is missing. The image brings it along: run as a program, this file
makes it with nothing but the standard library and transformers.

Bound to `transformers.utils.import_utils`; `tests/engine/test_transformers_outline.py` holds the two together.
"""

import marshal
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE, _NAME = "transformers.utils.import_utils", "define_import_structure"
#: What a group of models needs -> module -> names, as transformers has it.
Outline = dict[frozenset[str], dict[str, set[str]]]


def remember() -> None:
    """From now on, importing transformers looks into the note first. Does nothing the second time."""
    if _MODULE not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def note(version: str) -> Path:
    """The file, beside what vLLM notes of the models' classes."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vllm")
    return Path(os.environ.get("VLLM_CACHE_ROOT") or root, "outlines", f"transformers-{version}.marshal")


class _Finder(MetaPathFinder):
    """Finds the one module whose function is replaced, once, as it is found otherwise."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            usual = spec.loader.exec_module

            def run(module: ModuleType) -> None:
                usual(module)
                if define := getattr(module, _NAME, None):
                    setattr(module, _NAME, noted(define, sys.modules["transformers"]))

            spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


def noted(usual: Callable[..., Outline], package: ModuleType) -> Callable[..., Outline]:
    """`define_import_structure`, with the answer for the folder of all models from the note."""
    models = Path(str(package.__file__)).parent / "models"
    file = note(package.__version__)

    def define(module_path: Any, prefix: str | None = None) -> Outline:
        asked = Path(module_path)
        if "dev" in file.name or asked not in (models, models / "__init__.py"):
            return usual(module_path, prefix)
        outline = _read(file)
        if outline is None:
            outline = usual(module_path)
            _write(file, outline)
        if prefix is None:
            return outline
        return {needs: {f"{prefix}.{name}": names for name, names in all_.items()} for needs, all_ in outline.items()}

    return define


def _read(file: Path) -> Outline | None:
    with suppress(OSError, ValueError, EOFError, TypeError):
        outline: Outline = marshal.loads(file.read_bytes())
        return outline
    return None


def _write(file: Path, outline: Outline) -> None:
    """Whole or not at all; a folder that cannot be written to costs the next start what it cost this one."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent)
        try:
            with open(handle, "wb") as out:
                out.write(marshal.dumps(outline))
            os.replace(name, file)
        except OSError:
            os.unlink(name)
            raise


if __name__ == "__main__":
    remember()
    import transformers

    made = note(transformers.__version__)
    if _read(made) is None:
        sys.exit(f"outline: importing transformers has left no note at {made}")
    print(f"outline: noted in {made}")
