"""Pages from templates: text is escaped, wherever it comes from."""

import base64
import importlib.resources
from typing import Any

import jinja2


def fill(name: str, **values: Any) -> str:
    """The template of this name, filled in; a value that it names and that is missing raises."""
    jinja = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_source),
    )
    jinja.filters["data_url"] = data_url
    return jinja.get_template(name).render(**values)


def data_url(image: bytes, kind: str = "png") -> str:
    """An image file within a page."""
    return f"data:image/{kind};base64," + base64.b64encode(image).decode()


def _source(name: str) -> str:
    return importlib.resources.files("diffjax.display").joinpath(name).read_text("utf-8")
