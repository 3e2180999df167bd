"""The language-model interface of lm-eval, and the tasks that are made from held-out text."""
