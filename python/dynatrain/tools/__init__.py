"""The `dynatrain` command."""
