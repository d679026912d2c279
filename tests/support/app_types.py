"""Types shared by the fast tests."""

from collections.abc import Callable

from flask import Flask

Make = Callable[..., Flask]
