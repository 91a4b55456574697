"""lmx: experiments with language models. Hydra configuration, pure JAX, from a laptop to TPU pods."""
