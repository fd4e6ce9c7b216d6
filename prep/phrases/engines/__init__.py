"""The engines that answer the phrase prompt: vLLM, or any OpenAI-compatible endpoint."""
