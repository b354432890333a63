"""The model of a generation that the configuration does not name: what a search needs after a promotion.

A service goes on while another generation goes live, maybe one of another model; until it is started with the new
configuration it takes the model by the name that the generation keeps. The fingerprint decides whether it is the one:
a name that leads to another revision is of no use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from m3core.config.model import ModelSection
from m3core.errors import ModelError, UsageError
from pipelines.query.encoding import ModelEncoder, QueryEncoder
from pipelines.query.joined import Joined
from pipelines.state.collection import Generation


@dataclass
class OtherModels:
    """Opens the model of a generation by its name; `section` says on what device, and in what precision.

    One is kept: generations follow each other.
    """

    section: ModelSection
    base: Path
    _kept: tuple[str, ModelEncoder] | None = field(default=None, init=False)
    _opening: Joined[QueryEncoder | None] = field(default_factory=Joined, init=False)

    async def find(self, generation: Generation) -> QueryEncoder | None:
        """The encoder whose vectors meet those of the generation; None if its name leads to none.

        Requests that ask at once get the same one.
        """
        if self._kept is not None and self._kept[0] == generation.encoder_fingerprint:
            return self._kept[1]
        wanted = (generation.model, generation.encoder_fingerprint)
        return await self._opening.outcome(wanted, partial(self._open, generation))

    async def _open(self, generation: Generation) -> QueryEncoder | None:
        section = self.section.model_copy(update={"name": generation.model, "revision": None})
        encoder = ModelEncoder(section, self.base)
        try:
            fingerprint = (await encoder.facts()).fingerprint
        except (ModelError, UsageError):
            fingerprint = ""
        if fingerprint != generation.encoder_fingerprint:
            await encoder.aclose()
            return None
        # A request that began with the one before still holds it.
        self._kept = fingerprint, encoder
        return encoder

    async def aclose(self) -> None:
        """Release what is kept; idempotent."""
        await self._opening.aclose()
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept[1].aclose()
