"""Answering prompts: an item that exists and is available, then a title, for many rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.errors import BadInputError
from ml.generation.trie import CodeTrie
from ml.settings import GenerationSettings
from ml.text import clean_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ml.generation.batch import Row
    from ml.generation.prefix_cache import PrefixCache
    from ml.prompts import ResponseFormat


@dataclass(frozen=True)
class Generated:
    """What the model wrote for one row.

    `log_probability` is that of the item's code under the model's own full softmax at temperature 1 (natural
    logarithm), not renormalised over the codes that exist: low where the constraint had to push. Where the constraint
    failed (no available item, a model that computes NaN) there is no item and no title, and `parsed` is false.
    `candidates` are the items that a beam search found with their log-probabilities, best first; empty without one.
    """

    item_id: str | None
    title: str
    log_probability: float | None
    parsed: bool
    candidates: tuple[tuple[str, float], ...] = ()


FAILED = Generated(None, "", None, False)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[list[int]],
    instruction_ids: list[int],
    trie: CodeTrie,
    response_format: ResponseFormat,
    settings: GenerationSettings,
    row_keys: Sequence[str],
    *,
    prefix: PrefixCache | None = None,
    on_finished: Callable[[], object] | None = None,
) -> list[Generated]:
    """Answer every input, in the order of `inputs` (paper 4.3, 5.1).

    The keys and values of `instruction_ids`, with which every input starts, are computed once (or given as `prefix`,
    see `instruction_cache`). Inputs of similar length share a batch of at most `settings.batch_size` rows. A row writes
    the tokens of a code of `trie`, everything else masked before the temperature (with `settings.beams`, the most
    likely code of a beam search); then the separator; then a title
    without control tokens up to the end token, at most `settings.max_new_tokens` in all. `row_keys` seed the rows'
    noise, so that in float32 an answer does not depend on the batch. In 16 bits the batch's rounding alone can change a
    nearly equal choice; the same batches repeat exactly. A progress bar counts the rows; with `on_finished` that is
    called instead, once per row.

    Raises BadInputError for an input that does not start with the instruction or holds an unknown token, settings too
    small for the longest code, and a model that cannot do this.
    """
    if len(row_keys) != len(inputs):
        raise BadInputError(f"generation: {len(row_keys)} row keys for {len(inputs)} inputs; expected one per input")
    if not inputs:
        return []
    _check(model, inputs, instruction_ids, trie, settings)
    if not len(trie):
        return [FAILED] * len(inputs)

    from tqdm import tqdm

    from ml.generation.batch import BatchWriter

    answers = [FAILED] * len(inputs)
    hidden = True if on_finished else None
    with evaluating(model), tqdm(total=len(inputs), unit="user", desc="generating", disable=hidden) as bar:
        prefix = instruction_cache(model, instruction_ids) if prefix is None else prefix
        banned = _control_ids(tokenizer, model.get_output_embeddings())
        writer = BatchWriter(
            model, prefix, trie, response_format.separator_ids, response_format.end_id, banned, settings
        )
        for batch in _batches(inputs, settings.batch_size):

            def finished(row: Row, batch: list[int] = batch) -> None:
                answers[batch[row.index]] = _answer(row, tokenizer)
                (on_finished or bar.update)()

            writer.write([inputs[i] for i in batch], [row_keys[i] for i in batch], finished)
    return answers


def instruction_cache(model: PreTrainedModel, instruction_ids: Sequence[int]) -> PrefixCache:
    """Return the shared prefix's keys and values: all of the instruction but its last token.

    The last is read with each row, so that an input that is the instruction and no more has a token to go on from.
    """
    from ml.generation.prefix_cache import PrefixCache

    with evaluating(model):
        return PrefixCache.compute(model, instruction_ids[:-1])


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off inside the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check(
    model: PreTrainedModel,
    inputs: Sequence[list[int]],
    instruction_ids: list[int],
    trie: CodeTrie,
    settings: GenerationSettings,
) -> None:
    from ml.generation.prefix_cache import refuse_unsuited

    embeddings: Any = model.get_input_embeddings()
    vocabulary = embeddings.weight.shape[0]
    for row, ids in enumerate(inputs):
        if not ids or ids[: len(instruction_ids)] != instruction_ids:
            raise BadInputError(
                f"generation: input {row} is empty or does not start with the instruction's {len(instruction_ids)} "
                "token ids; expected prompts made with this tokenizer and these settings: build them again"
            )
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise BadInputError(
                f"generation: input {row} holds a token id outside 0..{vocabulary - 1}, the model's vocabulary; "
                "expected prompts made with this model's tokenizer"
            )
    if trie.max_token >= vocabulary:
        raise BadInputError(
            f"generation: item codes hold token id {trie.max_token}, the model's vocabulary ends at {vocabulary - 1}; "
            "expected codes made with this model's tokenizer"
        )
    if trie.depth > settings.max_new_tokens:
        raise BadInputError(
            f"generation.max_new_tokens is {settings.max_new_tokens}; expected at least {trie.depth}, the longest code"
        )
    refuse_unsuited(model, max(map(len, inputs)) + settings.max_new_tokens)


def _control_ids(tokenizer: PreTrainedTokenizerBase, head: Any) -> list[int]:
    """Return the tokens that are control, not text: special ones, and rows of the model that no token has."""
    vocabulary = head.weight.shape[0]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    unused = range(len(tokenizer), vocabulary)
    return sorted(i for i in {*special, *tokenizer.all_special_ids, *unused} if i < vocabulary)


def _batches(inputs: Sequence[list[int]], batch_size: int) -> list[list[int]]:
    """Return row numbers in batches of similar length, longest first: a batch that does not fit fails at once."""
    order = sorted(range(len(inputs)), key=lambda i: (-len(inputs[i]), i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _answer(row: Row, tokenizer: PreTrainedTokenizerBase) -> Generated:
    if row.item_id is None:
        return FAILED
    # U+FFFD: bytes that are not (or not yet) a character.
    title = clean_text(str(tokenizer.decode(row.title_ids, skip_special_tokens=True)).replace("\ufffd", ""))
    candidates = tuple((found.item_id, found.log_probability) for found in row.candidates)
    return Generated(row.item_id, title, row.log_probability, True, candidates)
