"""Methods for partial labels: some classes are annotated in some cases only."""
