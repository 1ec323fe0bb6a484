"""The kinds of teacher that a recipe can name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .embedded import EmbeddedRecipe
from .openai import OpenAIRecipe
from .table import TableRecipe
from .transformers import TransformersRecipe
from .vllm import VllmRecipe

AnyTeacher = Annotated[
    OpenAIRecipe | TransformersRecipe | VllmRecipe | EmbeddedRecipe | TableRecipe, Field(discriminator="kind")
]
