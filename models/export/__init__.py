"""Export: a run as a folder that Hugging Face's transformers opens, with its code, tokenizer and model card.

    python -m models.export runs/NAME DIR
    python -m models.export runs/NAME DIR --push USER/NAME

A command, which stands above all packages; what it exports is `models.huggingface`.
"""
