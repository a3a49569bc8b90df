"""One prompt: instruction, input and response as token ids (paper 4.2, figure 3; design: the method, prompt)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ml.errors import BadInputError
from ml.prompts.items import TITLE_TOKENS, ItemLines, ItemTokens
from ml.prompts.tokens import TextTokenizer
from ml.settings import PromptSettings
from ml.text import clean_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VARIANTS = ("all", "purchases_only")
INSTRUCTION = (
    # task description
    "Recommend the fashion item that the customer buys next, from their steps. "
    # execution requirements: sequence order, fine-grained attributes, season and occasion, top exposure
    "Read the steps in order: the newest matter most. Mind fine details: type, colour, pattern, brand, size, "
    "and who wears it. Fit the season and occasion. Prefer items at the top of the results of the current search. "
    # format indicator
    "Answer with one line, code: title."
)
_ACTIONS = {"search": "Search:", "click": "Click", "purchase": "Buy"}
_RESPONSE_TOKENS = 64
"""Room kept for the response (paper 5.1: 64 new tokens), in training and at night alike, so that a customer's prompt
is cut at the same step whether or not the answer is known."""


@dataclass(frozen=True)
class ResponseFormat:
    """A response is the code's ids, `separator_ids`, the title's ids and `end_id`."""

    separator_ids: list[int]
    end_id: int


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids and as text; the response is empty where the target is not known."""

    input_ids: list[int]
    response_ids: list[int]
    text: str
    response: str


class PromptBuilder:
    """Builds prompts for one tokenizer, catalogue and set of codes.

    `instruction_ids` begin every input unchanged, so that their key/value cache can be shared; `format` says how a
    response is put together; `marker_ids` are the control ids that frame a prompt and that no text can yield.
    Raises BadInputError where `max_tokens` has no room for instruction, query and response.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, catalog: pa.Table, codes: pa.Table, settings: PromptSettings
    ) -> None:
        self._tokens = tokens = TextTokenizer(tokenizer)
        self._settings = settings
        self._items = ItemLines(tokens, catalog, codes, settings)
        self._queries: dict[str, array[int]] = {}
        markers = tokens.markers
        self.instruction_ids = [*markers.begin, *tokens.lines([INSTRUCTION])[0], *markers.after_instruction]
        self.format = ResponseFormat(tokens.suffix(":"), markers.end_id)
        self.marker_ids = frozenset(
            {*markers.begin, *markers.after_instruction, *markers.after_input, markers.end_id} & tokens.control_ids
        )
        self.line_break_ids = list(tokens.line_break)
        self._actions = dict(zip(_ACTIONS, tokens.lines(list(_ACTIONS.values())), strict=True))
        self._query_label, self._results_label = tokens.lines(["Current search:", "Top results:"])
        self._end = markers.after_input
        self._check_room()

    def prepare(self, items: Iterable[str | None], queries: Iterable[str | None]) -> None:
        """Tokenise items and queries, Nones aside, in one batch each; `build` then only puts ids together."""
        self._items.prepare(item for item in items if item)
        new = [query for query in dict.fromkeys(queries) if query and query not in self._queries]
        cleaned = [clean_text(query, self._settings.max_title_chars) for query in new]
        self._queries.update(zip(new, self._tokens.words(cleaned, TITLE_TOKENS), strict=True))

    def build(
        self,
        steps: Sequence[Mapping[str, Any]],
        query: str | None,
        memory_items: Sequence[str],
        target_item: str | None = None,
        variant: str = "all",
    ) -> Prompt:
        """Return the prompt of a customer's `steps` (rows of `ml.tables.STEP`, oldest first).

        `query` is the current search, `memory_items` the memory's products for it, best first. `variant`
        `purchases_only` leaves out searches, clicks, query and memory. Input and response together have at most
        `max_tokens` ids: the oldest steps go first, then the memory's last products. Items that the catalogue lacks
        are left out, items without a code shown by title. Raises BadInputError for a target without a code.
        """
        if variant not in VARIANTS:
            raise BadInputError(f"prompt variant {variant!r}: expected one of {', '.join(VARIANTS)}")
        if variant == "purchases_only":
            steps, query, memory_items = [step for step in steps if step["action"] == "purchase"], None, ()
        steps = steps[-self._settings.max_steps :]
        memory_items = memory_items[: self._settings.max_memory_products]
        self.prepare([*(step["item_id"] for step in steps), *memory_items], [step["query"] for step in steps])
        response = [] if target_item is None else self._response(target_item)
        room = self._settings.max_tokens - max(_RESPONSE_TOKENS, len(response))
        room -= len(self.instruction_ids) + len(self._end)
        search = self._search(query, memory_items, room)
        history = self._history(steps, room - len(search))
        ids = [*self.instruction_ids, *history, *search, *self._end]
        return Prompt(ids, response, self._tokens.decode(ids), self._tokens.decode(response[:-1]).strip())

    def _check_room(self) -> None:
        fixed = len(self.instruction_ids) + len(self._end)
        label = len(self._query_label) + TITLE_TOKENS + len(self.line_break_ids)
        needed = fixed + label + _RESPONSE_TOKENS
        if self._settings.max_tokens < needed:
            raise BadInputError(
                f"prompts.max_tokens is {self._settings.max_tokens}: instruction, current search and response take "
                f"{needed} with this tokenizer; expected more than that, so that steps fit too"
            )

    def _response(self, target: str) -> list[int]:
        item = self._items.get(target)
        if item is None or not item.code:
            what = "is not in the catalogue" if item is None else "has no code for this tokenizer"
            raise BadInputError(f"target item {target!r} {what}: its response cannot be written")
        return [*item.code, *self.format.separator_ids, *item.title, self.format.end_id]

    def _search(self, query: str | None, memory_items: Sequence[str], room: int) -> list[int]:
        """The current search and the memory's products, as many as fit."""
        ids = [] if not query else [*self._query_label, *self._query(query), *self.line_break_ids]
        head = [*self._results_label, *self.line_break_ids]
        products: list[int] = []
        for item_id in memory_items:
            item = self._items.get(item_id)
            if item is None:
                continue
            line = [*self._named(item), *self.line_break_ids]
            if len(ids) + len(head) + len(products) + len(line) > room:
                break
            products += line
        return [*ids, *head, *products] if products else ids

    def _history(self, steps: Sequence[Mapping[str, Any]], room: int) -> list[int]:
        """The newest steps that fit, oldest first."""
        lines: list[list[int]] = []
        for step in reversed(steps):
            line = self._step(step)
            room -= len(line)
            if room < 0:
                break
            lines.append(line)
        return [i for line in reversed(lines) for i in line]

    def _step(self, step: Mapping[str, Any]) -> list[int]:
        action = self._actions[step["action"]]
        if step["action"] == "search":
            return [*action, *self._query(step["query"]), *self.line_break_ids] if step["query"] else []
        item = self._items.get(step["item_id"])
        if item is None:
            return []
        return [*action, *self._named(item), *item.attributes, *self.line_break_ids]

    def _named(self, item: ItemTokens) -> list[int]:
        return [*item.code, *self.format.separator_ids, *item.title] if item.code else [*item.title]

    def _query(self, query: str) -> array[int]:
        if query not in self._queries:
            self.prepare([], [query])
        return self._queries[query]
