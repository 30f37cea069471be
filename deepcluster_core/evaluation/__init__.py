"""The evaluations, one package a task, each with the reader of its data set."""
