"""Copies by meaning: rows whose embeddings lie so close that a student learns nothing new from the second.

Embeddings come from a sentence model of the user's choice; every row is compared with all that were kept, by one matrix
product for each block of rows. An index of nearest neighbours was weighed and left out: it misses some.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.errors import BadInput
from ..data.sources import inputs_fingerprint
from .config import MeaningRecipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCK = 256
"""Rows that are embedded and compared together; speed only."""


class Meaning:
    """Remembers the embeddings of the texts that it was shown and did not call copies.

    Shapes: B rows of a block, N texts kept, D dimensions.

    Raises:
        BadInput: the model cannot be loaded, or sentence-transformers is not installed.
    """

    def __init__(self, recipe: MeaningRecipe, folder: Path) -> None:
        import numpy as np

        self._least = recipe.similarity
        self._model = _loaded(recipe, folder)
        self._names: list[str] = []
        self._kept_ND: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)

    def seen(self, names: Sequence[str], texts: Sequence[str]) -> list[tuple[str, float] | None]:
        """Of each text the name and the cosine of the likest one before it, where that is a copy; None keeps it."""
        found: list[tuple[str, float] | None] = []
        for start in range(0, len(texts), BLOCK):
            found += self._block(names[start : start + BLOCK], texts[start : start + BLOCK])
        return found

    def _block(self, names: Sequence[str], texts: Sequence[str]) -> list[tuple[str, float] | None]:
        import numpy as np

        new_BD = self._model.encode(
            list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False, batch_size=64
        ).astype(np.float32)
        before = len(self._names)
        earlier_BN = new_BD @ self._kept_ND[:before].T if before else np.zeros((len(texts), 0), np.float32)
        among_BB = new_BD @ new_BD.T
        kept: list[int] = []
        found: list[tuple[str, float] | None] = []
        for place in range(len(texts)):
            likeness = np.concatenate([earlier_BN[place], among_BB[place, kept]])
            best = int(likeness.argmax()) if len(likeness) else -1
            if best >= 0 and likeness[best] >= self._least:
                first = self._names[best] if best < before else names[kept[best - before]]
                found.append((first, float(likeness[best])))
            else:
                kept.append(place)
                found.append(None)
        self._remember([names[place] for place in kept], new_BD[kept])
        return found

    def _remember(self, names: Sequence[str], vectors_BD: npt.NDArray[np.float32]) -> None:
        """Room is doubled where it is short: adding a block to a copy of all would take longer than comparing it."""
        import numpy as np

        count = len(self._names) + len(names)
        if count > len(self._kept_ND):
            room = np.zeros((max(4 * BLOCK, 2 * count), vectors_BD.shape[1]), np.float32)
            if self._names:
                room[: len(self._names)] = self._kept_ND[: len(self._names)]
            self._kept_ND = room
        self._kept_ND[len(self._names) : count] = vectors_BD
        self._names += names


def identity(recipe: MeaningRecipe, folder: Path) -> list[str]:
    """Which model it is: a folder by what is in it, a hub id by its name and revision."""
    local = folder / Path(recipe.model).expanduser()
    if not local.is_dir():
        return [recipe.model, recipe.revision]
    return inputs_fingerprint([path for path in local.rglob("*") if path.suffix in (".json", ".safetensors")])


def _loaded(recipe: MeaningRecipe, folder: Path) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise BadInput(
            "curate.meaning: needs sentence-transformers; `pip install 'understudy[meaning]'`, or remove it"
        ) from None
    local = folder / Path(recipe.model).expanduser()
    given = {} if local.is_dir() else {"revision": recipe.revision}
    try:
        return SentenceTransformer(
            str(local) if local.is_dir() else recipe.model,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
            **given,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        found = f"curate.meaning.model: '{recipe.model}' cannot be loaded: {said}"
        raise BadInput(f"{found}; name a sentence model's folder or hub id") from None
