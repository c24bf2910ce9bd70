"""Metrics, statistics, tables and figures of `nnunet_ssl compare`."""
