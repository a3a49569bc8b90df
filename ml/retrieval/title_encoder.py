"""The title encoder: an LSTM over word pieces that puts queries and titles into one space (paper 4.4).

Here: tokenizer, network, and the trained encoder as others use it. The training is in `title_training`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ml.errors import BadInputError
from ml.retrieval.files import load_weights, read_description
from ml.text import normalise_query

FORMAT = "hemline-title-encoder-1"
EMPTY = "[EMPTY]"
"""Padding, and the one token of a text without any."""
_CHARS_PER_TOKEN = 12
_PROGRESS_ABOVE = 20_000


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer of at most `vocabulary` pieces (never fewer than its 257 base pieces).

    Bytes make every Unicode text encodable without an unknown token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()  # type: ignore[assignment] - typed as read-only
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[EMPTY],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # a text that spells the special token stays text
    tokenizer.encode_special_tokens = True
    return tokenizer


class TitleNetwork(nn.Module):
    """Embedding, one LSTM, the mean of its outputs, a projection to unit length."""

    def __init__(self, vocabulary: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.pieces = nn.Embedding(vocabulary, dim)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.project = nn.Linear(hidden, dim)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [n, dim] of `tokens` [n, longest], padded on the right, with `lengths` [n] > 0.

        The LSTM reads left to right, so what stands behind a text's end changes nothing before it.
        """
        outputs, _ = self.lstm(self.pieces(tokens))
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        mean = (outputs * inside[..., None]).sum(dim=1) / lengths[:, None]
        return functional.normalize(self.project(mean), dim=-1)


class TitleEncoder:
    """A trained title encoder.

    Attributes:
        dim: length of a vector.
    """

    def __init__(self, tokenizer: Tokenizer, network: TitleNetwork, description: dict[str, Any]) -> None:
        """`description`: `dim`, `hidden` and `max_tokens`."""
        self.tokenizer = tokenizer
        self.network = network
        self.dim: int = description["dim"]
        self._description = description

    @classmethod
    def untrained(
        cls, texts: Iterable[str], vocabulary: int, *, dim: int, hidden: int, max_tokens: int
    ) -> TitleEncoder:
        """Return an encoder with a tokenizer for `texts` and random weights (torch's global seed)."""
        tokenizer = train_tokenizer(texts, vocabulary)
        network = TitleNetwork(tokenizer.get_vocab_size(), dim, hidden)
        return cls(tokenizer, network, {"dim": dim, "hidden": hidden, "max_tokens": max_tokens})

    def tokenize(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Return each text's token ids: normalised as queries are, cut to `max_tokens`, never empty."""
        limit = self._description["max_tokens"]
        normal = [normalise_query(t, _CHARS_PER_TOKEN * limit) for t in texts]
        empty = self.tokenizer.token_to_id(EMPTY)
        encodings = self.tokenizer.encode_batch_fast(normal, add_special_tokens=False)
        return [torch.tensor(e.ids[:limit] or [empty]) for e in encodings]

    def embed(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return unit vectors [n, dim] of token ids, in one batch, on the network's device, with gradients."""
        device = self.network.project.weight.device
        lengths = torch.tensor([len(t) for t in tokens], device=device)
        padded = pad_sequence(list(tokens), batch_first=True).to(device)
        return self.network(padded, lengths)

    def encode(self, texts: Sequence[str], batch_size: int = 512) -> np.ndarray:
        """Return float32 [n, dim] unit vectors; equal texts get equal vectors."""
        distinct = list(dict.fromkeys(texts))
        vectors = self.encode_tokens(self.tokenize(distinct), batch_size)
        if len(distinct) == len(texts):
            return vectors
        place = {text: i for i, text in enumerate(distinct)}
        return vectors[[place[t] for t in texts]]

    def encode_tokens(self, tokens: Sequence[torch.Tensor], batch_size: int = 512) -> np.ndarray:
        """Return float32 [n, dim] unit vectors of token ids, encoded in batches of similar lengths."""
        self.network.eval()
        result = np.empty((len(tokens), self.dim), dtype=np.float32)
        order = np.argsort([len(t) for t in tokens], kind="stable")
        quiet = True if len(tokens) <= _PROGRESS_ABOVE else None
        with torch.inference_mode(), tqdm(total=len(tokens), desc="titles", unit="title", disable=quiet) as progress:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                result[rows] = self.embed([tokens[r] for r in rows]).cpu().numpy()
                progress.update(len(rows))
        return result

    def save(self, folder: Path) -> None:
        """Write `title_encoder.safetensors`, `title_encoder.json` and `tokenizer.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.cpu().contiguous() for k, v in self.network.state_dict().items()}
        save_file(state, folder / "title_encoder.safetensors")
        description = {"format": FORMAT, **self._description}
        (folder / "title_encoder.json").write_text(json.dumps(description), encoding="utf-8")
        self.tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(cls, folder: Path) -> TitleEncoder:
        """Read what `save` wrote; raises `BadInputError` naming the file if it is anything else."""
        description = read_description(folder, "title_encoder.json", FORMAT)
        del description["format"]
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise BadInputError(f"{folder / 'tokenizer.json'}: not a tokenizer ({error})") from error
        tokenizer.encode_special_tokens = True
        try:
            network = TitleNetwork(tokenizer.get_vocab_size(), description["dim"], description["hidden"])
            description["max_tokens"] = int(description["max_tokens"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            path = folder / "title_encoder.json"
            raise BadInputError(f"{path}: does not describe a title encoder ({error!r})") from error
        load_weights(network, folder / "title_encoder.safetensors")
        return cls(tokenizer, network, description)
