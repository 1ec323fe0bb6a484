"""distilabel's Tasks over our teachers: its prompts and parsers, our requests, window and ledger.

Upstream has stopped, so the version is pinned and all of distilabel is reached from this package. Its Pipeline was
weighed as the engine and left out: it asks in waves, and one bad prompt empties its batch of 50.

    library      distilabel, imported and made safe
    llm          a teacher as one of its LLMs
    task         a Task over many rows
    strategies   Tasks that make our rows of our rows

Imported on purpose only: this package imports distilabel, with datasets and pandas, in 1.3 s.
"""

from .llm import TeacherLLM
from .strategies import best_rated, classify, evolve, magpie, write_labelled
from .task import Candidate, Output, arriving, run_task

__all__ = [
    "Candidate",
    "Output",
    "TeacherLLM",
    "arriving",
    "best_rated",
    "classify",
    "evolve",
    "magpie",
    "run_task",
    "write_labelled",
]
