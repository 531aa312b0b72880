"""One run: training, its record, and the evaluation of what it trained."""
