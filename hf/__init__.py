"""Runs to and from Hugging Face folders: configuration, weights, tokenizer, model card."""
