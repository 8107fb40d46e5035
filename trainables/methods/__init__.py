"""One file a method. A file names its `VIEWS`, whether it has a `PREDICTOR`, and its `loss`."""
