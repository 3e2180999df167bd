"""What a run will need before it is started: memory per GPU, communication and time of a step.

    python -m training.plan configs/340m-softpick.yaml --gpus 8 --memory 80

Sizes are found by taking a step on tensors that have shapes and no memory (`sizes`), divided among GPUs by the rules of
each way of sharding (`sharding`), and put together (`estimate`). The plan of a model is another: `models.plan`.
"""
