"""The control plane's operations and shapes, judged by botocore's model of the service."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore.model import OperationModel, StructureShape

from hwsigner.emulator.control.operations import OPERATIONS
from hwsigner.emulator.control.shapes import Binary, Choice, Items, Shape, Structure, Text, Truth, Whole

MODEL = botocore.session.Session().get_service_model("rolesanywhere")


def form(shape: Any) -> object:
    """Return a shape of botocore's model as a value, to compare."""
    limits = (shape.metadata.get("min"), shape.metadata.get("max"))
    if isinstance(shape, StructureShape):
        members = {name: form(member) for name, member in shape.members.items()}
        return ("structure", members, set(shape.required_members), bool(shape.is_tagged_union))
    if shape.type_name == "list":
        return ("list", form(shape.member), *_at_least(limits))
    if shape.type_name == "string":
        if getattr(shape, "enum", None):
            return ("enum", set(shape.enum))
        return ("string", *_at_least(limits), shape.metadata.get("pattern", ""))
    return (shape.type_name, *(_at_least(limits) if shape.type_name == "blob" else limits if any(limits) else ()))


def our_form(shape: Shape) -> object:
    """Return a shape of the emulator as a value, to compare."""
    match shape:
        case Structure():
            members = {name: our_form(member) for name, member in shape.members.items()}
            return ("structure", members, set(shape.required), shape.is_union)
        case Items():
            return ("list", our_form(shape.member), shape.least, shape.most)
        case Choice():
            return ("enum", set(shape.values))
        case Text():
            return ("string", shape.least, shape.most, shape.pattern)
        case Binary():
            return ("blob", shape.least, shape.most)
        case Whole():
            limits = (shape.least, shape.most)
            return ("integer", *(limits if any(limits) else ()))
    assert isinstance(shape, Truth)
    return ("boolean",)


def _at_least(limits: tuple[int | None, int | None]) -> tuple[int, int | None]:
    return (limits[0] or 0, limits[1])


def _operation(name: str) -> OperationModel:
    return MODEL.operation_model(name)


def test_every_operation_of_the_model_is_implemented() -> None:
    assert set(OPERATIONS) == set(MODEL.operation_names)


@pytest.mark.parametrize("name", MODEL.operation_names)
def test_operation_is_sent_and_answered_as_in_the_model(name: str) -> None:
    ours, http = OPERATIONS[name], _operation(name).http
    assert (ours.method, ours.path, ours.status) == (http["method"], http["requestUri"], http["responseCode"])


@pytest.mark.parametrize("name", MODEL.operation_names)
def test_members_have_the_shapes_and_places_of_the_model(name: str) -> None:
    theirs = _operation(name).input_shape
    assert theirs is not None
    assert our_form(OPERATIONS[name].input) == form(theirs)
    places = {
        member: each.serialization.get("location")
        for member, each in theirs.members.items()
        if each.serialization.get("location")
    }
    assert places == {
        member: "uri" if f"{{{member}}}" in OPERATIONS[name].path else "querystring"
        for member in theirs.members
        if f"{{{member}}}" in OPERATIONS[name].path or member in OPERATIONS[name].query
    }
