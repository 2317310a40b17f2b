"""Makes vLLM know our checkpoints: it calls `register` at start-up, by the entry point `vllm.general_plugins`."""


def register() -> None:
    """Our classes for transformers' Auto classes, and vLLM's Transformers backend for our architecture."""
    from vllm import ModelRegistry

    import mllm.processing  # noqa: F401  registers config and processor with transformers
    from mllm.modeling import MusicLMForConditionalGeneration

    backend = "vllm.model_executor.models.transformers:TransformersMultiModalForCausalLM"
    ModelRegistry.register_model(MusicLMForConditionalGeneration.__name__, backend)
