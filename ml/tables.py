"""The schema of every table: names, Arrow types and one sentence per column.

The single truth: validation before publication, Dagster's column metadata and the README's data dictionary are all
made from `TABLES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
STEP = pa.struct(
    [
        ("event_time", TIME),
        ("event_id", pa.string()),
        ("action", pa.string()),
        ("item_id", pa.string()),
        ("query", pa.string()),
        ("position", pa.int32()),
    ]
)
"""One step of a sequence: a search has a query and no item; a click or purchase has an item and maybe its query."""

CANDIDATE = pa.struct([("item_id", pa.string()), ("log_probability", pa.float64())])
"""An item the language model considered, and the log-probability of its code."""


EVENT_IDS = ("event_id", "example_id")
"""Columns that identify an event, and with the raw log the person behind it: never in a preview."""
WRITTEN = ("query", "query_original", "target_query")
"""Columns of what people wrote: never in a preview."""


@dataclass(frozen=True)
class Column:
    """A column: its name, type, what it means, and whether every row must have it."""

    name: str
    type: pa.DataType
    description: str
    required: bool = True


@dataclass(frozen=True)
class Table:
    """A table of the warehouse.

    `levels` are the Hive levels below the table's folder, outermost first; their values are in the path, not in the
    files. `key` names the columns that identify a row inside a partition. `order` is the row order inside a file.
    """

    name: str
    row: str
    levels: tuple[str, ...]
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    personal: tuple[str, ...] = ("user_id", "session_id")

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the files, with each column's sentence as field metadata."""
        return pa.schema(
            [
                pa.field(c.name, c.type, nullable=not c.required, metadata={"description": c.description})
                for c in self.columns
            ]
        )

    @property
    def names(self) -> list[str]:
        """The column names in file order."""
        return [c.name for c in self.columns]

    @property
    def personal_columns(self) -> list[str]:
        """Columns that identify a person: never in a preview or a log."""
        return [name for name in self.names if name in self.personal]


S, I32, I64, F64, B = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()

_EVENT = (
    Column("event_id", S, "The event's id in the raw log; unique."),
    Column("user_id", S, "The customer."),
    Column("session_id", S, "The visit, where the log has one.", False),
    Column("event_time", TIME, "When it happened, in UTC."),
    Column("action", S, "search, click or purchase."),
    Column("item_id", S, "The item clicked or bought; null for a search.", False),
    Column("query", S, "The search text, normalised (NFKC, lower case, single spaces).", False),
    Column("query_original", S, "The search text as the customer wrote it.", False),
    Column("position", I32, "Organic 1-based rank of the item in the search result it came from.", False),
)
_CATEGORY = Column("category", S, "The item's category; for a search, that of the item step it led to.")
_VERSIONS = (
    Column("model_version", S, "Registered version of the language model's adapter, if one took part.", False),
    Column("title_encoder_version", S, "Registered version of the title encoder, if one took part.", False),
    Column("item_embeddings_version", S, "Registered version of the item embeddings, if they took part.", False),
    Column("ranker_version", S, "Registered version of the ranker that ordered the list, if one did.", False),
    Column("fitted_until", S, "Newest day whose events any of these models was fitted on.", False),
    Column("model_from_future", B, "True where a model was fitted on events later than this table's day."),
)
_EXAMPLE_SPLITS = (
    Column("temporal_split", S, "train, validation or test by the day of the purchase."),
    Column("leave_one_out_split", S, "test: the user's last purchase in the category; validation: the one before."),
)

_ORIGIN = (
    Column("data", S, "Newest day of the examples, and a hash of the tables read."),
    Column("settings", S, "Settings that can change the result, as JSON."),
    Column("seed", I64, "Seed of the sample of test examples; those of the fits are among the settings."),
    Column("code_version", S, "Installed version of Hemline and a hash of its code."),
    Column("run_id", S, "MLflow run that holds the details."),
)
_VIEW = (
    Column("system", S, "ours, ours_mixup, popularity, markov, item_knn, core, gru4rec, sasrec, …"),
    Column("split", S, "temporal, leave_one_out, or nightly: temporal, as the night before the purchase saw it."),
    Column("actions", S, "all or purchases_only: which steps every system saw."),
)
_CANDIDATES = Column("candidates", S, "catalogue: the whole category; available: as of the target's day.")
_METRIC = (
    Column("metric", S, "recall, ndcg (both at K) or mrr (over the full ranking)."),
    Column("k", I32, "K of recall and ndcg."),
)


def _interval(value: str, required: bool = True) -> tuple[Column, ...]:
    return (
        Column("value", F64, value),
        Column("low", F64, "Lower end of the bootstrap interval.", required),
        Column("high", F64, "Upper end of the bootstrap interval.", required),
    )


