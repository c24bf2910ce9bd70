"""One module per subcommand of `nnunet_ssl`, with its name."""
