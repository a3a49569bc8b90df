"""Recformer's network over any bidirectional Hugging Face encoder (paper 2.2.2 to 2.2.4), and its encoding of many.

An encoder with absolute positions reads no more than it has: Longformer-base 4,096 tokens, BERT, RoBERTa and MiniLM
512. What is longer is cut before it comes here, the oldest steps first. Such an encoder also attends from every token
to every other, where the paper's Longformer has windows of 64 tokens and one global token, [CLS].
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ml.baselines.recformer_settings import RecformerSettings
from ml.baselines.recformer_text import RecformerText, TokenBatch
from ml.errors import BadInputError, HemlineError
from ml.memory.encoders import encoder_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKEN_TYPES = 4
_WINDOW = 64
"""Longformer's attention window (paper 3.1.4)."""
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
"""What encoders' configurations call it."""
_TOKENS_AT_ONCE = 8192
_BAR_ABOVE = 2000


def load_encoder(settings: RecformerSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the encoder (float32, without a pre-trained language head) and its tokenizer.

    Raises BadInputError where the folder, hub name or package holds no encoder in safetensors.
    """
    folder = encoder_folder(settings.encoder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if hasattr(config, "attention_window"):
            config.attention_window = [_WINDOW] * config.num_hidden_layers
        for name in _ATTENTION_DROPOUT:
            if settings.attention_dropout is not None and hasattr(config, name):
                setattr(config, name, settings.attention_dropout)
        encoder = AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"recformer.encoder {settings.encoder!r}: {folder} holds no encoder that transformers can load; expected "
            f"config.json, a tokenizer and *.safetensors ({error})"
        ) from error
    return encoder, tokenizer


def longest_input(encoder: PreTrainedModel) -> int | None:
    """Return how many tokens the encoder's position table allows; None where it has no such table."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and Longformer count positions from behind the padding's.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            rows = module.num_embeddings - unused
            return rows - rows % _WINDOW if hasattr(encoder.config, "attention_window") else rows
    return None


class RecformerNetwork(nn.Module):
    """The encoder with Recformer's two further embedding tables, token type and item position.

    Their sum with the word embeddings enters the encoder as `inputs_embeds`; the encoder adds its token position and
    normalises, which is equation 2. An encoder that has token types of its own (BERT: two) adds its first to every
    token as it always did. The new tables start random, as in the paper, with the encoder's own standard deviation.
    """

    def __init__(self, encoder: PreTrainedModel, settings: RecformerSettings) -> None:
        super().__init__()
        self.encoder = encoder
        words = encoder.get_input_embeddings()
        if not isinstance(words, nn.Embedding):
            raise BadInputError(f"recformer.encoder {settings.encoder!r}: it has no table of word embeddings")
        self.token_types = nn.Embedding(TOKEN_TYPES, words.embedding_dim)
        self.item_places = nn.Embedding(settings.max_items + 1, words.embedding_dim)
        spread = float(getattr(encoder.config, "initializer_range", 0.02))
        for table in (self.token_types, self.item_places):
            nn.init.normal_(table.weight, std=spread)
        self.width = int(getattr(encoder.config, "hidden_size", words.embedding_dim))
        self._global_attention = "global_attention_mask" in inspect.signature(encoder.forward).parameters
        self._train_newest(settings.trained_layers)

    @property
    def words(self) -> nn.Embedding:
        """The encoder's word embeddings, A of equation 2."""
        words = self.encoder.get_input_embeddings()
        assert isinstance(words, nn.Embedding)
        return words

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_types.weight.device

    def hidden(self, batch: TokenBatch) -> torch.Tensor:
        """Return the last hidden states h_w, float32 [n, longest, d] (equation 4); those of padding mean nothing."""
        ids, types, places = (torch.from_numpy(a).to(self.device) for a in (batch.ids, batch.types, batch.places))
        mask = torch.from_numpy(batch.mask).to(self.device).long()
        embedded = self.words(ids) + self.token_types(types) + self.item_places(places)
        options: dict[str, Any] = {"inputs_embeds": embedded, "attention_mask": mask}
        if self._global_attention:
            options["global_attention_mask"] = torch.zeros_like(mask).index_fill_(1, torch.zeros_like(mask[0, :1]), 1)
        return self.encoder(**options).last_hidden_state

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """Return h_[CLS] of each sequence or item at unit length, float32 [n, d]: products are cosines (equation 5)."""
        return functional.normalize(self.hidden(batch)[:, 0], dim=-1)

    def _train_newest(self, layers: int | None) -> None:
        """Freeze the encoder but its `layers` newest blocks; the new embedding tables always learn."""
        if layers is None:
            return
        depth = self.encoder.config.num_hidden_layers
        blocks = next(
            (m for m in self.encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth),
            None,
        )
        if blocks is None:
            raise BadInputError("recformer.trained_layers: this encoder's blocks were not found; set it to null")
        self.encoder.requires_grad_(False)
        for block in list(blocks)[-layers:]:
            block.requires_grad_(True)


class MaskedLanguageHead(nn.Module):
    """Equations 7 and 8: a dense layer with GELU and layer norm, and the words' scores.

    W_0 is the word embedding table itself, as in BERT and Longformer. The dense layer starts random: encoders that
    are loaded for their hidden states come without the head they were pre-trained with.
    """

    def __init__(self, network: RecformerNetwork) -> None:
        super().__init__()
        words = network.words
        self.dense = nn.Linear(network.width, words.embedding_dim)
        self.norm = nn.LayerNorm(words.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))

    def forward(self, hidden: torch.Tensor, words: nn.Embedding) -> torch.Tensor:
        """Return the logits of all words, float32 [n, words], for hidden states [n, d]."""
        return functional.linear(self.norm(functional.gelu(self.dense(hidden))), words.weight, self.bias)


def encode(
    network: RecformerNetwork, text: RecformerText, histories: Sequence[np.ndarray], what: str = "sequences"
) -> np.ndarray:
    """Return the unit vectors of histories, float32 [n, d], without gradients or dropout, in batches of like lengths.

    Raises HemlineError where the network gives something that is no number.
    """
    network.eval()
    lengths = text.lengths(histories)
    order = np.argsort(-lengths, kind="stable")
    vectors = np.empty((len(order), network.width), dtype=np.float32)
    read, started = 0, time.monotonic()
    bar = tqdm(
        total=len(order), desc=f"recformer {what}", unit="text", disable=None if len(order) > _BAR_ABOVE else True
    )
    with torch.inference_mode(), bar:
        done = 0
        while done < len(order):
            rows = order[done : done + max(1, _TOKENS_AT_ONCE // int(lengths[order[done]]))]
            batch = text.batch([histories[row] for row in rows])
            vectors[rows] = network(batch).cpu().numpy()
            done, read = done + len(rows), read + batch.tokens
            bar.update(len(rows))
            bar.set_postfix({"tokens/s": f"{read / max(time.monotonic() - started, 1e-9):,.0f}"}, refresh=False)
    if not np.isfinite(vectors).all():
        raise HemlineError(f"recformer: the encoder's vectors of {what} are not numbers; lower the learning rate")
    return vectors


def item_histories(items: np.ndarray) -> list[np.ndarray]:
    """Return items as sequences of one item each (paper 2.2.3)."""
    return [np.array([item], dtype=np.int64) for item in items]
