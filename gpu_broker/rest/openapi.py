"""The OpenAPI 3.1 document, made from the handlers' operations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gpu_broker.models import Problem
from gpu_broker.rest.api import Handler, Operation

METHODS = ("get", "post", "put", "patch", "delete")
REF = "#/components/schemas/{model}"


class OpenApiHandler(Handler):
    """Serves the document; no token is needed to read it."""

    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(self.settings["openapi"])


def operations(handler: type[Handler]) -> dict[str, Operation]:
    """The operations of a handler by HTTP method."""
    found = {}
    for method in METHODS:
        op = getattr(getattr(handler, method, None), "operation", None)
        if isinstance(op, Operation):
            found[method] = op
    return found


def document(
    routes: Iterable[tuple[str, type[Handler]]], prefix: str, version: str
) -> dict[str, Any]:
    """The document for ``routes``: paths such as ``api/v1/leases/{id}`` and their handlers."""
    routes = list(routes)
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for _, handler in routes:
        for op in operations(handler).values():
            models[(op.answer, "serialization")] = None
            if op.body is not None:
                models[(op.body, "validation")] = None
    names, schemas = models_json_schema(list(models), ref_template=REF)
    refs: dict[Any, str] = {model: schema["$ref"] for (model, _), schema in names.items()}
    paths = {
        f"/{path}": {
            method: _operation(path, method, op, refs) for method, op in operations(handler).items()
        }
        for path, handler in routes
        if operations(handler)
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Carrel GPU broker",
            "version": version,
            "description": "Leases of slices of remote GPUs. VRAM in MiB, compute in dense FP16 "
            "TFLOPS, durations in seconds. Errors are problem+json with a `code` and, if one "
            "input is at fault, its `field`.",
        },
        "servers": [{"url": prefix.rstrip("/") or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a JupyterHub token with custom:gpu:use or custom:gpu:admin",
                }
            },
        },
    }


def _operation(path: str, method: str, op: Operation, refs: dict[Any, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": method + re.sub(r"[{}]|/|^api/v1", "_", path).strip("_").title(),
        "summary": op.summary,
        "parameters": [*_parameters(path, op)],
        "responses": {
            str(op.status): {
                "description": HTTPStatus(op.status).phrase,
                "content": {"application/json": {"schema": {"$ref": refs[op.answer]}}},
            }
        },
    }
    refusals = set(op.refusals)
    if op.scope is not None:
        found["security"] = [{"token": [op.scope]}]
        refusals |= {401, 403}
    else:
        found["security"] = []
    if op.body is not None or op.query is not None:
        refusals.add(422)
    if op.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": refs[op.body]}}},
        }
    problem = {"application/problem+json": {"schema": {"$ref": refs[Problem]}}}
    for status in sorted(refusals):
        found["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": problem,
        }
    return found


def _parameters(path: str, op: Operation) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    if op.query is not None:
        for name, schema in op.query.model_json_schema()["properties"].items():
            yield {"name": name, "in": "query", "required": False, "schema": schema}
    for name, text in op.headers.items():
        yield {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string"},
        }
