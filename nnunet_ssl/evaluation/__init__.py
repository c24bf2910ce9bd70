"""From predictions to tables, tests and figures."""
