"""OpenAPI schemas of our msgspec structs, self-contained so that they can stand inside any operation."""

from typing import Any

import msgspec


def schema_of(shape: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of ``shape`` with every reference written out."""
    schema, components = msgspec.json.schema_components([shape], ref_template="{name}")
    inlined = _inline(schema[0], components)
    assert isinstance(inlined, dict)
    return inlined


def _inline(node: Any, components: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            return _inline(components[node["$ref"]], components)
        inlined = {key: _inline(value, components) for key, value in node.items()}
        if "pattern" in inlined:  # Python's end of text is \\Z; in JSON Schema's dialect (ECMA-262) it is $
            inlined["pattern"] = str(inlined["pattern"]).replace("\\Z", "$")
        return inlined
    if isinstance(node, (list, tuple)):
        return [_inline(value, components) for value in node]
    return node
