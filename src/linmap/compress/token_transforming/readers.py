"""What stands around the blocks and reads their tokens: output objects, pooling heads, larger models.

Fewer tokens must not change what these compute silently. A mean over tokens becomes the mass-weighted mean, a head
that attends gets the masses as a bias, and a model that reads tokens in an unknown way gets all N of them, restored.
(The plain mean of restored tokens is the mass-weighted mean: the rows of R sum to what each output stands for.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from linmap.compress.token_transforming.blocks import bias_of
from linmap.compress.token_transforming.patches import Patch
from linmap.errors import ArgumentError

if TYPE_CHECKING:
    from linmap.compress.token_transforming.encoder_handle import CompressedEncoder

Reading = Literal["as they are", "mean", "restored"]
MEAN_HEADS = (
    "Dinov2ForImageClassification",
    "Dinov2WithRegistersForImageClassification",
    "CLIPForImageClassification",
    "SiglipForImageClassification",
)
"""Classifiers that take the plain mean of the tokens after the prefix."""
CLASS_TOKEN_HEADS = (
    "ViTForImageClassification",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "CLIPModel",
    "CLIPVisionModelWithProjection",
    "SiglipModel",
    *(
        f"{name}For{task}"
        for name in ("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "Data2VecText")
        for task in ("SequenceClassification", "MultipleChoice", "NextSentencePrediction")
    ),
)
"""Models that read the class token, or the encoder's own pooled output, and nothing else of the tokens."""


class EncoderForward(Patch):
    """The forward of an encoder of Transformers: takes the padding, and hands out the tokens as they will be read."""

    def __init__(self, handle: CompressedEncoder, module: nn.Module) -> None:
        super().__init__(module)
        self.handle = handle
        names = list(self.__signature__.parameters)
        self.mask_place = names.index("attention_mask") if "attention_mask" in names else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        place = self.mask_place
        mask = kwargs.get("attention_mask")
        if mask is None and place is not None and len(args) > place:
            mask = args[place]
        as_tuple = (
            kwargs.pop("return_dict", getattr(getattr(self.module, "config", None), "return_dict", True)) is False
        )
        self.handle.expect_padding(mask, kwargs.get("input_ids", args[0] if args else None))
        output = self.plain(*args, **kwargs)
        output = self._read(output)
        return output.to_tuple() if as_tuple else output

    def _read(self, output: Any) -> Any:
        flow = self.handle.flow()
        reading = self.handle.reading
        if flow is None or not flow.transforms or reading == "as they are" or self.handle.restores == "block":
            return output
        if reading == "mean":
            output["last_hidden_state"] = self._pooled(output.last_hidden_state)
            return output
        last = len(self.handle.encoder.blocks) - 1
        output["last_hidden_state"] = self.handle.restore(output.last_hidden_state, layer=last)
        states = getattr(output, "hidden_states", None)
        if states is not None:
            output["hidden_states"] = tuple(
                None if state is None else self.handle.restore(state, layer=layer)
                for layer, state in enumerate(states, -1)
            )
        return output

    def _pooled(self, x: Tensor) -> Tensor:
        """Prefix tokens and one more, the mass-weighted mean of the others."""
        prefix = self.handle.encoder.prefix_tokens
        return torch.cat([x[:, :prefix], self.handle.pool(x, skip=prefix).unsqueeze(1)], 1)


class FeaturesForward(Patch):
    """`forward_features` of a ViT of timm's form, or its `forward` where that gives tokens: restored to N of them."""

    def __init__(self, handle: CompressedEncoder, module: nn.Module, name: str) -> None:
        super().__init__(module, name)
        self.handle = handle

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.plain(*args, **kwargs)
        flow = self.handle.flow()
        if flow is None or not flow.transforms:
            return y
        if not isinstance(y, Tensor) or y.ndim != 3 or y.shape[1] != flow.count:
            raise ArgumentError(
                f"restore='end' needs a model that gives tokens, and {type(self.module).__name__}.{self.name} gives "
                f"{tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__}; use restore=None."
            )
        return self.handle.restore(y, layer=len(self.handle.encoder.blocks) - 1)


class PoolForward(Patch):
    """`pool` of a ViT of timm's form that averages: the mass-weighted mean of the tokens after the prefix."""

    def __init__(self, handle: CompressedEncoder, module: nn.Module) -> None:
        super().__init__(module, "pool")
        self.handle = handle

    def __call__(self, x: Tensor, pool_type: str | None = None, *args: Any, **kwargs: Any) -> Any:
        flow = self.handle.flow()
        kind = getattr(self.module, "global_pool", None) if pool_type is None else pool_type
        if flow is None or not flow.transforms or self.handle.restores == "block" or kind in ("", "token"):
            return self.plain(x, pool_type, *args, **kwargs)
        if kind != "avg":
            raise ArgumentError(f"pool_type={kind!r} is not known for merged tokens; 'avg', 'token' and '' are.")
        return self.handle.pool(x, skip=self.handle.encoder.prefix_tokens)


class AttentionPoolMask:
    """A hook before the attention of SigLIP's pooling head: the probe attends to tokens by what they stand for."""

    def __init__(self, handle: CompressedEncoder) -> None:
        self.handle = handle

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        flow = self.handle.flow()
        if flow is None or not flow.transforms or self.handle.restores == "block":
            return None
        query = args[0] if args else kwargs["query"]
        bias = bias_of(flow, query.dtype)
        if bias is None:
            return None
        shape = (flow.batch, module.num_heads, query.shape[1], flow.count)
        return args, kwargs | {"attn_mask": bias.expand(shape).reshape(-1, *shape[2:])}


class SentencePooling:
    """A hook before SentenceTransformers' pooling where tokens were dropped: the masses are the weights of its mean."""

    def __init__(self, handle: CompressedEncoder) -> None:
        self.handle = handle

    def __call__(self, module: Any, args: tuple[Any, ...]) -> Any:
        flow = self.handle.flow()
        if flow is None or not flow.transforms or self.handle.restores is not None:
            return None
        features = dict(args[0])
        modes = module.pooling_mode
        modes = {modes} if isinstance(modes, str) else set(modes)
        if not modes <= {"mean", "mean_sqrt_len_tokens"} or (not module.include_prompt and "prompt_length" in features):
            raise ArgumentError(
                f"a pooling of {', '.join(sorted(modes))} is not known for a transformation that drops tokens; take "
                "one that merges them, or restore='end' with pruned='nearest'."
            )
        features["attention_mask"] = flow.masses()
        return (features, *args[1:])
