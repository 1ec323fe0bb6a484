"""distilabel itself, imported and made safe; the rest of this package takes it from here.

Left alone, importing it makes 183 warnings, replaces the hook that prints uncaught errors by one that prints the
variables too, API keys among them, and it reads what a model wrote with `eval`.
"""

from __future__ import annotations

import ast
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic.warnings import UnsupportedFieldAttributeWarning

from ...data.errors import BadInput


@contextmanager
def quietly() -> Iterator[None]:
    """Around what builds distilabel's models, each of which warns of the fields it inherits."""
    hook = sys.excepthook
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)
            yield
    finally:
        sys.excepthook = hook


try:
    with quietly():
        from distilabel.models.llms.base import LLM as LLM
        from distilabel.models.mixins.magpie import MagpieChatTemplateMixin as MagpieChatTemplateMixin
        from distilabel.steps.tasks import EvolInstruct as EvolInstruct
        from distilabel.steps.tasks import GenerateTextClassificationData as GenerateTextClassificationData
        from distilabel.steps.tasks import Magpie as Magpie
        from distilabel.steps.tasks import Task as Task
        from distilabel.steps.tasks import TextClassification as TextClassification
        from distilabel.steps.tasks import UltraFeedback as UltraFeedback
        from distilabel.steps.tasks import improving_text_embeddings
except ModuleNotFoundError as error:
    raise BadInput(
        f"teachers.distilabel: there is no module '{error.name}'; run `pip install 'understudy[distilabel]'`"
    ) from None


def literal(text: str) -> Any:
    """JSON or a Python literal, and nothing that runs."""
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


improving_text_embeddings.eval = literal

logging.getLogger("distilabel.step.None").setLevel(logging.ERROR)  # there it says of every Task: not in a Pipeline
