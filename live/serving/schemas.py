"""The requests and answers of the service, as its OpenAPI description shows them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from ..plain import HALF_PAIR, check_id, is_text


def _of_characters(x: Any) -> Any:
    """Return a value of a request, all of whose texts UTF-8 can hold.

    Raises:
        ValueError: If one cannot be written.
    """
    try:
        text = x if isinstance(x, str) else json.dumps(x, ensure_ascii=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not is_text(text):
        raise ValueError(f"a text {HALF_PAIR}")
    return x


def _id(value: str) -> str:
    check_id(value)
    return value


Sample = Annotated[Any, AfterValidator(_of_characters)]
Id = (
    Annotated[StrictStr, Field(max_length=200), AfterValidator(_id)]
    | Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
)
Label = Annotated[
    StrictStr | StrictBool | StrictInt | StrictFloat | list[StrictStr | StrictInt], AfterValidator(_of_characters)
]

SAMPLE = (
    "A text; the two texts of a pair; an image, as the base64 of its file or as nested lists of numbers; or an object "
    "of columns, or of numbers for a model of tables. Never a path or an address: nothing is read or fetched for it."
)


FORM = {
    "x": {"description": "The file of an image, or a text.", "format": "binary"},
    "y": {"description": "Its label; several fields are a list of classes."},
    "id": {"description": "Its id, which is a text here."},
}


def form(*names: str) -> dict[str, Any]:
    """Return the description of a body that is a form with an uploaded file, in place of JSON."""
    fields = {name: {"type": "string", **FORM[name]} for name in names}
    schema = {"type": "object", "properties": fields, "required": [name for name in names if name != "id"]}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}}}


class Request(BaseModel):
    """A request to the service; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class ToPredict(Request):
    """A sample to be predicted."""

    x: Sample = Field(description=SAMPLE, examples=["a fine film"])
    id: Id | None = Field(None, description="Keeps the sample until its label comes by /feedback.", examples=["a1"])


class ToLearn(Request):
    """A sample to be learned."""

    x: Sample = Field(description=SAMPLE, examples=["a fine film"])
    y: Label = Field(description="Its label: the class itself, a list of classes, or a number.", examples=["pos"])
    id: Id | None = Field(None, description="With an id it is learned once, however often it is sent.")


class Feedback(Request):
    """The label of a sample that waits."""

    id: Id = Field(description="The id that the sample was predicted with.", examples=["a1"])
    y: Label = Field(description="Its label.", examples=["pos"])


class ManyToPredict(Request):
    """Samples to be predicted, all with the parameters of one moment."""

    samples: list[ToPredict] = Field(min_length=1, description="The samples.")


class ManyToLearn(Request):
    """Samples to be learned one after the other; all of them are accepted, or none."""

    samples: list[ToLearn] = Field(min_length=1, description="The samples.")


class Feedbacks(Request):
    """Labels of samples that wait, learned one after the other."""

    labels: list[Feedback] = Field(min_length=1, description="The labels.")


class Predicted(BaseModel):
    """A prediction as it is answered."""

    prediction: Any = Field(description="The class, the list of classes, or the number; null before there are classes.")
    probability: dict[str, float | None] | None = Field(None, description="The probability of each class.")
    outcome: str | None = Field(
        None, description="waiting: kept for its label; duplicate: its id was kept or learned before."
    )


class ManyPredicted(BaseModel):
    """Predictions in the order of the request."""

    predictions: list[Predicted] = Field(description="One for each sample.")


class Accepted(BaseModel):
    """The outcome of labels; they are on the disk."""

    outcomes: list[str] = Field(
        description="Of each label: accepted; duplicate: it had been accepted before; unknown: no sample waits for it; "
        "with learned=true also rejected: by the labels before it, it was none any more when it was to be learned."
    )


class Problem(BaseModel):
    """An error as it is answered."""

    error: str = Field(description="What is wrong, in one line.")
