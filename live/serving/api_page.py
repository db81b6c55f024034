"""The page of the endpoints, from their OpenAPI description; it loads nothing from other hosts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader


@cache
def _template() -> Any:
    return Environment(loader=FileSystemLoader(Path(__file__).parent / "page"), autoescape=True).get_template(
        "api.html"
    )


def api_page(described: dict[str, Any]) -> str:
    """Return the page as HTML.

    Args:
        described: The OpenAPI description of the application.
    """
    schemas = described["components"]["schemas"]
    endpoints = []
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            schema = _content(about.get("requestBody"))
            answer = _content(about["responses"].get("200"))
            answers = {status: each["description"] for status, each in about["responses"].items()}
            endpoints.append(
                {
                    "method": method.upper(), "path": path, "about": about["description"],
                    "query": about.get("parameters", []), "fields": _fields(schema, schemas),
                    "example": json.dumps(_example(schema, schemas)) if schema else "",
                    "form": _form(about.get("requestBody")),
                    "returned": _fields(answer, schemas), "answers": answers,
                }
            )  # fmt: skip
    about = [part.replace("\n", " ") for part in described["info"]["description"].strip().split("\n\n")]
    return str(_template().render(endpoints=endpoints, version=described["info"]["version"], about=about))


def _content(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the schema of a body in JSON."""
    found = ((part or {}).get("content") or {}).get("application/json")
    return found and found["schema"]


def _form(part: dict[str, Any] | None) -> list[str]:
    """Return the fields of a form that may come in place of JSON."""
    found = ((part or {}).get("content") or {}).get("multipart/form-data")
    return list(found["schema"]["properties"]) if found else []


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _fields(schema: dict[str, Any] | None, schemas: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Return name, description and whether it is required, of each field; those of items below their list."""
    if schema is None:
        return []
    schema, found = _resolved(schema, schemas), []
    for name, field in schema.get("properties", {}).items():
        about, required = field.get("description", ""), name in schema.get("required", [])
        found.append({"name": prefix + name, "about": about, "required": required})
        if "$ref" in field.get("items", {}):
            found += _fields(field["items"], schemas, f"{prefix}{name}[].")
    return found


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Return a body of the examples of its fields."""
    schema, found = _resolved(schema, schemas), {}
    for name, field in schema.get("properties", {}).items():
        if field.get("examples"):
            found[name] = field["examples"][0]
        elif "$ref" in field.get("items", {}):
            found[name] = [_example(field["items"], schemas)]
    return found