def _table(name: str, row: str, columns: Sequence[Column], **options: tuple[str, ...]) -> Table:
    return Table(name, row, options.pop("levels", ()), tuple(columns), **options)


_ALL = [
    _table(
        "interactions",
        "a clean event with its category",
        [*_EVENT, Column("category", S, "The item's category; for a search that led to no item step, null.", False)],
        levels=("date",),
        key=("event_id",),
    ),
    _table(
        "rejected_interactions",
        "a row of the raw log that broke the contract, with the reason",
        [
            Column("event_id", S, "The row's event_id, as far as it could be read.", False),
            Column("reason", S, "Which rule the row broke."),
            Column("source_file", S, "The raw file it came from, relative to the raw log."),
            Column("row", S, "The whole raw row as JSON."),
        ],
        levels=("date",),
        personal=("row", "event_id"),
    ),
    _table(
        "catalog",
        "an item of the catalogue",
        [
            Column("item_id", S, "The item's id; unique."),
            Column("title", S, "The title, cleaned of control characters and cut to a sane length; never empty."),
            Column("category", S, "A listed category, or 'other'."),
            Column("attributes", pa.map_(S, S), "Further attributes, by catalogue column name."),
            Column("first_seen", pa.date32(), "Day of the item's first event, or of its first listing.", False),
            Column("last_seen", pa.date32(), "Day of the item's newest event.", False),
            Column("listed_on", pa.date32(), "Day the item joined; null for the first catalogue's items.", False),
            Column("available", B, "The catalogue's own availability; null where it has no such column.", False),
        ],
        key=("item_id",),
        personal=(),
    ),
    _table(
        "item_codes",
        "an item's short code for one tokenizer; append-only, never reused",
        [
            Column("tokenizer", S, "Fingerprint of the tokenizer the code is made for."),
            Column("item_id", S, "The item."),
            Column("ordinal", I64, "The item's number: 0, 1, 2, … in order of first assignment."),
            Column("code", pa.list_(I32), "The code as token ids; no code is the beginning of another."),
            Column("text", S, "The code as text, as a person sees it in a prompt."),
        ],
        key=("tokenizer", "item_id"),
        personal=(),
    ),
    _table(
        "query_daily",
        "how often a query led to an item on a day",
        [
            _CATEGORY,
            Column("query", S, "The normalised search text."),
            Column("item_id", S, "The item clicked or bought from it."),
            Column("clicks", I64, "Clicks on the item from this query."),
            Column("purchases", I64, "Purchases of the item from this query."),
            Column("positions", I64, "Events with a known organic position."),
            Column("position_sum", I64, "Sum of those positions; divided by `positions` it is the mean."),
        ],
        levels=("date",),
        key=("category", "query", "item_id"),
        personal=(),
    ),
    _table(
        "query_vectors",
        "a query's unit-length vector by one encoder; append-only",
        [
            Column("encoder", S, "Name of the text encoder."),
            Column("query", S, "The normalised search text."),
            Column("vector", pa.list_(pa.float32()), "Unit-length embedding."),
        ],
        key=("encoder", "query"),
        personal=(),
    ),
    _table(
        "query_memory",
        "a query of the newest day's memory and its best products",
        [
            Column("as_of", S, "Newest day the memory has seen."),
            _CATEGORY,
            Column("query", S, "The normalised search text."),
            Column("items", pa.list_(S), "The query's top products, best first."),
            Column("mean_positions", pa.list_(F64), "Mean organic position of each; null where unknown."),
            Column("clicks", pa.list_(I64), "Clicks on each from this query in the window."),
            Column("purchases", pa.list_(I64), "Purchases of each from this query in the window."),
        ],
        key=("category", "query"),
        personal=(),
    ),
    _table(
        "training_sequences",
        "a purchase with the steps before it, and its splits",
        [
            Column("example_id", S, "The purchase's event_id."),
            Column("user_id", S, "The customer."),
            Column("target_item", S, "The item bought."),
            Column("target_time", TIME, "When it was bought."),
            Column("target_date", pa.date32(), "The shop's day of the purchase."),
            Column("query", S, "The current query: the newest search step's text; null without a search step.", False),
            Column("target_query", S, "The query the purchase names: part of the target, never an input.", False),
            Column("steps", pa.list_(STEP), "The steps before the purchase, oldest first, filtered by `click_filter`."),
            Column(
                "night_clicks",
                pa.list_(STEP),
                "Clicks that the filter took from `steps`, but the night before the purchase's day still showed.",
            ),
            Column("item_steps", I32, "How many of the steps are clicks or purchases."),
            Column("eligible", B, "Has enough item steps to be an example; others only fit item models."),
            *_EXAMPLE_SPLITS,
        ],
        levels=("category",),
        key=("example_id",),
    ),
    _table(
        "prompts",
        "a prompt as token ids and text",
        [
            Column("example_id", S, "The purchase's event_id."),
            Column("user_id", S, "The customer."),
            Column("category", S, "The category the example comes from; a pooled partition holds several."),
            Column("target_item", S, "The item bought."),
            Column("target_date", pa.date32(), "The shop's day of the purchase."),
            *_EXAMPLE_SPLITS,
            Column("variant", S, "all, or purchases_only: shown without searches, clicks and memory."),
            Column("input_ids", pa.list_(I32), "Instruction and input as token ids."),
            Column("response_ids", pa.list_(I32), "The response as token ids, with its end marker."),
            Column("text", S, "Instruction and input as text, for people."),
            Column("response", S, "The response as text, for people."),
        ],
        levels=("category",),
        key=("example_id", "variant"),
    ),
    _table(
        "prompt_perplexity",
        "a training prompt's perplexity after the first epochs",
        [
            Column("example_id", S, "The purchase's event_id."),
            Column("variant", S, "all or purchases_only."),
            Column("perplexity", F64, "exp of the mean negative log-likelihood per response token."),
            Column("trained_longer", B, "Whether it was among the hardest and trained for more epochs."),
        ],
        levels=("category",),
        key=("example_id", "variant"),
        personal=(),
    ),
    _table(
        "query_title_pairs",
        "a query and the title bought from it",
        [
            Column("event_id", S, "The purchase's event_id."),
            Column("query", S, "The normalised search text."),
            Column("item_id", S, "The item bought."),
            Column("title", S, "Its title."),
            Column("date", pa.date32(), "The shop's day of the purchase."),
            *_EXAMPLE_SPLITS,
        ],
        levels=("category",),
        key=("event_id",),
        personal=(),
    ),
    _table(
        "user_histories",
        "an active user's steps in one category up to the day",
        [
            Column("category", S, "The steps' category; `other`, and no step, for who is active without any."),
            Column("user_id", S, "The customer."),
            Column("steps", pa.list_(STEP), "The newest steps up to the end of the day, oldest first."),
            Column("item_steps", I32, "How many of them are clicks or purchases."),
            Column("recent_events", I32, "Events in the active window, over all categories: how active the user is."),
        ],
        levels=("date",),
        key=("category", "user_id"),
    ),
    _table(
        "generations",
        "what the language model wrote for a user",
        [
            Column("user_id", S, "The customer."),
            Column("item_id", S, "The item it named; null where the constraint failed.", False),
            Column("title", S, "The title it wrote; may be empty.", False),
            Column("log_probability", F64, "Log-probability of the item's code.", False),
            Column("parsed", B, "Whether the code named an available item."),
            Column("candidates", pa.list_(CANDIDATE), "The items its beam search found, best first; may be empty."),
            Column("prompt_hash", S, "Hash of prompt, model and generation settings: unchanged means nothing to do."),
            Column("model_version", S, "Registered version of the adapter that wrote it."),
            Column("generated_on", S, "Day it was written; an older day means carried forward."),
        ],
        levels=("date", "category"),
        key=("user_id",),
    ),
    _table(
        "recommendations",
        "one of the K items for a customer",
        [
            Column("user_id", S, "The customer."),
            Column("rank", I32, "1 is best."),
            Column("item_id", S, "The item."),
            Column("score", F64, "Score within its list; only comparable for one user and source."),
            Column("source", S, "language_model, carried, retrieval or popular: how the customer's list was made."),
            Column("part", S, "fusion; or the list of the mixup that gave this item: id or title; or popular."),
            Column("listed_on", S, "Day the list was made; older than the table's day where carried."),
            *_VERSIONS,
        ],
        levels=("date", "category"),
        key=("user_id", "rank"),
    ),
    _table(
        "realised",
        "how yesterday's published table did against today's purchases",
        [
            Column("category", S, "The category."),
            Column("source", S, "all, or the source of the customers' lists."),
            Column("metric", S, "recall, ndcg or mrr, at K."),
            Column("value", F64, "Mean over customers who bought.", False),
            Column("low", F64, "Lower end of the bootstrap interval.", False),
            Column("high", F64, "Upper end of the bootstrap interval.", False),
            Column("customers", I64, "Customers who bought in the category today and stand in yesterday's table."),
            Column("buyers", I64, "Customers who bought in the category today."),
        ],
        levels=("date",),
        key=("category", "source", "metric"),
        personal=(),
    ),
    _table(
        "night_health",
        "a number that tells whether a night's table is like those before it",
        [
            Column("category", S, "The category."),
            Column("source", S, "all, or the source of the customers' lists."),
            Column("metric", S, "users, items, carried_share, popular_share, model_age_days, score_p10, score_p50, "
                   "score_p90, overlap or recall."),
            Column("value", F64, "Its value; null where it cannot be told.", False),
            Column("customers", I64, "Customers it is told from."),
        ],
        levels=("date",),
        key=("category", "source", "metric"),
        personal=(),
    ),
    _table(
        "evaluation_metrics",
        "a metric of one system with its interval",
        [
            *_VIEW,
            _CANDIDATES,
            *_METRIC,
            *_interval("The mean over the test examples."),
            Column("examples", I64, "Test examples scored."),
            *_ORIGIN,
        ],
        levels=("category",),
        key=("system", "split", "actions", "candidates", "metric"),
        personal=(),
    ),
    _table(
        "evaluation_ranks",
        "the rank one system gave one test example's target",
        [
            Column("example_id", S, "The purchase's event_id."),
            *_VIEW,
            _CANDIDATES,
            Column("rank", I64, "1-based rank of the bought item, ties against the system; null where it never ranks.",
                   False),
        ],
        levels=("category",),
        key=("example_id", "system", "split", "actions", "candidates"),
        personal=(),
    ),
    _table(
        "evaluation_differences",
        "by how much ours leads another system on the same test examples",
        [
            *_VIEW,
            _CANDIDATES,
            *_METRIC,
            *_interval("Ours minus the system, the mean over the test examples; the interval is of paired resamples."),
            Column("ratio", F64, "Ours divided by the system, minus 1; null where the system has 0.", False),
            Column("examples", I64, "Test examples scored by both."),
        ],
        levels=("category",),
        key=("system", "split", "actions", "candidates", "metric"),
        personal=(),
    ),
    _table(
        "evaluation_breakdowns",
        "a metric of one system on one group of the test examples, among the whole catalogue",
        [
            Column("breakdown", S, "What the examples are grouped by: history, search, repeat or cold."),
            Column("group", S, "The group; those of `cold` lie in each other."),
            *_VIEW,
            *_METRIC,
            *_interval("The mean over the group's examples.", required=False),
            Column("examples", I64, "Examples of the group."),
        ],
        levels=("category",),
        key=("breakdown", "group", "system", "split", "actions", "metric"),
        personal=(),
    ),
    _table(
        "evaluation_costs",
        "what one system cost on one view of the log",
        [
            *_VIEW,
            Column("fit_seconds", F64, "Seconds to fit it; of ours the ranker alone, whose inputs other assets fit."),
            Column("rank_seconds", F64, "Seconds to rank the test examples, among both kinds of candidates; of ours "
                   "with the language model's answers, those kept from an earlier try excepted."),
            Column("examples_per_second", F64, "Test examples ranked per second."),
            Column("peak_memory_mib", I64, "Peak resident memory of the whole process meanwhile."),
            Column("examples", I64, "Test examples ranked."),
        ],
        levels=("category",),
        key=("system", "split", "actions"),
        personal=(),
    ),
    _table(
        "evaluation_lists",
        "one of the K items a system recommends for a test example, among the whole catalogue",
        [
            Column("example_id", S, "The purchase's event_id."),
            *_VIEW,
            Column("rank", I32, "1 is best."),
            Column("item_id", S, "The item."),
        ],
        levels=("category",),
        key=("example_id", "system", "split", "actions", "rank"),
        personal=(),
    ),
    _table(
        "experiment_metrics",
        "a metric of one system in one experiment",
        [
            Column("kind", S, "ablation, zero_shot or low_resource."),
            Column("question", S, "What the experiment asks."),
            Column("system", S, "ours_mixup; in zero-shot and low resource other systems beside it."),
            *_METRIC,
            *_interval("The mean over the test examples."),
            Column("difference", F64, "This experiment minus the one it is compared with, of the same system and "
                   "examples: `base`, or `low_resource_1` for a share.", False),
            Column("difference_low", F64, "Lower end of the paired bootstrap interval.", False),
            Column("difference_high", F64, "Upper end of the paired bootstrap interval.", False),
            Column("examples", I64, "Test examples scored."),
            Column("changes", S, "What differs from `base`, as JSON."),
            Column("made_from", S, "Hash of experiment, settings, tables and code: unchanged means nothing to do."),
            *_ORIGIN,
        ],
        levels=("experiment",),
        key=("system", "metric"),
        personal=(),
    ),
    _table(
        "experiment_ranks",
        "the rank one system gave one test example's target in one experiment",
        [
            Column("example_id", S, "The purchase's event_id."),
            Column("system", S, "ours_mixup, or another system."),
            Column("rank", I64, "1-based rank among the category's catalogue; null where it never ranks.", False),
        ],
        levels=("experiment",),
        key=("example_id", "system"),
        personal=(),
    ),
]  # fmt: skip

TABLES: dict[str, Table] = {table.name: table for table in _ALL}
